"""How many records may be refused, on both planes, before a service stops in front of the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import ConsumerRecord

from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.dataplane import Fail, OffsetTracker, Runner, Tasks
from agents.platform.deadletters import DeadLetters
from agents.platform.expiry import Expired
from agents.platform.letter_limit import WINDOW, LetterLimit, TooManyLetters
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer
from agents.platform.retry import Backoff, Deadline
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from agents.platform.topic_reader import read_topic
from schemas.deadletters import DeadLetter, from_kafka
from schemas.errors import FormatError, LucidError
from tests.conftest import Stack
from tests.platform.topics import committed

PLACE = ("session.frames", 3)
BAD = FormatError("it is bad", hint="Look at its producer")


class OneCause(LucidError):
    """Refuses everything of a key."""

    once_per_key = True


def refuse(limit: LetterLimit, *offsets: int, error: LucidError = BAD, key: bytes = b"k") -> None:
    for offset in offsets:
        limit.admit(PLACE, offset, key, error)


def test_the_record_over_the_limit_is_named_with_its_reason_and_what_to_do() -> None:
    limit = LetterLimit(2)
    refuse(limit, 5, 9)
    with pytest.raises(TooManyLetters) as caught:
        refuse(limit, 11)
    for part in ("session.frames-3", "offset 11", "FormatError", "it is bad", "dead-letters list",
                 "LUCID_DEAD_LETTER_LIMIT"):  # fmt: skip
        assert part in str(caught.value)
    assert caught.value.exit_status == 65
    assert limit.exceeded is caught.value


def test_other_partitions_have_limits_of_their_own_and_this_one_stays_over_it() -> None:
    now = 0.0
    limit = LetterLimit(1, clock=lambda: now)
    refuse(limit, 1)
    limit.admit(("session.frames", 4), 1, b"k", BAD)
    with pytest.raises(TooManyLetters):
        refuse(limit, 2)
    now = 2 * WINDOW
    with pytest.raises(TooManyLetters, match="offset 2"):
        refuse(limit, 3)
    limit.admit(("session.frames", 4), 2, b"k", BAD)


def test_an_hour_later_a_refusal_counts_no_more() -> None:
    now = 0.0
    limit = LetterLimit(2, clock=lambda: now)
    refuse(limit, 1)
    now = WINDOW - 1
    refuse(limit, 2)
    now = WINDOW
    assert limit.counted(PLACE) == 1
    refuse(limit, 3)
    with pytest.raises(TooManyLetters):
        refuse(limit, 4)


def test_the_same_record_counts_once_and_so_does_one_cause_of_a_key() -> None:
    limit = LetterLimit(3)
    refuse(limit, 1, 1, 1)
    assert limit.counted(PLACE) == 1
    refuse(limit, *range(10, 500), error=OneCause("no open record"), key=b"a")
    refuse(limit, *range(500, 900), error=OneCause("no open record"), key=b"b")
    assert limit.counted(PLACE) == 3
    with pytest.raises(TooManyLetters):
        refuse(limit, 901, error=OneCause("no open record"), key=b"c")


def test_a_limit_of_zero_refuses_nothing_at_all() -> None:
    with pytest.raises(TooManyLetters, match="offset 0"):
        refuse(LetterLimit(0), 0)


# On a real broker ------------------------------------------------------------------------------


@dataclass
class Bench:
    """Topics of their own; `session.chunks` has the records, all on one partition."""

    settings: Settings
    contract: Contract
    producer: Producer
    metrics: Metrics

    @property
    def topic(self) -> str:
        return self.contract.topic("session.chunks").full_name

    def letters(self, limit: int) -> DeadLetters:
        return DeadLetters(
            self.producer, topic=self.contract.topic("dead.letters").full_name, service="t",
            metrics=self.metrics, limit=LetterLimit(limit),
        )  # fmt: skip

    async def send(self, *values: str, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        for value in values:
            await self.producer.send(self.topic, value.encode(), partition=2, headers=[*headers])

    async def found(self) -> list[DeadLetter]:
        topic = self.contract.topic("dead.letters").full_name
        return [
            from_kafka(raw.key, raw.headers, raw.value)
            async for raw in read_topic(self.settings, topic)
        ]

    async def committed(self, group: str) -> int:
        return (await committed(self.settings, group, self.topic)).get(2, 0)

    def gauge(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "lucid_dead_letters_counted", {"service": "t", "topic": self.topic, "partition": "2"}
        )


@pytest.fixture
async def bench(stack: Stack, tmp_path: Path) -> AsyncIterator[Bench]:
    settings = Settings.load(home=tmp_path, kafka=stack.kafka, topic_prefix=f"ll{uuid4().hex[:8]}.")
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Producer(settings, contract.limits) as producer:
        yield Bench(settings, contract, producer, Metrics("t", version="0"))


class Refusing:
    """A worker as rooms have them: what starts with `bad` becomes a letter."""

    def __init__(self, letters: DeadLetters, seen: list[str], fail: Fail) -> None:
        self._letters, self._seen = letters, seen
        self._tracker, self._tasks = OffsetTracker(), Tasks(fail)
        self.headers: list[Any] = []

    async def start(self) -> None: ...

    def expected(self) -> int | None:
        return None

    async def expired(self, lost: Expired) -> None: ...

    async def take(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        for record in records:
            self._tracker.add(record.offset)
            self._tasks.spawn(self._keep(record), len(record.value or b""))

    async def _keep(self, record: ConsumerRecord[bytes, bytes]) -> None:
        text = (record.value or b"").decode()
        if text.startswith("bad") or record.headers:
            await self._letters.refuse(record, FormatError(f"{text} with {record.headers}"))
        else:
            self._seen.append(text)
        self._tracker.done(record.offset)

    def position(self) -> int | None:
        return self._tracker.position()

    def busy(self) -> int:
        return self._tasks.busy

    async def committed(self, offset: int) -> None: ...

    async def drain(self, deadline: Deadline) -> None:
        await self._tasks.drain(deadline)

    async def close(self) -> None:
        self._tasks.cancel()


async def run_data_plane(
    bench: Bench, letters: DeadLetters, seen: list[str], until: Callable[[], bool]
) -> None:
    runner = Runner(
        kafka=kafka_options(bench.settings), group=f"{bench.topic}.data", topics=[bench.topic],
        make_worker=lambda _, __, fail: Refusing(letters, seen, fail),
        busy_limit=10**6, fetch_bytes=65536,
    )  # fmt: skip
    await _run(runner.run, until)


async def run_control_plane(
    bench: Bench, letters: DeadLetters, seen: list[str], until: Callable[[], bool]
) -> None:
    def parse(record: Record) -> str:
        text = (record.value or b"").decode()
        if text.startswith("bad") or record.headers:
            raise FormatError(f"{text} with {record.headers}")
        return text

    async def handle(text: str, _: Record) -> None:
        seen.append(text)

    plane = ControlPlane(
        bench.settings, "control", letters=letters, metrics=bench.metrics,
        group=f"{bench.topic}.control", backoff=lambda: Backoff(0.05, 0.1),
    )  # fmt: skip
    plane.consume(bench.topic, parse, handle)
    await _run(plane.run, until)


async def _run(run: Callable[[Any], Any], until: Callable[[], bool]) -> None:
    stop = StopSignal()
    running = asyncio.create_task(run(stop))
    try:
        async with asyncio.timeout(25):
            while not (until() or running.done()):
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await asyncio.wait_for(running, 15)


PLANES = pytest.mark.parametrize(
    ("run", "group"), [(run_data_plane, "data"), (run_control_plane, "control")]
)


@PLANES
async def test_a_plane_stops_in_front_of_the_record_that_is_one_too_many(
    bench: Bench, run: Any, group: str
) -> None:
    await bench.send("a", "bad1", "bad2", "b", *(f"bad{n}" for n in range(3, 40)))
    letters = bench.letters(5)
    await letters.healthy()
    seen: list[str] = []
    with pytest.raises(TooManyLetters, match=rf"{bench.topic}-2 .* offset 7,"):
        await run(bench, letters, seen, lambda: False)
    assert [letter.offset for letter in await bench.found()] == [1, 2, 4, 5, 6]
    assert seen == ["a", "b"]
    assert await bench.committed(f"{bench.topic}.{group}") <= 7
    assert bench.gauge() == 5
    with pytest.raises(TooManyLetters):
        await letters.healthy()
    # Once more is allowed, everything comes: nothing was committed over.
    more = bench.letters(100)
    await bench.send("c")
    await run(bench, more, seen, lambda: "c" in seen)
    offsets = {letter.offset for letter in await bench.found()}
    assert offsets == {1, 2, *range(4, 41)}


@PLANES
async def test_a_replayed_record_is_read_as_it_was_and_its_next_letter_counts(
    bench: Bench, run: Any, group: str
) -> None:
    mark = ("lucid-replay", b"4 session.chunks/2/9")
    await bench.send("good", "bad", headers=[mark])
    await bench.send("odd", headers=[("lucid-replay", b"4 nowhere")])
    seen: list[str] = []
    await bench.send("end")
    await run(bench, bench.letters(5), seen, lambda: "end" in seen)
    assert seen == ["good", "end"]
    bad, odd = await bench.found()
    assert (bad.value, bad.headers, bad.tries, bad.first) == (b"bad", (), 4, "session.chunks/2/9")
    assert (odd.value, odd.tries) == (b"odd", 1)
    assert odd.headers == (("lucid-replay", b"4 nowhere"),)
    assert await bench.committed(f"{bench.topic}.{group}") == 4


async def test_a_letter_that_is_tried_again_because_the_broker_was_away_counts_once(
    bench: Bench,
) -> None:
    letters = bench.letters(1)
    record = Record("session.chunks", 2, 7, None, b"k", (), b"v")
    for _ in range(3):
        await letters.refuse(record, BAD)
    with pytest.raises(TooManyLetters):
        await letters.refuse(Record("session.chunks", 2, 8, None, b"k", (), b"v"), BAD)
    assert len(await bench.found()) == 3
