"""Recorders that were killed: the same session goes on, or is closed with an exact gap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.session.recorder.leftover import ForeignSpool, Forked, Leftover, take_up
from agents.session.recorder.order import EndedElsewhere, LeftInSpool, Order
from agents.session.recorder.recording import AWAY, FULL, Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.base import Control, Emit, SourceInfo, now
from agents.session.recorder.sources.capture import Capture, source_of
from agents.session.recorder.spool import Spool
from agents.session.recorder.spool_blocks import Spooled
from agents.session.recorder.spool_folder import SpoolBusy, SpoolFull, SpoolUnreadable, leftovers
from agents.session.recorder.wiring import resume
from schemas.canonical import encode
from schemas.controls import Abandon, Close, Gap
from schemas.events import SessionClosed, SessionOpened
from schemas.frames import FrameRecord, Kind, to_kafka
from tests.conftest import Stack
from tests.session.recorder.test_recording import Place, check_chain, place_on, until_stopped
from tests.session.recorder.test_spool import small_segments
from tests.waiting import until

__all__ = ["small_segments"]


@pytest.fixture
async def place(stack: Stack, tmp_path: Path) -> AsyncIterator[Place]:
    async with place_on(stack, tmp_path) as found:
        yield found


class Screen:
    """A live source: hands over numbers until it is stopped or has had `count`."""

    def __init__(self, count: int = 5, then: Callable[[Control], None] = until_stopped) -> None:
        self.count, self.then, self.skipped = count, then, (-1, -1)

    def open(self) -> SourceInfo:
        return SourceInfo("screen", "bytes/1", live=True)

    def skip(self, frames: int, raw_bytes: int) -> None:
        self.skipped = (frames, raw_bytes)

    def run(self, emit: Emit, control: Control) -> None:
        for number in range(self.count):
            control.wait_while_paused()
            emit(b"%04d" % number, now())
        self.then(control)

    def close(self) -> None:
        pass


async def running(
    place: Place, source: Any, order: Order | None = None, capture: Capture | None = None
) -> tuple[Recording, asyncio.Task[Any]]:
    recording = Recording(source, order or place.order, place.outlet, capture)
    await recording.open()
    return recording, asyncio.create_task(recording.run())


async def killed(recording: Recording, work: asyncio.Task[Any]) -> Path:
    """Stop without an end, as a SIGKILL does; the spool that is left."""
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await recording.track.stop()
    recording.track.spool.close()
    return recording.track.spool.place


async def take(place: Place, where: Path, order: Order | None = None) -> Leftover:
    found = await take_up(where, order or place.order, place.outlet)
    assert found is not None
    return found


async def on_broker(place: Place, recording: Recording) -> list[FrameRecord]:
    """The session's records, those that are there twice once."""
    found = {one.seq: one for one in await place.frames(recording)}
    return [found[seq] for seq in sorted(found)]


async def crashed_screen(place: Place, count: int = 5) -> tuple[Recording, Path]:
    recording, work = await running(place, Screen(count), replace(place.order, keepalive_every=5))
    await until(lambda: recording.frames == count and not recording.waiting)
    return recording, await killed(recording, work)


async def test_a_screen_is_captured_again_behind_an_exact_gap(place: Place) -> None:
    first, where = await crashed_screen(place)
    source = Screen(3)
    leftover = await take(place, where)
    last = leftover.sequencer.time
    again = Recording(source, place.order, place.outlet, leftover=leftover)
    await again.open()
    opened = now()
    work = asyncio.create_task(again.run())
    await until(lambda: again.frames == 8)
    again.stop("enough")
    ended = await work
    assert (ended.error, ended.waiting, again.session) == (None, 0, first.session)
    records = await on_broker(place, again)
    (gap,) = [one for one in records if one.kind is Kind.GAP]
    found = Gap.model_validate_json(gap.payload)
    assert (found.reason, found.from_time) == (AWAY, last)
    assert last < found.to_time <= opened
    frames = [one for one in records if one.kind is Kind.FRAMES]
    assert [one.payload for one in frames] == [b"%04d" % n for n in (*range(5), *range(3))]
    assert source.skipped == (5, 20)
    assert check_chain(records).closed == "enough"
    assert leftovers(place.order.spool.folder) == []
    events = [one.data for one in await place.events()]
    opens = [one for one in events if isinstance(one, SessionOpened)]
    assert len(opens) == 2
    assert opens[0] == opens[1]
    (closed,) = [one for one in events if isinstance(one, SessionClosed)]
    assert (closed.next_seq, closed.raw_bytes) == (len(records), 32)


async def test_what_can_be_read_again_goes_on_without_a_gap(place: Place) -> None:
    capture = Capture(kind="synthetic", frames=200, size=1000, rate=200.0, seed=7)
    section = RecorderSettings()
    recording, work = await running(place, source_of(capture, section), capture=capture)
    await until(lambda: recording.frames >= 20)
    where = await killed(recording, work)
    again = await resume(where, place.order, place.outlet, section)
    assert again is not None
    assert (await again.run()).frames == 200
    records = await on_broker(place, again)
    assert check_chain(records).closed == "end of the source"
    assert not [one for one in records if one.kind is Kind.GAP]
    wanted: list[bytes] = []
    once = replace_rate(capture)
    source_of(once, section).run(lambda payload, _: wanted.append(payload), Control())
    assert [one.payload for one in records if one.kind is Kind.FRAMES] == wanted


def replace_rate(capture: Capture) -> Capture:
    return capture.model_copy(update={"rate": 0.0})


async def test_what_cannot_be_captured_again_is_closed_with_an_exact_gap(
    place: Place, tmp_path: Path
) -> None:
    _, where = await crashed_screen(place)
    again = await resume(where, place.order, place.outlet, RecorderSettings())
    assert again is not None
    ended = await again.run()
    assert (ended.reason, ended.error) == ("the recorder was started again", None)
    records = await on_broker(place, again)
    assert [one.kind for one in records[-2:]] == [Kind.GAP, Kind.CLOSE]
    check_chain(records)
    file = tmp_path / "log"
    file.write_bytes(bytes(10))
    capture = Capture(kind="file", name=str(file))
    recording, work = await running(place, Screen(5), capture=capture)
    await until(lambda: recording.frames == 5)
    where = await killed(recording, work)
    again = await resume(where, place.order, place.outlet, RecorderSettings())
    assert again is not None
    assert "10 bytes" in (await again.run()).reason


async def test_a_recorder_that_was_killed_while_it_closed_only_delivers(place: Place) -> None:
    recording, work = await running(place, Screen(4, lambda _: None))
    recording.track.publisher._producer = Nowhere()  # type: ignore[assignment]
    await until(lambda: recording.track.spool.next_seq > recording.frames + 1 == 5)
    await until(lambda: recording.track.spool.last.record.kind is Kind.CLOSE)  # type: ignore[union-attr]
    where = await killed(recording, work)
    before = recording.next_seq
    again = await resume(where, place.order, place.outlet, RecorderSettings())
    assert again is not None
    ended = await again.run()
    assert (ended.reason, ended.records, ended.waiting) == ("end of the source", before, 0)
    records = await on_broker(place, again)
    assert check_chain(records).closed == "end of the source"


class Nowhere:
    """A broker that never answers."""

    async def epoch(self) -> int:
        return 0

    async def submit(self, *_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async def acknowledged(self, _: object) -> None:
        await asyncio.Event().wait()


async def test_a_recorder_that_stops_while_the_broker_is_away_leaves_its_spool(
    place: Place,
) -> None:
    recording, work = await running(place, Screen(4))
    await until(lambda: recording.frames == 4 and not recording.waiting)
    recording.track.publisher._producer = Nowhere()  # type: ignore[assignment]
    recording.stop("enough")
    await until(lambda: recording.waiting > 0)
    await asyncio.wait([work], timeout=0.2)
    assert not work.done()
    recording.leave()
    ended = await work
    assert isinstance(ended.error, LeftInSpool)
    assert ended.waiting > 0
    assert str(recording.track.spool.place) in str(ended.error)
    again = await resume(recording.track.spool.place, place.order, place.outlet, RecorderSettings())
    assert again is not None
    assert (await again.run()).reason == "enough"
    assert check_chain(await on_broker(place, recording)).closed == "enough"


async def test_a_pause_outlives_the_recorder(place: Place) -> None:
    recording, work = await running(place, Screen(3))
    await until(lambda: recording.frames == 3)
    await recording.pause("private")
    where = await killed(recording, work)
    again = Recording(Screen(3), place.order, place.outlet, leftover=await take(place, where))
    await again.open()
    work = asyncio.create_task(again.run())
    before = again.next_seq
    await until(lambda: again.next_seq >= before + 3)
    assert (again.state, again.frames) == ("paused", 3)
    await again.resume("done")
    await until(lambda: again.frames == 6)
    again.stop("enough")
    await work
    kinds = [one.kind for one in await on_broker(place, again)]
    paused = kinds[kinds.index(Kind.PAUSE) : kinds.index(Kind.RESUME)]
    assert Kind.FRAMES not in paused


async def test_a_second_recorder_of_the_same_session_is_refused(
    place: Place, tmp_path: Path
) -> None:
    recording, work = await running(place, Screen(3))
    where = recording.track.spool.place
    with pytest.raises(SpoolBusy):
        await take_up(where, place.order, place.outlet)
    await killed(recording, work)
    with pytest.raises(ForeignSpool, match="desk"):
        await take_up(where, replace(place.order, host="other"), place.outlet)
    leftover = await take(place, where)
    copy = tmp_path / "copy" / where.name
    copy.parent.mkdir()
    copy.mkdir()
    for path in where.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    again = Recording(None, place.order, place.outlet, leftover=leftover)
    await again.open()
    await again.run()
    with pytest.raises(Forked, match="another recorder"):
        await take_up(copy, place.order, place.outlet)
    assert (copy / "head").exists()


async def abandon(place: Place, recording: Recording) -> None:
    reason = Abandon(reason="silent", by="pipeline/x", last_seen=now())
    record = FrameRecord(recording.session, Kind.ABANDON, -1, now(), b"", encode(reason))
    key, headers, value = to_kafka(record)
    await place.outlet.producer.send(
        place.outlet.frames, value, key=key, headers=[*headers], partition=recording.partition
    )


async def test_a_session_that_was_given_up_meanwhile_is_not_gone_on_with(place: Place) -> None:
    recording, where = await crashed_screen(place)
    await abandon(place, recording)
    with pytest.raises(EndedElsewhere, match="silent too long") as caught:
        await take_up(where, place.order, place.outlet)
    assert "All that was recorded" in str(caught.value)
    assert not where.exists()
    recording, where = await crashed_screen(place)
    await abandon(place, recording)
    spool, _ = Spool.open(where, place.order.signer)
    spool.append(Spooled(recording.track.sequencer.make(Kind.FRAMES, b"late", now())))
    spool.close()
    with pytest.raises(EndedElsewhere, match=r"came too late and are kept in .*\.ended"):
        await take_up(where, place.order, place.outlet)
    assert leftovers(place.order.spool.folder) == []
    assert where.with_name(where.name + ".ended").is_dir()


async def test_a_damaged_spool_goes_on_behind_what_the_broker_holds(place: Place) -> None:
    recording, where = await crashed_screen(place)
    (log,) = where.glob("*.log")
    log.write_bytes(log.read_bytes()[:-400])
    leftover = await take(place, where)
    assert (leftover.spool.damaged, leftover.exact) == (True, False)
    source = Screen(2)
    again = Recording(source, place.order, place.outlet, leftover=leftover)
    await again.open()
    work = asyncio.create_task(again.run())
    await until(lambda: again.track.sequencer.next_seq > recording.next_seq + 2)
    again.stop("enough")
    await work
    records = await on_broker(place, again)
    assert [one.seq for one in records] == list(range(len(records)))
    assert check_chain(records).closed == "enough"


async def test_a_spool_of_which_nothing_was_sent_leaves_nothing(place: Place) -> None:
    recording, where = await crashed_screen(place)
    for path in where.glob("*.log"):
        path.unlink()
    again = await take(place, where)
    assert again.sequencer.next_seq == recording.next_seq
    again.spool.close()
    (where / "state").unlink()
    assert await take_up(where, place.order, place.outlet) is None
    assert not where.exists()
    place.order.spool.folder.joinpath(where.name).mkdir()
    with pytest.raises(SpoolUnreadable):
        await take_up(where, place.order, place.outlet)


def full_order(place: Place, when_full: Any) -> Order:
    return replace(place.order, spool=replace(place.order.spool, limit=100, when_full=when_full))


async def held_up(place: Place, when_full: Any) -> tuple[Recording, asyncio.Task[Any]]:
    """A recording whose broker confirms nothing once it is open."""
    recording = Recording(Screen(20), full_order(place, when_full), place.outlet)
    await recording.open()
    recording.track.publisher._limit = -1
    return recording, asyncio.create_task(recording.run())


@pytest.mark.usefixtures("small_segments")
async def test_a_full_spool_captures_nothing_until_there_is_room_and_says_so(
    place: Place,
) -> None:
    recording, work = await held_up(place, "block")
    before = recording.next_seq
    await until(lambda: recording.next_seq >= before + 4)
    frames = recording.frames
    await until(lambda: recording.next_seq >= before + 8)
    assert recording.frames == frames < 20, "keepalives go on, frames wait"
    recording.track.publisher._limit = 10**6
    recording.track.publisher.changed.tell()
    await until(lambda: recording.frames == 20)
    recording.stop("enough")
    assert (await work).error is None
    records = await on_broker(place, recording)
    check_chain(records)
    gaps = [Gap.model_validate_json(one.payload) for one in records if one.kind is Kind.GAP]
    assert {gap.reason for gap in gaps} == {FULL}
    payloads = [one.payload for one in records if one.kind is Kind.FRAMES]
    assert payloads == [b"%04d" % number for number in range(20)]


@pytest.mark.usefixtures("small_segments")
async def test_a_full_spool_stops_the_session_when_it_is_told_to(place: Place) -> None:
    recording, work = await held_up(place, "stop")
    await until(lambda: recording._ending.done())
    recording.track.publisher._limit = 10**6
    recording.track.publisher.changed.tell()
    ended = await work
    assert isinstance(ended.error, SpoolFull)
    assert "LUCID_RECORDER_SPOOL_LIMIT" in str(ended.error)
    records = await on_broker(place, recording)
    assert [one.kind for one in records[-2:]] == [Kind.GAP, Kind.CLOSE]
    close = Close.model_validate_json(records[-1].payload)
    assert close.reason == check_chain(records).closed
