"""Spools on a real disk: what is whole is there, whatever was cut off."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.session.recorder import spool as spool_module
from agents.session.recorder.sources.capture import Capture
from agents.session.recorder.spool import Spool, SpoolHead
from agents.session.recorder.spool_blocks import Spooled
from agents.session.recorder.spool_folder import (
    SpoolBusy,
    SpoolFailed,
    SpoolFull,
    SpoolUnreadable,
    leftovers,
    unattended,
)
from schemas.controls import Open
from schemas.frames import FrameRecord
from tests.factories import PROCESSOR, RECORDER, make_session

MADE = make_session(frames=12, payload_size=300)
RECORDS = MADE.records
OPENED = Open.model_validate_json(RECORDS[0].payload)


def head() -> SpoolHead:
    return SpoolHead(
        opened=OPENED, partition=3, started=RECORDS[0].time, chain_key=MADE.key.chain.hex(),
        capture=Capture(kind="display", name=":7"),
    )  # fmt: skip


def spooled(number: int) -> Spooled:
    return Spooled(RECORDS[number], number, 300 * number)


def filled(folder: Path, count: int = len(RECORDS)) -> Spool:
    spool = Spool.create(folder, head(), RECORDER)
    for number in range(count):
        spool.append(spooled(number))
    spool.sync()
    return spool


def reopened(folder: Path) -> Spool:
    spool, found = Spool.open(folder / str(MADE.session), RECORDER)
    assert found == head()
    return spool


def everything(spool: Spool) -> list[FrameRecord]:
    found: list[FrameRecord] = []
    seq = spool.first_seq
    while batch := spool.read(seq, 1000):
        found += batch
        seq = batch[-1].seq + 1
    return found


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 1000)


def test_only_what_is_on_disk_is_read_and_in_order(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, head(), RECORDER)
    spool.append(spooled(0))
    assert (spool.read(0, 10_000), spool.synced_seq, spool.waiting) == ([], 0, 1)
    spool.sync()
    spool.append(spooled(1))
    assert spool.read(0, 10_000) == RECORDS[:1]
    spool.sync()
    assert spool.read(0, 1_000_000) == RECORDS[:2]
    assert spool.read(1, 1) == RECORDS[1:2]
    with pytest.raises(ValueError, match="does not follow"):
        spool.append(spooled(5))


@pytest.mark.usefixtures("small_segments")
def test_a_spool_goes_on_where_another_process_stopped(tmp_path: Path) -> None:
    spool = filled(tmp_path, 7)
    spool.note(offset=41)
    spool.note(paused=True)
    spool.close()
    again = reopened(tmp_path)
    assert everything(again) == RECORDS[:7]
    assert (again.last, again.damaged) == (spooled(6), False)
    assert (again.state.offset, again.state.paused) == (41, True)
    for number in range(7, len(RECORDS)):
        again.append(spooled(number))
    again.sync()
    assert everything(again) == RECORDS
    again.release(5)
    again.close()
    third = reopened(tmp_path)
    assert 0 < third.first_seq <= 5
    assert everything(third) == RECORDS[third.first_seq :]


@pytest.mark.usefixtures("small_segments")
def test_released_segments_go_and_the_newest_record_stays(tmp_path: Path) -> None:
    spool = filled(tmp_path)
    place = tmp_path / str(MADE.session)
    assert len(list(place.glob("*.log"))) > 3
    before = spool.size
    spool.release(len(RECORDS))
    assert len(list(place.glob("*.log"))) == 1
    assert 0 < spool.size < before
    assert (spool.waiting, spool.read(spool.first_seq, 1)) == (0, [])
    spool.close()
    assert reopened(tmp_path).last == spooled(len(RECORDS) - 1)


@pytest.mark.usefixtures("small_segments")
def test_a_segment_is_kept_until_a_later_record_is_on_disk(tmp_path: Path) -> None:
    spool = filled(tmp_path, 3)
    place = tmp_path / str(MADE.session)
    count = len(list(place.glob("*.log")))
    while len(list(place.glob("*.log"))) == count:
        spool.append(spooled(spool.next_seq))
    spool.release(spool.synced_seq)
    newest = max(place.glob("*.log"))
    newest.write_bytes(b"")  # a power cut takes what was not synced
    spool.close()
    again = reopened(tmp_path)
    assert again.last is not None
    assert again.last.record.seq >= spool.synced_seq - 1


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_spool_cut_at_any_byte_opens_with_what_is_whole(
    tmp_path: Path, data: st.DataObject
) -> None:
    shutil.rmtree(tmp_path / str(MADE.session), ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "SEGMENT_BYTES", 1000)
        filled(tmp_path).close()
    logs = sorted((tmp_path / str(MADE.session)).glob("*.log"))
    at = data.draw(st.integers(0, len(logs) - 1))
    size = logs[at].stat().st_size
    where = data.draw(st.integers(0, size - 1))
    flip = data.draw(st.booleans())
    content = bytearray(logs[at].read_bytes())
    if flip:
        content[where] ^= 0x40
    else:
        del content[where:]
    logs[at].write_bytes(content)
    before = sum(path.stat().st_size for path in logs[:at])
    spool = reopened(tmp_path)
    found = everything(spool)
    assert found == RECORDS[: len(found)]
    whole = [sum(map(block_size, RECORDS[:count])) for count in range(len(RECORDS))]
    expected = max(count for count, end in enumerate(whole) if end <= before + where)
    assert len(found) == spool.next_seq == expected
    spool.append(Spooled(RECORDS[expected]))
    spool.close()
    kept = sum(path.stat().st_size for path in spool.place.glob("damaged-*"))
    assert kept == sum(map(block_size, RECORDS[expected:])) - (0 if flip else size - where)


def block_size(record: FrameRecord) -> int:
    """Length, nonce, tag, counts, chain, entry."""
    return 4 + 24 + 16 + 16 + 32 + record.size


def test_a_damaged_block_is_an_error_when_it_is_read_back(tmp_path: Path) -> None:
    spool = filled(tmp_path)
    (log,) = (tmp_path / str(MADE.session)).glob("*.log")
    content = bytearray(log.read_bytes())
    content[10] ^= 1
    log.write_bytes(content)
    with pytest.raises(SpoolFailed, match=r"record 0 .* damaged"):
        spool.read(0, 1000)


def test_two_recorders_never_have_the_same_session(tmp_path: Path) -> None:
    spool = filled(tmp_path, 2)
    with pytest.raises(SpoolBusy, match="another process"):
        Spool.open(tmp_path / str(MADE.session), RECORDER)
    spool.close()
    with pytest.raises(SpoolBusy, match="already"):
        Spool.create(tmp_path, head(), RECORDER)
    assert everything(reopened(tmp_path)) == RECORDS[:2]


def test_nothing_is_readable_without_the_recorders_key(tmp_path: Path) -> None:
    filled(tmp_path).close()
    place = tmp_path / str(MADE.session)
    stored = b"".join(path.read_bytes() for path in place.iterdir())
    assert MADE.key.chain.hex().encode() not in stored
    assert all(one.payload not in stored for one in RECORDS)
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    with pytest.raises(SpoolUnreadable, match="no head"):
        Spool.open(place, PROCESSOR)


def test_what_is_no_spool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(SpoolUnreadable, match="not the spool"):
        Spool.open(tmp_path / "notes", RECORDER)
    place = tmp_path / str(UUID(int=7))
    place.mkdir()
    with pytest.raises(SpoolUnreadable, match="no head"):
        Spool.open(place, RECORDER)
    with pytest.raises(SpoolFailed):
        Spool.open(tmp_path / str(UUID(int=8)), RECORDER)
    assert leftovers(tmp_path) == leftovers(tmp_path / "nowhere") == []


def test_a_spool_is_removed_or_kept_aside(tmp_path: Path) -> None:
    spool = filled(tmp_path)
    spool.note(offset=1)
    assert (leftovers(tmp_path), unattended(tmp_path)) == ([spool.place], [])
    spool.close()
    assert unattended(tmp_path) == [spool.place]
    spool, _ = Spool.open(spool.place, RECORDER)
    kept = spool.set_aside()
    assert (leftovers(tmp_path), kept.name) == ([], f"{MADE.session}.ended")
    filled(tmp_path).remove()
    assert list(tmp_path.iterdir()) == [kept]


def test_a_spool_jumps_ahead_to_what_the_broker_holds(tmp_path: Path) -> None:
    spool = filled(tmp_path, 4)
    spool.jump(9)
    assert (spool.first_seq, spool.waiting, spool.read(3, 1)) == (9, 0, [])
    spool.append(spooled(9))
    spool.close()
    assert everything(reopened(tmp_path)) == RECORDS[9:10]


def failing(code: int, after: int) -> Callable[..., int]:
    real, calls = os.write, iter(range(10**6))

    def write(descriptor: int, data: Any) -> int:
        if next(calls) >= after:
            raise OSError(code, os.strerror(code))
        return real(descriptor, data[: len(data) // 2 + 1])

    return write


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, SpoolFull), (errno.EIO, SpoolFailed)])
def test_a_record_that_the_disk_does_not_take_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    spool = filled(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(code, 2))
        with pytest.raises(kind, match="LUCID_RECORDER_SPOOL"):
            spool.append(spooled(3))
    spool.append(spooled(3))
    spool.sync()
    assert everything(spool) == RECORDS[:4]
