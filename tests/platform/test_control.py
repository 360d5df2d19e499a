"""The control plane on a real broker: in order, acked after the effect, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from agents.platform.contract import apply_contract, load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import DeadLetters
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer
from agents.platform.retry import Backoff, Permanent, Transient
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.errors import FormatError, LucidError
from tests.conftest import Stack
from tests.platform.topics import committed
from tests.waiting import until

Handle = Callable[[str, Record], Awaitable[None]]


@dataclass
class Bench:
    """A topic of its own, and planes that read it."""

    settings: Settings
    producer: Producer
    topic: str
    letters: str
    seen: list[str] = field(default_factory=list)

    async def send(self, *values: str) -> None:
        for value in values:
            await self.producer.send(self.topic, value.encode(), key=b"k")

    def plane(self, handle: Handle) -> ControlPlane:
        metrics = Metrics("test", version="0")
        letters = DeadLetters(self.producer, topic=self.letters, service="t", metrics=metrics)
        plane = ControlPlane(
            self.settings, "test", letters=letters, metrics=metrics,
            backoff=lambda: Backoff(0.05, 0.1),
        )  # fmt: skip
        plane.consume(self.topic, parse, handle)
        return plane

    async def ignore(self, text: str, record: Record) -> None:
        """A handler of what nobody looks at."""

    async def run(self, handle: Handle, done: Callable[[], bool]) -> None:
        """Run a plane until a condition holds, then stop it as a service would."""
        plane, stop = self.plane(handle), StopSignal()
        running = asyncio.create_task(plane.run(stop))
        try:
            await until(lambda: done() or running.done())
        finally:
            stop.set()
            await asyncio.wait_for(running, 15)

    async def committed(self) -> int:
        """The sum of the group's committed offsets."""
        group = f"{self.settings.topic_prefix}test"
        return sum((await committed(self.settings, group, self.topic)).values())


def parse(record: Record) -> str:
    text = (record.value or b"").decode()
    if text.startswith("bad"):
        raise FormatError(f"{text} is not good")
    return text


@pytest.fixture
async def bench(stack: Stack, tmp_path: Path) -> AsyncIterator[Bench]:
    prefix = f"p{uuid4().hex[:8]}."
    settings = Settings.load(home=tmp_path, kafka=stack.kafka, topic_prefix=prefix)
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Producer(settings, contract.limits) as producer:
        yield Bench(
            settings, producer, contract.topic("session.events").full_name,
            contract.topic("dead.letters").full_name,
        )  # fmt: skip


async def test_events_are_handled_in_order_and_committed_after_their_effect(bench: Bench) -> None:
    async def handle(text: str, _: Record) -> None:
        bench.seen.append(text)

    await bench.send(*(f"e{n}" for n in range(50)))
    await bench.run(handle, lambda: len(bench.seen) == 50)
    assert bench.seen == [f"e{n}" for n in range(50)]
    assert await bench.committed() == 50
    await bench.send("later")
    await bench.run(handle, lambda: len(bench.seen) == 51)
    assert bench.seen[-1] == "later"


async def test_what_cannot_be_taken_becomes_a_dead_letter_and_stops_nothing(bench: Bench) -> None:
    async def handle(text: str, _: Record) -> None:
        if text == "never":
            raise Permanent("it will never work")
        bench.seen.append(text)

    await bench.send("a", "bad1", "never", "b")
    await bench.run(handle, lambda: "b" in bench.seen)
    assert bench.seen == ["a", "b"]
    assert await bench.committed() == 4
    letters = [letter async for letter in read_topic(bench.settings, bench.letters)]
    assert [letter.value for letter in letters] == [b"bad1", b"never"]


async def test_trouble_that_passes_is_tried_again_before_the_next_event(bench: Bench) -> None:
    tries = 0

    async def handle(text: str, _: Record) -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise Transient("not yet")
        bench.seen.append(text)

    await bench.send("a", "b")
    await bench.run(handle, lambda: len(bench.seen) == 2)
    assert (bench.seen, tries) == (["a", "b"], 5)


async def test_an_event_that_is_not_finished_is_not_committed_and_comes_again(
    bench: Bench,
) -> None:
    async def handle(text: str, _: Record) -> None:
        bench.seen.append(text)
        if text == "b" and bench.seen.count("b") < 3:
            raise Transient("not in this life")

    await bench.send("a", "b", "c")
    stuck = bench.plane(handle)
    stop = StopSignal()
    running = asyncio.create_task(stuck.run(stop))
    await until(lambda: "b" in bench.seen)
    stop.set()
    await asyncio.wait_for(running, 15)
    assert await bench.committed() in (1, 2, 3)
    await bench.run(handle, lambda: "c" in bench.seen)
    assert await bench.committed() == 3
    assert bench.seen.count("a") == 1


async def test_a_bug_stops_the_plane_and_commits_nothing_over_its_event(bench: Bench) -> None:
    async def handle(text: str, _: Record) -> None:
        if text == "b":
            raise ZeroDivisionError("a bug")
        bench.seen.append(text)

    await bench.send("a", "b", "c")
    with pytest.raises(ZeroDivisionError):
        await bench.run(handle, lambda: False)
    assert bench.seen == ["a"]
    assert await bench.committed() <= 1


async def test_records_that_come_soon_after_one_another_are_handled_together(bench: Bench) -> None:
    batches: list[int] = []

    async def take(records: Sequence[Record]) -> dict[int, LucidError]:
        batches.append(len(records))
        return {}

    plane, stop = bench.plane(bench.ignore), StopSignal()
    plane.consume_many(bench.letters, take, most=30, gather=0.5)
    running = asyncio.create_task(plane.run(stop))
    try:
        await bench.producer.send(bench.letters, b"0", key=b"k")
        await until(lambda: bool(batches) or running.done())
        for number in range(10):
            await bench.producer.send(bench.letters, b"%d" % number, key=b"k")
        await until(lambda: sum(batches) == 11 or running.done())
        assert batches[0] == 1
        assert len(batches) < 9, "each came alone"
        # There is a most for one call.
        await asyncio.gather(
            *(bench.producer.send(bench.letters, b"x", key=b"k") for _ in range(95))
        )
        await until(lambda: sum(batches) == 106 or running.done())
        assert max(batches) == 30
    finally:
        stop.set()
        await asyncio.wait_for(running, 15)
