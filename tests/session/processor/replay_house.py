"""Sessions in a log, sealed and stored, to be replayed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from agents.auditor.access import load_access
from agents.platform.blobs import Blobs, chunk_name
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.keys import init_keys, load_identities, load_recipients, load_signer
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.stored_sessions import find_session
from agents.platform.topic_reader import read_topic
from agents.platform.verification import run_verification
from agents.session.processor.commands import Order, Report, run_replay
from agents.session.processor.sealer import open_session
from agents.session.processor.session import Session
from agents.session.processor.settings import ProcessorSettings
from agents.session.storage.keeper import Keeper
from agents.session.storage.metrics import StorageMetrics
from schemas.audit import AuditEvent, ChainStarted
from schemas.canonical import encode
from schemas.chunks import Sealing, read_chunk
from schemas.controls import Close, Keepalive, Open
from schemas.datakey import derive, wrap
from schemas.events import SessionEvent, event_from_kafka
from schemas.frames import FrameRecord, Kind, to_kafka
from schemas.manifests import Manifest, checkpoint_of
from schemas.replay import Difference
from schemas.sessions import new_session_id
from schemas.stored import ChunkRecord, ManifestRecord
from schemas.verdicts import Verdict
from tests.conftest import Stack
from tests.factories import RECORDER, Recording, wrapped_key_text

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


def rows(report: Report) -> dict[str, Difference]:
    (found,) = report.results
    return {row.name: row.difference for row in found.differences}


def flip(path: Path, at: int = 700) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
