"""Replay against the real broker and catalog: what is stored is compared, named and restored."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pyrage
import pytest
from prometheus_client import CollectorRegistry

from agents.auditor.access import load_access
from agents.platform.blobs import CHECKPOINT, ERASED_CONTENT, KEY, MANIFEST, Blobs, chunk_name
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.keys import init_keys, load_identities, load_recipients, load_signer
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.stored_sessions import find_session
from agents.platform.topic_reader import read_topic
from agents.platform.verification import run_verification
from agents.session.processor import sealer
from agents.session.processor.commands import Order, OutputTaken, Report, report_fields, run_replay
from agents.session.processor.ranges import (
    AnotherKey,
    BadRange,
    ErasedSession,
    ExpiredRange,
    NotInLog,
)
from agents.session.processor.repair import Repair
from agents.session.processor.sealer import open_session
from agents.session.processor.session import Session
from agents.session.processor.settings import ProcessorSettings
from agents.session.storage.keeper import Keeper
from agents.session.storage.metrics import StorageMetrics
from schemas import chunks as chunk_format
from schemas.audit import AuditEvent, ChainStarted, ChunksRepaired, SessionReplayed
from schemas.canonical import encode
from schemas.chunks import Sealing, read_chunk
from schemas.controls import Close, Keepalive, Open
from schemas.datakey import NoIdentity, derive, wrap
from schemas.events import ChunkStored, ManifestStored, SessionEvent, event_from_kafka
from schemas.frames import FrameRecord, Kind, to_kafka
from schemas.manifests import Manifest, checkpoint_of
from schemas.notes import Signer
from schemas.replay import Difference
from schemas.sessions import new_session_id
from schemas.stored import ChunkRecord, ManifestRecord
from schemas.verdicts import Verdict
from tests.conftest import Stack
from tests.factories import RECORDER, Recording, wrapped_key_text
from tests.platform.topics import expire

SMALL = Sealing(cut_bytes=4096, cut_us=1_000_000)
PARTITION = 3
# The broker deletes records whose event time is beyond the topic's retention.
START = (time.time_ns() // 1_000_000_000 - 3 * 86_400) * 1_000_000
D = Difference


@dataclass
class House:
    """An installation: its log, its store, its catalog; sessions are recorded and stored in it."""

    settings: Settings
    catalog: Catalog
    producer: Producer
    blobs: Blobs
    contract: Contract
    logs: dict[str, list[FrameRecord]] = field(default_factory=dict)
    sessions: set[bytes] = field(default_factory=set)

    def topic(self, name: str) -> str:
        return self.contract.topic(name).full_name

    async def log(self, records: Sequence[FrameRecord], partition: int = PARTITION) -> list[int]:
        """Put records on the topic; their offsets."""
        offsets = []
        for record in records:
            key, headers, value = to_kafka(record)
            self.sessions.add(key)
            placed = await self.producer.send(
                self.topic("session.frames"), value, key=key, headers=[*headers],
                partition=partition, timestamp_ms=record.time // 1000,
            )  # fmt: skip
            offsets.append(placed.offset)
        return offsets

    async def record(
        self, frames: int = 30, seed: int = 0, *, store: bool = True, listed: bool = True,
        partition: int = PARTITION, end: bool = True, drop: Sequence[int] = (),
    ) -> str:  # fmt: skip
        """A session on the topic, and stored as the pipeline stores it."""
        records = make_log(load_recipients(self.settings), frames, seed, end=end)
        records = [one for one in records if one.seq not in drop]
        offsets = await self.log(records, partition)
        session = str(records[0].session)
        self.logs[session] = records
        if listed:
            opened = {"partition": partition, "offset": offsets[0], "started": records[0].time}
            await self.catalog.put_version(
                "sessions", {"_id": session, "version": 1, "opened": opened}
            )
        if store:
            await self.store(records, partition, offsets[0])
        return session

    async def store(self, records: Sequence[FrameRecord], partition: int, offset: int) -> None:
        found = seal(records, partition, offset, self.settings)
        wrapped = open_session(records[0], partition, offset).opened.wrapped_key
        with ThreadPoolExecutor(1) as pool:
            metrics = StorageMetrics(CollectorRegistry())
            keeper = Keeper(self.blobs, self.catalog, pool, metrics)
            for data in found.chunks:
                await keeper.keep_chunk(ChunkRecord(read_chunk(data), wrapped))
            if found.manifest is not None:
                note = load_signer(self.settings, "processor").sign(
                    checkpoint_of(found.manifest).to_text()
                )
                record = ManifestRecord(encode(found.manifest), note, wrapped)
                await keeper.keep_manifest(record, found.manifest)

    async def replay(self, session: str = "", **more: Any) -> Report:
        order = Order(session=UUID(session) if session else None, **more)
        return await run_replay(self.settings, ProcessorSettings.load(), order)

    def path(self, session: str, index: int | str) -> Path:
        name = chunk_name(index) if isinstance(index, int) else index
        return self.blobs.path(session, name)

    async def verified(self, session: str) -> set[Verdict]:
        """What `lucid verify` finds."""
        access = load_access([], [], self.settings)
        source = await find_session(self.settings, UUID(session), access.trusted)
        report = run_verification(source, access)
        assert report.totals.chunks_decrypted > 0
        return {one.verdict for one in report.findings}

    async def events(self, topic: str) -> list[Any]:
        """The records that a topic has of this house's sessions."""
        records = read_topic(self.settings, self.topic(topic))
        return [raw async for raw in records if raw.key in self.sessions]

    async def session_events(self) -> list[SessionEvent]:
        raws = await self.events("session.events")
        return [event_from_kafka(raw.key, raw.headers, raw.value) for raw in raws]

    async def audited(self) -> list[Any]:
        """What was done, without the start of the chain."""
        raws = await self.events("audit.events")
        acts = [AuditEvent.from_kafka(raw.key, raw.headers, raw.value).data for raw in raws]
        return [act for act in acts if not isinstance(act, ChainStarted)]


def make_log(
    recipients: list[str], frames: int, seed: int, *, end: bool = True
) -> list[FrameRecord]:
    """A session of noisy frames; a cut about every ninth record."""
    noise = random.Random(seed)
    session = new_session_id(START + seed * 600_000_000, noise.randbytes(10))
    data_key = noise.randbytes(32)
    recording = Recording(session, derive(data_key, session))
    recording.time = START + seed * 600_000_000
    opened = Open(
        session=str(session), recorder=str(RECORDER.verifier),
        key=wrapped_key_text(wrap(data_key, recipients)), recipients=recipients,
        codec="bytes/1", source={}, host="desk", sealing=SMALL,
    )  # fmt: skip
    recording.add(Kind.OPEN, opened)
    for number in range(frames):
        recording.add(Kind.FRAMES, noise.randbytes(400))
        if number % 7 == 6:
            recording.add(Kind.KEEPALIVE, Keepalive(note=recording.note()))
    if end:
        recording.add(Kind.CLOSE, Close(reason="done", note=recording.note("done")))
    return recording.records


@dataclass
class Sealed:
    chunks: list[bytes] = field(default_factory=list)
    manifest: Manifest | None = None


def seal(records: Sequence[FrameRecord], partition: int, offset: int, settings: Settings) -> Sealed:
    sealed = Sealed()
    identities = load_identities(settings.keys_dir / "processor.age")
    session = Session(open_session(records[0], partition, offset), identities)
    for number, record in enumerate(records, offset):
        for cut in session.chunker.add(record, number):
            chunk, _, manifest = session.seal(cut)
            sealed.chunks.append(chunk.data)
            sealed.manifest = manifest
    return sealed


def installation(stack: Stack, home: Path, prefix: str) -> Settings:
    return Settings.load(
        home=home, kafka=stack.kafka, mongo=stack.mongo, topic_prefix=prefix,
        database=f"r{uuid4().hex[:10]}",
    )  # fmt: skip


@asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    init_keys(settings)
    with (settings.keys_dir / "trusted.txt").open("a") as file:
        file.write(f"{RECORDER.verifier}\n")
    contract = load_contract(settings)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        await catalog.prepare()
        yield House(settings, catalog, producer, Blobs(settings.blobs_dir), contract)


def make_topics(stack: Stack, home: Path) -> str:
    prefix = f"r{uuid4().hex[:8]}."
    settings = installation(stack, home, prefix)
    asyncio.run(apply_contract(settings, load_contract(settings)))
    return prefix


@pytest.fixture(scope="module")
def prefix(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_topics(stack, tmp_path_factory.mktemp("topics"))


@pytest.fixture(scope="module")
def other_prefix(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_topics(stack, tmp_path_factory.mktemp("topics"))


@pytest.fixture
async def house(stack: Stack, tmp_path: Path, prefix: str) -> AsyncIterator[House]:
    """A store and a catalog of its own, on topics that the tests of this file share."""
    async with open_house(installation(stack, tmp_path, prefix)) as found:
        yield found


@pytest.fixture
async def empty_log(stack: Stack, tmp_path: Path, other_prefix: str) -> AsyncIterator[House]:
    """The same on topics that few tests write to."""
    async with open_house(installation(stack, tmp_path, other_prefix)) as found:
        yield found


def rows(report: Report) -> dict[str, Difference]:
    (found,) = report.results
    return {row.name: row.difference for row in found.differences}


def flip(path: Path, at: int = 700) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


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


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "bit-flipped", "exchanged!", "empty", "huge"]
)
async def test_a_damaged_chunk_is_restored_and_the_former_file_kept(
    house: House, damage: str
) -> None:
    session = await house.record(seed=100 + len(damage))
    path = house.path(session, 1)
    right = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(right[:-5])
        case "bit-flipped":
            flip(path)
        case "exchanged!":
            path.write_bytes(house.path(session, 2).read_bytes())
        case "empty":
            path.write_bytes(b"")
        case "huge":
            with path.open("ab") as file:
                file.truncate(18 * 1024**2)
    assert await house.verified(session)
    rotten = path.read_bytes() if path.exists() else None
    report = await house.replay(session, repair=True)
    (found,) = report.results
    assert (report.exit_status, found.outcome) == (0, "repaired"), found.differences
    assert path.read_bytes() == right
    assert path.stat().st_mode & 0o777 == 0o600
    assert await house.verified(session) == set()
    aside = [one.read_bytes() for one in (house.blobs.folder(session) / "conflicts").glob("*")]
    assert aside == ([] if rotten is None else [rotten])
    (event,) = await house.session_events()
    assert isinstance(event.data, ChunkStored)
    assert (event.data.index, event.data.leaf) == (1, read_chunk(right).leaf.hex())
    assert [type(data) for data in await house.audited()] == [SessionReplayed, ChunksRepaired]
    assert (await house.replay(session)).results[0].outcome == "identical"


async def test_everything_of_a_session_is_restored_from_its_log(house: House) -> None:
    session = await house.record(seed=5)
    folder = house.blobs.folder(session)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    database = house.catalog._database
    await database.chunks.delete_many({"session": session})
    await database.manifests.delete_one({"_id": session})
    report = await house.replay(session, repair=True)
    assert report.exit_status == 0, report.results[0].differences
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before
    assert await house.verified(session) == set()
    kinds = [type(event.data) for event in await house.session_events()]
    assert kinds.count(ManifestStored) == 1
    assert kinds.count(ChunkStored) == report.results[0].chunks


async def test_documents_that_rotted_are_restored_as_they_were_signed(house: House) -> None:
    session = await house.record(seed=6)
    right = {name: house.path(session, name).read_bytes() for name in (MANIFEST, CHECKPOINT, KEY)}
    flip(house.path(session, MANIFEST), 60)
    flip(house.path(session, CHECKPOINT), 60)
    house.path(session, KEY).write_bytes(b"not age")
    (house.settings.keys_dir / "processor.key").unlink()
    report = await house.replay(session, repair=True)
    assert report.exit_status == 0, report.results[0].differences
    for name, data in right.items():
        assert house.path(session, name).read_bytes() == data
    assert len(list((house.blobs.folder(session) / "conflicts").iterdir())) == 3


async def test_a_checkpoint_that_is_nowhere_needs_the_processors_key(house: House) -> None:
    session = await house.record(seed=7)
    note = house.path(session, CHECKPOINT).read_bytes()
    house.path(session, CHECKPOINT).unlink()
    await house.catalog._database.manifests.delete_one({"_id": session})
    key = house.settings.keys_dir / "processor.key"
    kept = key.read_text()
    key.unlink()
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    by_name = {row.name: row for row in report.results[0].differences}
    assert "processor's key" in by_name[CHECKPOINT].repair
    assert not house.path(session, CHECKPOINT).exists()
    key.write_text(kept)
    key.chmod(0o600)
    assert (await house.replay(session, repair=True)).exit_status == 0
    assert house.path(session, CHECKPOINT).read_bytes() == note


async def test_nothing_is_replaced_by_what_was_not_signed(house: House) -> None:
    recipients = load_recipients(house.settings)
    records = make_log(recipients, 30, 8)
    offsets = await house.log(records)
    await house.store([one for one in records if one.seq != 4], PARTITION, offsets[0])
    session = str(records[0].session)
    house.path(session, 1).unlink()
    before = {path.name: path.read_bytes() for path in house.blobs.folder(session).iterdir()}
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    reasons = {row.repair for row in report.results[0].differences}
    assert reasons == {
        "not repaired: the log does not give what the checkpoint names",
        "not repaired: the catalog's entry names another hash; it stays as evidence",
    }
    after = {path.name: path.read_bytes() for path in house.blobs.folder(session).iterdir()}
    assert after == before
    assert await house.session_events() == []


async def test_a_checkpoint_of_a_stranger_decides_nothing(house: House) -> None:
    session = await house.record(seed=9)
    manifest = Manifest.model_validate_json(house.path(session, MANIFEST).read_bytes())
    note = Signer("stranger.example/one", b"\x09" * 32).sign(checkpoint_of(manifest).to_text())
    house.path(session, CHECKPOINT).write_text(note)
    await house.catalog._database.manifests.delete_one({"_id": session})
    house.path(session, 0).unlink()
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    assert "trusted" in report.results[0].problem
    assert not house.path(session, 0).exists()


async def test_the_catalog_decides_while_nothing_is_signed_yet(house: House) -> None:
    session = await house.record(60, seed=10, end=False)
    whole = len(house.blobs.chunk_indexes(session))
    flip(house.path(session, 1))
    house.path(session, 2).unlink()
    flip(house.path(session, 3))
    await house.catalog._database.chunks.delete_one({"_id": f"{session}:3"})
    await house.catalog._database.chunks.delete_one({"_id": f"{session}:0"})
    report = await house.replay(session, repair=True)
    (found,) = report.results
    assert (found.manifest, found.chunks) == (None, whole)
    repaired = {row.name: (row.difference, row.repaired) for row in found.differences}
    assert repaired == {
        chunk_name(0): (D.NO_ENTRY, True),
        chunk_name(1): (D.ROTTEN, True),
        chunk_name(2): (D.MISSING, True),
        chunk_name(3): (D.DIFFERENT, False),
    }
    assert report.exit_status == 1


async def test_a_catalog_that_names_another_leaf_is_left_as_evidence(house: House) -> None:
    session = await house.record(seed=11)
    database = house.catalog._database
    await database.chunks.update_one({"_id": f"{session}:1"}, {"$set": {"leaf": "00" * 32}})
    await database.manifests.update_one({"_id": session}, {"$set": {"manifest": "{}"}})
    report = await house.replay(session, repair=True)
    assert set(rows(report).values()) == {D.OTHER_ENTRY}
    assert report.exit_status == 1
    assert ((await house.catalog.get("chunks", f"{session}:1")) or {})["leaf"] == "00" * 32


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


async def test_an_erasure_during_a_replay_stops_its_repair(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await house.record(seed=53)
    house.path(session, 1).unlink()
    real = Repair.session

    async def erased_first(self: Repair, found: Any) -> list[int]:
        (house.blobs.folder(session) / ERASED_CONTENT).write_bytes(b"record")
        return await real(self, found)

    monkeypatch.setattr(Repair, "session", erased_first)
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    assert "was erased" in report.results[0].problem
    assert not house.path(session, 1).exists()
