"""Sending with producers that stall, refuse or never answer: nothing of it is hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.structs import RecordMetadata, TopicPartition

from agents.load.content import Content
from agents.load.driver import Driver
from agents.load.latency import Latencies
from agents.load.schedule import Arrival, Plan
from agents.load.session import Identity
from agents.platform.contract import load_contract
from agents.platform.producer import RecordTooLarge, Sending, SendRefused
from agents.platform.settings import Settings
from schemas.events import ManifestStored, SessionEvent
from schemas.frames import FrameRecord, Kind, from_kafka
from tests.factories import RECORDER
from tests.factories import Identity as Age

CONTENT = Content("made", (b"x" * 1000,), 1.0)
DONE = RecordMetadata("t", 0, TopicPartition("t", 0), 0, 0, 0, 0)


class Broker:
    """Takes records as a producer does; `rule` decides what becomes of a frame record."""

    def __init__(self, rule: Callable[[FrameRecord], Any]) -> None:
        self.taken: list[FrameRecord] = []
        self._rule = rule

    async def submit(
        self, topic: str, value: bytes, *, key: bytes, headers: list[Any], **_: Any
    ) -> Sending:
        record = from_kafka(key, headers, value)
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        answer = self._rule(record)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            if not isinstance(answer, SendRefused):
                raise answer
            future.set_exception(answer)
        elif answer is not False:
            self.taken.append(record)
            future.set_result(DONE)
        return Sending(topic, len(value), 0, future)

    async def acknowledged(self, sending: Sending) -> RecordMetadata:
        return await sending.future

    async def send(self, *_: Any, **__: Any) -> RecordMetadata:
        return DONE


def _driver(plan: Plan, patience: float = 5.0) -> Driver:
    identity = Identity(RECORDER, [Age.new().recipient], "h", "lucid-load", "run", "made")
    contract = load_contract(Settings.load())
    return Driver(contract, plan, CONTENT, identity, patience=patience)


async def _run(plan: Plan, rule: Callable[[FrameRecord], Any], **more: Any) -> Driver:
    driver = _driver(plan, **more)
    await driver.run(Broker(rule), 8)  # type: ignore[arg-type]
    return driver


async def test_a_stall_counts_for_every_record_that_was_due_in_it() -> None:
    """A closed loop would see one slow record; here all that should have gone are late."""
    plan = Plan(1, 100_000.0, 1.5, Arrival.AT_ONCE)
    stalled = False

    async def stall() -> None:
        await asyncio.sleep(0.8)

    def rule(record: FrameRecord) -> Any:
        nonlocal stalled
        if record.seq == 20 and not stalled:
            stalled = True
            return stall()
        return None

    driver = await _run(plan, rule)
    summary = driver.confirmed.summary()
    assert summary is not None
    assert summary.count == driver.sent == driver.acknowledged
    assert summary.most >= 0.79
    # 100 records a second, of which about 80 were due while nothing moved.
    assert summary.p50 >= 0.1
    late = driver.late.summary()
    assert late is not None
    assert late.most >= 0.7


async def test_refused_records_are_counted_by_number_and_told() -> None:
    def rule(record: FrameRecord) -> Any:
        if record.kind is Kind.FRAMES and record.seq == 3:
            return RecordTooLarge("a record is too large")
        return SendRefused("the broker refused a record") if record.seq == 5 else None

    driver = await _run(Plan(2, 10_000.0, 1.0, Arrival.AT_ONCE), rule)
    assert [sorted(one.failed) for one in driver.sessions.values()] == [[3, 5]] * 2
    assert driver.failed == 4
    assert driver.sent == driver.acknowledged + 4
    assert sorted(driver.problems) == [
        "records were not taken: a record is too large",
        "records were not taken: the broker refused a record",
    ]
    assert not driver.broken


async def test_a_broker_that_falls_silent_is_given_up() -> None:
    driver = await _run(
        Plan(2, 10_000.0, 60.0, Arrival.AT_ONCE),
        lambda record: False if record.seq > 3 else None, patience=0.5,
    )  # fmt: skip
    assert driver.broken
    assert driver.outstanding > 0
    assert len(driver.problems) == 1
    assert "the broker confirmed nothing for" in driver.problems[0]


async def test_a_stop_closes_every_session_that_has_begun() -> None:
    driver = _driver(Plan(3, 10_000.0, 60.0, Arrival.EVEN, 90.0))
    broker = Broker(lambda _: None)
    running = asyncio.create_task(driver.run(broker, 8))  # type: ignore[arg-type]
    while driver.sent < 3:
        await asyncio.sleep(0.01)
    driver.stop()
    await asyncio.wait_for(running, 5)
    assert len(driver.sessions) == 1
    assert broker.taken[-1].kind is Kind.CLOSE
    assert driver.stopped


async def test_events_of_others_and_what_is_no_event_are_passed_over() -> None:
    driver = await _run(Plan(1, 10_000.0, 1.0, Arrival.AT_ONCE), lambda _: None)
    (name,) = driver.sessions
    other = "0190b3c5-7a00-7000-8000-000000000001"
    rounds = 0

    class Record:
        def __init__(self, key: bytes, headers: Any, value: bytes) -> None:
            self.key, self.headers, self.value = key, headers, value

    def event(session: str) -> Record:
        data = ManifestStored(session=session, manifest_hash="ab" * 32)
        return Record(*SessionEvent(data, "lucid/storage/h", session).to_kafka())

    async def poll(_: float) -> list[Any]:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            return [event(other), Record(name.encode(), [], b"no event"), event(name)]
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await driver.hear(poll)
    assert driver.settled == {name}


def test_percentiles_hold_three_digits_and_slices_start_anew() -> None:
    found = Latencies()
    for number in range(1, 1001):
        found.add(number / 1000)
    one = found.slice()
    assert one is not None
    assert abs(one.p50 - 0.5) < 0.001
    assert abs(one.p99 - 0.99) < 0.002
    assert found.slice() is None
    found.add(-1.0)
    again = found.summary()
    assert again is not None
    assert (again.count, round(again.most, 2)) == (1001, 1.0)
