"""A broker that has just started may not name a topic yet when its partitions are handed out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from agents.platform.contract import load_contract
from agents.platform.control import Record
from agents.platform.hearing import Hearing
from agents.platform.retry import Unreachable
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from tests.conftest import Stack
from tests.e2e.forwarder import Forwarder
from tests.platform.test_control import Bench, bench
from tests.platform.test_dataplane import PARTITIONS, Group, Log, group
from tests.waiting import until

__all__ = ["bench", "group"]


class Blind:
    """From when partitions are handed out until it is open, nobody is told of any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.open = threading.Event(), threading.Event()
        known = ClusterMetadata.partitions_for_topic
        assign = RoundRobinPartitionAssignor.assign.__func__  # type: ignore[attr-defined]

        def partitions(cluster: ClusterMetadata, topic: str) -> Any:
            blind = self.asked.is_set() and not self.open.is_set()
            return None if blind else known(cluster, topic)

        def assigning(cls: Any, *arguments: Any) -> Any:
            self.asked.set()
            return assign(cls, *arguments)

        monkeypatch.setattr(ClusterMetadata, "partitions_for_topic", partitions)
        monkeypatch.setattr(RoundRobinPartitionAssignor, "assign", classmethod(assigning))


async def test_the_data_plane_gets_its_partitions_once_the_topic_is_known(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    await group.send(2)
    blind, log = Blind(monkeypatch), Log()
    runner, _ = group.runner(log)
    await until(blind.asked.is_set)
    assert not runner.assigned
    blind.open.set()
    await until(lambda: len(log.done) == 2 * PARTITIONS)


async def test_the_control_plane_gets_its_partitions_once_the_topic_is_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(text: str, _: Record) -> None:
        bench.seen.append(text)

    await bench.send("a", "b")
    blind, stop = Blind(monkeypatch), StopSignal()
    running = asyncio.create_task(bench.plane(handle).run(stop))
    try:
        await until(blind.asked.is_set)
        blind.open.set()
        await until(lambda: bench.seen == ["a", "b"])
    finally:
        stop.set()
        await asyncio.wait_for(running, 15)


@pytest.fixture
async def hearing(bench: Bench) -> AsyncIterator[Hearing]:
    async with Hearing(
        bench.settings,
        group=f"{bench.settings.topic_prefix}test",
        topic=load_contract(bench.settings).topic("session.events"),
        patience=0.5,
    ) as found:
        yield found


async def test_a_group_that_reads_nothing_does_not_hear(bench: Bench, hearing: Hearing) -> None:
    async def handle(text: str, _: Record) -> None:
        bench.seen.append(text)

    assert await hearing.hears(), "nothing was sent"
    await bench.send("a", "b")
    assert await hearing.hears(), "there was no time to read it"
    await _until_it_hears(hearing, False)
    await bench.run(handle, lambda: len(bench.seen) == 2)
    await _until_it_hears(hearing, True)
    await bench.send("c")
    await hearing.hears()
    await _until_it_hears(hearing, False)


async def _until_it_hears(hearing: Hearing, wanted: bool) -> None:
    async def look() -> bool:
        return await hearing.hears() is wanted

    await until(look, f"hearing that is {wanted}", 20, every=0.05)


async def test_a_broker_that_does_not_answer_is_said_and_asked_again(
    stack: Stack, bench: Bench, tmp_path: Path
) -> None:
    host, _, port = stack.kafka.partition(":")
    forwarder = Forwarder((host, int(port)))
    settings = Settings.load(home=tmp_path, kafka=f"127.0.0.1:{forwarder.port}")
    topic = load_contract(bench.settings).topic("session.events")
    async with Hearing(settings, group="g", topic=topic, patience=0.5) as hearing:
        forwarder.down()
        with pytest.raises(Unreachable):
            await hearing.hears()
        forwarder.up()
        assert await hearing.hears()
    forwarder.down()
