"""A broker that is killed and comes back: both planes go on by themselves and lose nothing.

While it is away, or stands still, they stop in the time that a service has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.platform import stack as stack_api
from agents.platform.contract import apply_contract, load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import DeadLetters
from agents.platform.faust_app import LeavableThread
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer
from agents.platform.service import KILL_AFTER, STOP_WITHIN, StopSignal
from agents.platform.settings import Settings
from agents.platform.stack.processes import Identity, find
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

    def process(self) -> Identity:
        process = StackFolder(self.settings.stack_dir).read().servers["kafka"].process
        assert process is not None
        return process

    async def kill(self) -> None:
        process = self.process()
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: find(process) is None)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """SIGSTOP for the time of a block."""
        pid = self.process().pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    found = Broker(tmp_path)
    try:
        yield found
    finally:
        await asyncio.to_thread(stack_api.down, found.settings)


class Reading:
    """A control plane that has handled and committed one event, and is in the next one."""

    def __init__(self, producer: Producer, topic: str, group: str) -> None:
        metrics = Metrics("test", version="0")
        letters = DeadLetters(producer, topic="dead.letters", service="t", metrics=metrics)
        self.plane = ControlPlane(
            producer.settings, "test", letters=letters, metrics=metrics, group=group
        )
        self.plane.consume(topic, lambda record: (record.value or b"").decode(), self.handle)
        self.seen: list[str] = []
        self.go_on, self.stop = asyncio.Event(), StopSignal()
        self.running = asyncio.create_task(self.plane.run(self.stop))

    async def handle(self, text: str, _: Record) -> None:
        self.seen.append(text)
        if text == "second":
            await self.go_on.wait()

    def committed(self) -> list[int]:
        """What the broker is known to hold."""
        consumer: Any = self.plane.app.consumer
        return list(consumer._on_broker.values())

    def coordinator_gone(self) -> bool:
        """Whether aiokafka has noticed, and is looking for another broker."""
        consumer: Any = self.plane.app.consumer
        return consumer._thread._consumer._coordinator.coordinator_id is None

    async def end(self) -> float:
        """Stop it with a record finished that is not committed; seconds that were left."""
        self.go_on.set()
        self.stop.set()
        await asyncio.wait([self.running], timeout=STOP_WITHIN)
        assert self.running.done(), "the plane does not stop while no broker answers"
        self.running.result()
        assert self.committed() == [1]
        return self.stop.deadline.remaining()


async def stop_readings(broker: Broker, settings: Settings) -> None:
    """Control planes stop in time while the broker stands still, and after it is killed."""
    contract = load_contract(settings)
    topic = contract.topic("node.heartbeats").full_name
    async with Producer(settings, contract.limits) as producer:
        readings = [Reading(producer, topic, f"reading-{n}") for n in range(3)]
        still, killed, late = readings
        await producer.send(topic, b"first", key=b"k")
        await until(lambda: all(one.committed() == [1] for one in readings))
        await producer.send(topic, b"second", key=b"k")
        await until(lambda: all(one.seen == ["first", "second"] for one in readings))
        with broker.standing_still():
            assert await still.end() > 1
        await broker.kill()
        assert await killed.end() > 1
        await until(late.coordinator_gone)
        assert await late.end() > 1
        await producer.submit(topic, b"third", key=b"k")
        began = time.monotonic()
    assert time.monotonic() - began < KILL_AFTER - STOP_WITHIN + 0.5
    await until(
        lambda: not [one for one in threading.enumerate() if isinstance(one, LeavableThread)]
    )


async def test_a_broker_that_goes_away_ends_no_plane_and_holds_up_no_stop(broker: Broker) -> None:
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
    await stop_readings(broker, settings)
    began = time.monotonic()
    await group.stop()
    assert time.monotonic() - began < STOP_WITHIN, "a stop waits for a broker that is away"
