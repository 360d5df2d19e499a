"""Recordings on a real broker: what the topic holds afterwards, and how each one ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.platform.contract import apply_contract, load_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.session.recorder.order import EndedElsewhere, Order, Outlet, SpoolOrder
from agents.session.recorder.recording import Recording
from agents.session.recorder.roster import Roster
from agents.session.recorder.sources.base import Control, Emit, SourceError, SourceInfo
from schemas.chunks import follow
from schemas.commands import RecorderCommand
from schemas.controls import Close, Gap, Keepalive, Open
from schemas.datakey import derive, unwrap
from schemas.events import CommandDone, CommandRefused, SessionEvent, event_from_kafka
from schemas.frames import FrameRecord, Kind, chain_start, from_kafka
from schemas.notes import Commitment, open_note
from schemas.sessions import new_session_id
from tests.conftest import Stack
from tests.factories import RECORDER, START, Identity

AUDITOR = Identity.new()


class ListSource:
    """Hands over payloads, then ends as `after` says."""

    def __init__(self, count: int, after: Callable[[Control], None] = lambda _: None) -> None:
        self.count, self.after, self.closed = count, after, 0

    def open(self) -> SourceInfo:
        return SourceInfo("list", "bytes/1", {"count": self.count})

    def skip(self, frames: int, raw_bytes: int) -> None:
        raise AssertionError("nothing goes on here")

    def run(self, emit: Emit, control: Control) -> None:
        for number in range(self.count):
            control.wait_while_paused()
            emit(b"%d" % number, START - number)  # a clock that goes backwards
        self.after(control)

    def close(self) -> None:
        self.closed += 1


def until_stopped(control: Control) -> None:
    control.stopped.wait(30)
    control.check()


@dataclass
class Place:
    """A broker with the topics of one test."""

    settings: Settings
    outlet: Outlet
    order: Order

    async def read(self, topic: str, partition: int) -> list[Any]:
        """All records of a partition."""
        name = load_contract(self.settings).topic(topic).full_name
        records = read_topic(self.settings, name)
        return [raw async for raw in records if raw.partition == partition]

    async def frames(self, recording: Recording) -> list[FrameRecord]:
        raw = await self.read("session.frames", recording.partition)
        key = str(recording.session).encode()
        return [from_kafka(one.key, one.headers, one.value) for one in raw if one.key == key]

    async def events(self) -> list[SessionEvent]:
        topic = load_contract(self.settings).topic("session.events")
        found = []
        for partition in range(topic.partitions):
            raw = await self.read("session.events", partition)
            found += [event_from_kafka(one.key, one.headers, one.value) for one in raw]
        return found


@asynccontextmanager
async def place_on(stack: Stack, home: Path) -> AsyncIterator[Place]:
    settings = Settings.load(home=home, kafka=stack.kafka, topic_prefix=f"r{uuid4().hex[:8]}.")
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    frames = contract.topic("session.frames")
    async with Producer(settings, contract.limits) as producer:
        events = EventBus(producer, contract, service="recorder", host="desk")
        outlet = Outlet(settings, producer, events, frames.full_name, frames.partitions)
        yield Place(settings, outlet, order_in(home))


@pytest.fixture
async def place(stack: Stack, tmp_path: Path) -> AsyncIterator[Place]:
    async with place_on(stack, tmp_path) as found:
        yield found


def order_in(home: Path) -> Order:
    spool = SpoolOrder(home / "spool")
    return Order(RECORDER, [AUDITOR.recipient], "desk", spool, owner="ada", keepalive_every=0.05)


def check_chain(records: list[FrameRecord]) -> Commitment:
    """Every record follows from the one before, every note holds; the last commitment."""
    opened = Open.model_validate_json(records[0].payload)
    session = records[0].session
    key = derive(unwrap(opened.wrapped_key, [AUDITOR.secret]), session)
    assert [one.seq for one in records] == list(range(len(records)))
    assert all(a.time <= b.time for a, b in pairwise(records))
    notes = [one for one in records if one.kind in (Kind.KEEPALIVE, Kind.CLOSE)]
    commitment = Commitment(session, 0, b"")
    for record in notes:
        model = Close if record.kind is Kind.CLOSE else Keepalive
        note = model.model_validate_json(record.payload).note
        commitment = Commitment.parse(open_note(note, RECORDER.verifier))
        chain, seq, missing, counted = follow(
            records[: record.seq], chain_start(session), 0, key.chain
        )
        assert (commitment.records, commitment.chain) == (record.seq, chain)
        assert (seq, missing, counted) == (record.seq, 0, record.seq)
    return commitment


async def test_a_source_that_ends_is_closed_and_all_of_it_is_committed_to(place: Place) -> None:
    source = ListSource(30)
    recording = Recording(source, place.order, place.outlet)
    await recording.open()
    ended = await recording.run()
    records = await place.frames(recording)
    assert (ended.error, ended.frames, ended.records) == (None, 30, len(records))
    kinds = [one.kind for one in records]
    assert (kinds[0], kinds[-1], kinds.count(Kind.FRAMES)) == (Kind.OPEN, Kind.CLOSE, 30)
    assert [one.payload for one in records if one.kind is Kind.FRAMES] == [
        b"%d" % number for number in range(30)
    ]
    assert check_chain(records).closed == ended.reason == "end of the source"
    assert source.closed == 1
    types = [one.type for one in await place.events()]
    assert (types[0], types[-1]) == ("lucid.session.opened.v1", "lucid.session.closed.v1")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (SourceError("the display went away"), "the display went away"),
        (ZeroDivisionError("oh"), "the source failed: ZeroDivisionError('oh')"),
    ],
)
async def test_a_source_that_fails_leaves_a_gap_and_a_close(
    place: Place, failure: Exception, reason: str
) -> None:
    def fail(_: Control) -> None:
        raise failure

    recording = Recording(ListSource(3, fail), place.order, place.outlet)
    await recording.open()
    ended = await recording.run()
    assert isinstance(ended.error, SourceError)
    records = await place.frames(recording)
    assert [one.kind for one in records[-2:]] == [Kind.GAP, Kind.CLOSE]
    gap = Gap.model_validate_json(records[-2].payload)
    assert gap.reason == reason
    assert gap.from_time < gap.to_time
    assert check_chain(records).closed == reason


async def test_keepalives_go_on_while_paused_and_nothing_else_does(place: Place) -> None:
    recording = Recording(ListSource(100_000, until_stopped), place.order, place.outlet)
    await recording.open()
    running = asyncio.create_task(recording.run())
    async with asyncio.timeout(20):
        while recording.frames < 5:
            await asyncio.sleep(0)
        await recording.pause("tea")
        before = recording.next_seq
        while recording.next_seq < before + 4:
            await asyncio.sleep(0)
        await recording.resume("back")
        frames = recording.frames
        while recording.frames < frames + 5:
            await asyncio.sleep(0)
        recording.stop("enough")
        ended = await running
    records = await place.frames(recording)
    kinds = [one.kind for one in records]
    paused = kinds[kinds.index(Kind.PAUSE) + 1 : kinds.index(Kind.RESUME)]
    assert len(paused) >= 3
    assert set(paused) <= {Kind.KEEPALIVE, Kind.FRAMES}
    assert paused.count(Kind.FRAMES) <= 1, "one may have been on its way"
    assert (ended.reason, kinds[-1]) == ("enough", Kind.CLOSE)
    check_chain(records)


async def test_a_session_that_was_ended_by_others_is_not_written_to(place: Place) -> None:
    order = replace(place.order, keepalive_every=5.0)
    recording = Recording(ListSource(2, until_stopped), order, place.outlet)
    await recording.open()
    running = asyncio.create_task(recording.run())
    async with asyncio.timeout(20):
        while recording.frames < 2 or recording.waiting:
            await asyncio.sleep(0)
        recording.ended_elsewhere()
        ended = await running
    assert isinstance(ended.error, EndedElsewhere)
    kinds = [one.kind for one in await place.frames(recording)]
    assert kinds == [Kind.OPEN, Kind.FRAMES, Kind.FRAMES]
    assert list(place.order.spool.folder.iterdir()) == []


def command(action: Any, **more: Any) -> RecorderCommand:
    return RecorderCommand(id=str(new_session_id()), host="desk", action=action, **more)


async def test_commands_are_carried_out_once_and_refused_with_a_reason(place: Place) -> None:
    def make(_: RecorderCommand) -> Recording:
        return Recording(ListSource(1, until_stopped), place.order, place.outlet)

    roster = Roster(make, place.outlet.events, "desk", stale_after=60)
    stop = StopSignal()
    running = asyncio.create_task(roster.run(stop))
    start = command("start", display=":7")
    for _ in range(2):
        await roster.carry_out(start, 0.0)
    (recording,) = roster.recordings
    session = str(recording.session)
    unknown = str(new_session_id())
    await roster.carry_out(command("start", display=":7"), 0.0)
    await roster.carry_out(command("start", display=":8"), 61.0)
    await roster.carry_out(command("stop", session=unknown), 0.0)
    await roster.carry_out(command("pause", session=session), 0.0)
    assert recording.state == "paused"
    await roster.carry_out(replace_host(command("start", display=":9")), 0.0)
    await roster.carry_out(command("stop", session=session, reason="enough"), 0.0)
    assert roster.recordings == []
    await roster.carry_out(command("start", display=":7"), 0.0)
    stop.set()
    async with asyncio.timeout(20):
        await running
    events = await place.events()
    refused = sorted(one.data.code for one in events if isinstance(one.data, CommandRefused))
    assert refused == ["AlreadyRecorded", "NotRecording", "StaleCommand"]
    done = [one for one in events if isinstance(one.data, CommandDone)]
    assert [one.correlation for one in done].count(start.id) == 2
    assert len({one.data.session for one in done if one.correlation == start.id}) == 1  # type: ignore[attr-defined]
    closed = [one.data.reason for one in events if one.type == "lucid.session.closed.v1"]  # type: ignore[attr-defined]
    assert sorted(closed) == ["enough", "the recorder was stopped"]


def replace_host(order: RecorderCommand) -> RecorderCommand:
    return order.model_copy(update={"host": "elsewhere"})
