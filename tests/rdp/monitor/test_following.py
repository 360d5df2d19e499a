"""Following topics: from the beginning, over lost connections, and when there is no broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agents.platform.contract import load_contract
from agents.platform.ports import free_port
from agents.platform.retry import Transient, Unreachable
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.rdp.monitor.following import Following
from agents.rdp.monitor.known import TOPICS
from schemas.errors import FormatError

NAMES = ("xrdp.process.events", "xrdp.config.events")


@dataclass
class Record:
    topic: str
    offset: int
    partition: int = 0


@dataclass
class Log:
    """A broker's topics, each of one partition, and its faults."""

    records: dict[str, list[int]]
    """Offsets that there are."""
    ends: dict[str, int]
    faults: list[Exception] = field(default_factory=list)
    connections: int = 0

    def __call__(self, **_: Any) -> Consumer:
        self.connections += 1
        return Consumer(self)


@dataclass
class Consumer:
    """As much of a consumer as following takes."""

    log: Log
    at: dict[Any, int] = field(default_factory=dict)

    async def start(self) -> None:
        if self.log.faults:
            raise self.log.faults.pop(0)

    async def stop(self) -> None: ...

    def assign(self, places: Any) -> None: ...

    async def beginning_offsets(self, places: Any) -> dict[Any, int]:
        return {one: min(self.log.records[one.topic], default=0) for one in places}

    async def end_offsets(self, places: Any) -> dict[Any, int]:
        return {one: self.log.ends[one.topic] for one in places}

    def seek(self, place: Any, offset: int) -> None:
        self.at[place] = offset

    async def position(self, place: Any) -> int:
        return self.at[place]

    async def getmany(self, timeout_ms: int) -> dict[Any, list[Record]]:
        await asyncio.sleep(0)
        found: dict[Any, list[Record]] = {}
        for place, at in self.at.items():
            offsets = [one for one in self.log.records[place.topic] if one >= at][:2]
            if offsets:
                found[place] = [Record(place.topic, one) for one in offsets]
                self.at[place] = offsets[-1] + 1
            else:
                self.at[place] = max(at, self.log.ends[place.topic])
        if not found and self.log.faults:
            raise self.log.faults.pop(0)
        return found


@dataclass
class House:
    """What follows, and what it was given."""

    log: Log
    following: Following
    taken: list[tuple[str, int]]
    unread: list[str]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    settings = Settings.load(home=tmp_path, kafka="127.0.0.1:9", topic_prefix="p.")
    first, second = (f"p.{name}" for name in NAMES)
    # The last offset of a compacted topic may be that of no record.
    log = Log({first: [3, 4, 5], second: [0, 7]}, {first: 6, second: 9})
    monkeypatch.setattr("agents.platform.listening.AIOKafkaConsumer", log)
    taken: list[tuple[str, int]] = []
    unread: list[str] = []

    def take(topic: str, record: Any) -> None:
        if record.offset == 4:
            raise FormatError("no event")
        taken.append((topic, record.offset))

    return House(
        log, Following(settings, load_contract(settings), NAMES, take, unread.append), taken, unread
    )


async def test_everything_is_taken_once_and_then_what_comes(house: House) -> None:
    stop = StopSignal()
    with pytest.raises(Transient, match="being read"):
        await house.following.healthy()
    running = asyncio.create_task(house.following.run(stop))
    async with asyncio.timeout(10):
        await house.following.caught_up.wait()
    assert sorted(house.taken) == [(NAMES[1], 0), (NAMES[1], 7), (NAMES[0], 3), (NAMES[0], 5)]
    assert house.unread == [NAMES[0]]
    await house.following.healthy()
    house.log.faults.append(OSError("the connection is lost"))
    house.log.records["p." + NAMES[0]].append(6)
    house.log.ends["p." + NAMES[0]] = 7
    async with asyncio.timeout(10):
        while house.log.connections < 2 or house.taken[-1] != (NAMES[0], 6):
            await asyncio.sleep(0.01)
    assert len(house.taken) == 5
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_a_topic_that_was_made_anew_is_read_from_its_beginning(house: House) -> None:
    stop = StopSignal()
    running = asyncio.create_task(house.following.run(stop))
    async with asyncio.timeout(10):
        await house.following.caught_up.wait()
        house.log.records["p." + NAMES[0]] = [0]
        house.log.ends["p." + NAMES[0]] = 1
        house.log.faults.append(OSError("the broker is another one"))
        while (NAMES[0], 0) not in house.taken:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_without_a_broker_it_says_so_and_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, kafka=f"127.0.0.1:{free_port()}")
    following = Following(settings, load_contract(settings), TOPICS, lambda topic, record: None)
    stop = StopSignal()
    running = asyncio.create_task(following.run(stop))
    async with asyncio.timeout(20):
        while following._trouble is None:
            await asyncio.sleep(0.02)
    with pytest.raises(Unreachable):
        await following.healthy()
    stop.set()
    await asyncio.wait_for(running, 10)
