"""Replay against the real broker and catalog: what is stored is compared with its log."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest

from agents.platform.blobs import CHECKPOINT, ERASED_CONTENT, KEY, MANIFEST, chunk_name
from agents.platform.keys import load_recipients
from agents.session.processor import sealer
from agents.session.processor.commands import OutputTaken, report_fields
from agents.session.processor.ranges import (
    AnotherKey,
    BadRange,
    ErasedSession,
    ExpiredRange,
    NotInLog,
)
from schemas import chunks as chunk_format
from schemas.audit import SessionReplayed
from schemas.canonical import encode
from schemas.chunks import read_chunk
from schemas.controls import Open
from schemas.datakey import NoIdentity, wrap
from schemas.frames import FrameRecord, Kind
from schemas.manifests import Manifest
from schemas.sessions import new_session_id
from tests.factories import wrapped_key_text
from tests.platform.topics import expire
from tests.session.processor.replay_house import (
    PARTITION,
    D,
    House,
    flip,
    make_log,
    rows,
    seal,
)


async def test_what_is_stored_is_what_the_log_gives_again(house: House) -> None:
    session = await house.record(drop=[5, 6])
    before = {path.name: path.read_bytes() for path in house.blobs.folder(session).iterdir()}
    report = await house.replay(session)
    (found,) = report.results
    assert (report.exit_status, found.outcome, found.differences) == (0, "identical", [])
    assert found.chunks == found.identical > 3
    manifest = Manifest.model_validate_json(before[MANIFEST])
    assert found.root == manifest.root
    assert report.out is None
    assert list(house.settings.scratch_dir.iterdir()) == []
    assert {path.name: path.read_bytes() for path in house.blobs.folder(session).iterdir()} == (
        before
    )
    for topic in ("session.chunks", "session.manifests", "session.progress", "session.events"):
        assert await house.events(topic) == []
    assert await house.audited() == [
        SessionReplayed(session=session, outcome="identical", chunks=found.chunks, differences=0)
    ]


async def test_all_that_the_log_gives_goes_to_a_folder_that_is_named(
    house: House, tmp_path: Path
) -> None:
    session = await house.record()
    out = tmp_path / "again"
    report = await house.replay(session, out=out)
    assert report.exit_status == 0
    assert report.out == out
    stored = house.blobs.folder(session)
    names = [*(path.name for path in stored.glob("*.chunk")), MANIFEST]
    for name in names:
        assert (out / session / name).read_bytes() == (stored / name).read_bytes()
    with pytest.raises(OutputTaken, match="again"):
        await house.replay(session, out=out)


async def test_each_difference_has_its_name_and_both_hashes(house: House) -> None:
    session = await house.record(60)
    one, two = house.path(session, 1), house.path(session, 2)
    first, second = one.read_bytes(), two.read_bytes()
    flip(house.path(session, 0))
    one.write_bytes(second)
    two.write_bytes(first)
    three = house.path(session, 3).read_bytes()
    house.path(session, 3).write_bytes(three[:-1])
    house.path(session, 4).unlink()
    count = len(house.blobs.chunk_indexes(session)) + 1
    (house.blobs.folder(session) / chunk_name(count)).write_bytes(first)
    house.path(session, KEY).write_bytes(b"another")
    house.path(session, CHECKPOINT).unlink()
    flip(house.path(session, MANIFEST), 40)
    report = await house.replay(session)
    assert report.exit_status == 1
    assert rows(report) == {
        **{chunk_name(index): D.ROTTEN for index in range(4)}, chunk_name(4): D.MISSING,
        chunk_name(count): D.EXTRA, KEY: D.ROTTEN, CHECKPOINT: D.MISSING, MANIFEST: D.ROTTEN,
    }  # fmt: skip
    (found,) = report.results
    leaves = {row.name: (row.replayed, row.stored) for row in found.differences}
    assert leaves[chunk_name(1)] == (
        read_chunk(first).leaf.hex(), read_chunk(second).leaf.hex(),
    )  # fmt: skip
    assert leaves[chunk_name(4)][1] is None
    assert report.out is not None
    assert (report.out / session / chunk_name(1)).read_bytes() == first
    fields = report_fields(report)
    assert fields["sessions"][0]["bound_by"] == "checkpoint"


async def test_what_was_stored_from_another_log_differs_by_cut_key_or_codec(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipients = load_recipients(house.settings)
    records = make_log(recipients, 30, 1)
    offsets = await house.log(records)
    await house.store([one for one in records if one.seq != 4], PARTITION, offsets[0])
    report = await house.replay(str(records[0].session))
    assert set(rows(report).values()) >= {D.DIFFERENT_CUT}
    assert report.results[0].binding is not None
    assert not report.results[0].bound

    records = make_log(recipients, 30, 2)
    offsets = await house.log(records)
    with monkeypatch.context() as patched:
        patched.setattr(chunk_format, "ZSTD_VERSION", 10_406)
        patched.setattr(sealer, "ZSTD_VERSION", 10_406)
        await house.store(records, PARTITION, offsets[0])
    report = await house.replay(str(records[0].session))
    chunks = {name: found for name, found in rows(report).items() if name.endswith(".chunk")}
    assert set(chunks.values()) == {D.NEWER_CODEC}
    assert "10406" in report.results[0].differences[0].detail

    records = make_log(recipients, 30, 3)
    offsets = await house.log(records)
    session = str(records[0].session)
    await house.store(records, PARTITION, offsets[0])
    data_key = random.Random(9).randbytes(32)
    entry = Open.model_validate_json(records[0].payload)
    wrapped = wrapped_key_text(wrap(data_key, recipients))
    other = [
        FrameRecord(one.session, one.kind, one.seq, one.time, one.chain,
                    encode(entry.model_copy(update={"key": wrapped})) if not one.seq
                    else one.payload)
        for one in records
    ]  # fmt: skip
    foreign = seal(other, PARTITION, 0, house.settings).chunks[1]
    house.path(session, 1).write_bytes(foreign)
    await house.catalog._database.chunks.delete_one({"_id": f"{session}:1"})
    for name in (MANIFEST, CHECKPOINT):
        house.path(session, name).unlink()
    await house.catalog._database.manifests.delete_one({"_id": session})
    report = await house.replay(session)
    assert rows(report)[chunk_name(1)] is D.DIFFERENT_KEY


async def test_a_session_is_found_without_the_catalogs_word(house: House) -> None:
    await house.record(seed=12)
    session = await house.record(seed=13, listed=False)
    assert (await house.replay(session)).results[0].outcome == "identical"
    with pytest.raises(NotInLog, match="no open record"):
        await house.replay(str(new_session_id()))


async def test_all_sessions_of_a_range_are_replayed_and_the_others_named(empty_log: House) -> None:
    house = empty_log
    early = await house.record(12, seed=14)
    early_records = house.logs[early]
    late = await house.record(12, seed=15)
    other = await house.record(12, seed=16, partition=1)
    last = await house.record(12, seed=17)
    report = await house.replay(from_offset=f"{PARTITION}:3")
    assert {one.session for one in report.results} == {late, last}
    assert [(one.session, one.offset) for one in report.passed] == [(early, 3)]
    assert report.passed[0].reason == "no open record of it is in the range"
    assert report.exit_status == 0
    stop = len(early_records) + 1
    bounded = await house.replay(from_offset=f"{PARTITION}:0", to_offset=f"{PARTITION}:{stop}")
    assert {one.session for one in bounded.results} == {early, late}
    assert all(one.manifest is not None for one in bounded.results)
    start = datetime.fromtimestamp(house.logs[late][0].time / 1e6, UTC)
    timed = await house.replay(from_time=start)
    assert {one.session for one in timed.results} == {late, other, last}
    end = datetime.fromtimestamp(house.logs[last][0].time / 1e6, UTC)
    timed = await house.replay(from_time=start, to_time=end)
    assert {one.session for one in timed.results} == {late, other}
    bad = [
        ("9:0", None), ("x", None), (f"{PARTITION}:1", "1:5"), ("1:99999", None),
        (f"{PARTITION}:5", f"{PARTITION}:5"),
    ]  # fmt: skip
    for start_text, end_text in bad:
        with pytest.raises(BadRange):
            await house.replay(from_offset=start_text, to_offset=end_text)
    with pytest.raises(BadRange):
        await house.replay(from_time=end, to_time=end)


async def test_a_range_that_has_gone_says_so_before_it_starts(empty_log: House) -> None:
    house = empty_log
    gone = await house.record(12, seed=18)
    there = await house.record(12, seed=19)
    first = (await house.catalog.get("sessions", gone) or {})["opened"]["offset"]
    await expire(house.settings, house.topic("session.frames"), PARTITION, first + 4)
    with pytest.raises(ExpiredRange, match=f"records {first} to {first + 3} are gone") as caught:
        await house.replay(gone)
    assert caught.value.exit_status == 66
    with pytest.raises(ExpiredRange, match=f"Start at {PARTITION}:{first + 4}"):
        await house.replay(from_offset=f"{PARTITION}:0")
    start = datetime.fromtimestamp(house.logs[gone][0].time / 1e6, UTC)
    with pytest.raises(ExpiredRange, match=gone):
        await house.replay(from_time=start)
    assert (await house.replay(there)).exit_status == 0
    report = await house.replay(from_offset=f"{PARTITION}:{first + 4}")
    assert [one.session for one in report.passed] == [gone]
    assert await house.events("session.events") == []


async def test_another_identity_or_another_key_says_so_before_it_starts(
    house: House, tmp_path: Path
) -> None:
    session = await house.record(12, seed=20)
    stranger = tmp_path / "stranger.age"
    stranger.write_text(str(pyrage.x25519.Identity.generate()))
    stranger.chmod(0o600)
    with pytest.raises(NoIdentity, match=load_recipients(house.settings)[0]) as caught:
        await house.replay(session, identity=stranger)
    assert caught.value.exit_status == 77
    assert not list(house.settings.scratch_dir.iterdir()), "no folder is left of it"
    place = (await house.catalog.get("sessions", session) or {})["opened"]["offset"]
    report = await house.replay(from_offset=f"{PARTITION}:{place}", identity=stranger)
    assert report.results[0].outcome == "unopened"
    assert session in report.results[0].unopened
    assert report.exit_status == 1

    records = make_log(load_recipients(house.settings), 12, 21)
    offsets = await house.log(records)
    session = str(records[0].session)
    other = Open.model_validate_json(records[0].payload).model_copy(
        update={"key": wrapped_key_text(wrap(bytes(32), load_recipients(house.settings)))}
    )
    opened = FrameRecord(records[0].session, Kind.OPEN, 0, records[0].time, records[0].chain,
                         encode(other))  # fmt: skip
    await house.store([opened, *records[1:]], PARTITION, offsets[0])
    with pytest.raises(AnotherKey, match="the log's key has") as conflict:
        await house.replay(session)
    assert conflict.value.exit_status == 65
    assert await house.audited() == [
        SessionReplayed(
            session=report.results[0].session, outcome="unopened", chunks=0, differences=0
        )
    ]


async def test_records_that_a_processor_refuses_are_counted(house: House) -> None:
    records = make_log(load_recipients(house.settings), 12, 22)
    session = str(records[0].session)
    offsets = await house.log(records[:5])
    await house.producer.send(
        house.topic("session.frames"), b"junk", key=session.encode(), headers=[],
        partition=PARTITION,
    )  # fmt: skip
    await house.log(records[5:])
    await house.store(records, PARTITION, offsets[0])
    report = await house.replay(session)
    assert report.exit_status == 0
    assert report.results[0].refused == {"UnknownVersion": 1}


# Erased sessions --------------------------------------------------------------------------------


async def test_an_erased_session_is_not_made_again_though_the_log_has_it(empty_log: House) -> None:
    house = empty_log
    erased, other = await house.record(seed=51), await house.record(seed=52)
    folder = house.blobs.folder(erased)
    for path in folder.iterdir():
        path.unlink()
    (folder / ERASED_CONTENT).write_bytes(b"record")
    for repair in (False, True):
        with pytest.raises(ErasedSession, match="was erased"):
            await house.replay(erased, repair=repair)
    first = min(house.logs[erased][0].time, house.logs[other][0].time)
    report = await house.replay(
        repair=True, from_time=datetime.fromtimestamp(first / 1e6 - 60, UTC),
        to_time=datetime.fromtimestamp(first / 1e6 + 3600, UTC),
    )  # fmt: skip
    assert [one.session for one in report.results] == [other]
    assert [(one.session, one.reason) for one in report.passed] == [
        (erased, "its content was erased")
    ]
    assert [path.name for path in folder.iterdir()] == [ERASED_CONTENT]
