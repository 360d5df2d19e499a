"""A broker that is killed and comes back: both planes go on by themselves and lose nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.platform import stack as stack_api
from agents.platform.contract import apply_contract, load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import DeadLetters
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.stack.processes import find
from agents.platform.stack.state import StackFolder
from tests.platform.test_dataplane import PARTITIONS, Group, Log
from tests.platform.topics import create_topic
from tests.waiting import until


class Broker:
    """A broker of this test's own."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings.load(
            home=home, kafka=None, mongo="mongodb://127.0.0.1:9", redis="redis://127.0.0.1:9"
        )

    async def up(self) -> Settings:
        found = await asyncio.to_thread(stack_api.up, self.settings)
        return Settings.load(home=self.settings.home, kafka=found.kafka)

    async def kill(self) -> None:
        process = StackFolder(self.settings.stack_dir).read().servers["kafka"].process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: find(process) is None)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    found = Broker(tmp_path)
    try:
        yield found
    finally:
        await asyncio.to_thread(stack_api.down, found.settings)


async def test_a_broker_that_is_killed_and_started_again_ends_no_plane(broker: Broker) -> None:
    settings = await broker.up()
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    group, log, late, seen = Group(settings), Log(), Log(), []
    await create_topic(settings, group.topic, PARTITIONS)
    runner, running = group.runner(log)
    topic = contract.topic("session.events").full_name

    async def handle(text: str, _: Record) -> None:
        seen.append(text)

    async with Producer(settings, contract.limits) as producer:
        metrics = Metrics("test", version="0")
        letters = DeadLetters(producer, topic="dead.letters", service="t", metrics=metrics)
        plane, stop = ControlPlane(settings, "test", letters=letters, metrics=metrics), StopSignal()
        plane.consume(topic, lambda record: (record.value or b"").decode(), handle)
        controlling = asyncio.create_task(plane.run(stop))
        await group.send(3)
        await producer.send(topic, b"before", key=b"k")
        await until(lambda: len(log.done) == 3 * PARTITIONS and seen == ["before"])
        await broker.kill()
        _, starting = group.runner(late)
        # Its start fails meanwhile, and is tried again.
        await asyncio.sleep(1)
        await broker.up()
    async with Producer(settings, contract.limits) as producer:
        await group.send(3)
        await producer.send(topic, b"after", key=b"k")
    await until(
        lambda: len({*log.done, *late.done}) == 6 * PARTITIONS and "after" in seen, seconds=60
    )
    assert [one.done() for one in (running, starting, controlling)] == [False] * 3
    await runner.healthy()
    await plane.healthy()
    stop.set()
    await asyncio.wait_for(controlling, 15)
    await group.stop()
    await broker.kill()
    began = time.monotonic()
    await group.stop()
    assert time.monotonic() - began < 10, "a stop waits for a broker that is away"
