"""A store with whole sessions in it, on the real broker and catalog, and a clock to shift."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from agents.auditor.access import load_access
from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.keys import init_keys, load_signer
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.stored_sessions import find_session
from agents.platform.topic_reader import read_topic
from agents.platform.verification import run_verification
from agents.session.pipeline.states import SessionState, state_document
from agents.session.storage.keeper import Keeper
from agents.session.storage.metrics import StorageMetrics
from agents.session.storage.retention import House, open_house
from agents.session.storage.retention_erasing import Done
from schemas.audit import AuditEvent, ChainStarted
from schemas.canonical import Strict
from schemas.events import SessionOpened, event_from_kafka
from schemas.manifests import manifest_hash, read_manifest
from schemas.retention import Hold, Policies
from schemas.stored import ChunkRecord, ManifestRecord
from schemas.verdicts import Report
from tests.conftest import Stack
from tests.factories import DAY, MadeSession, make_session

PARTITION = 3
MINUTE = 60_000_000


@dataclass
class Yard:
    """One installation. now: what the clock of retention shows, in microseconds."""

    settings: Settings
    contract: Contract
    catalog: Catalog
    producer: Producer
    blobs: Blobs
    keeper: Keeper
    policies: Policies = field(default_factory=Policies)
    now: int = 0
    made: dict[str, MadeSession] = field(default_factory=dict)

    def topic(self, name: str) -> str:
        return self.contract.topic(name).full_name

    async def add(self, seed: int = 0, state: str = "completed", **more: Any) -> str:
        """A session that is stored, counted, and has its progress on the broker."""
        signer = load_signer(self.settings, "processor")
        recorder = load_signer(self.settings, "recorder")
        made = make_session(seed=seed, signer=recorder, processor=signer, **more)
        session = str(made.session)
        for chunk in made.chunks:
            await self.keeper.keep_chunk(ChunkRecord(chunk, made.wrapped))
        record = ManifestRecord(made.manifest_bytes, made.checkpoint, made.wrapped)
        await self.keeper.keep_manifest(record, read_manifest(made.manifest_bytes))
        await self.producer.send(
            self.topic("session.progress"), made.records[0].payload, key=session.encode(),
            partition=PARTITION,
        )  # fmt: skip
        ended = made.manifest.tally.last_time
        self.now = max(self.now, ended + MINUTE)
        opened = SessionOpened(
            session=session, partition=PARTITION, offset=0, host="desk", owner="ada",
            project="lovelace", recorder=made.manifest.recorder, codec="bytes/1", source={},
            started=made.manifest.tally.first_time,
        )  # fmt: skip
        document = SessionState(
            session=session, state=state, opened=opened, settled_at=ended + MINUTE,  # type: ignore[arg-type]
            stored_bytes=made.manifest.tally.sealed_bytes, next_index=len(made.chunks), version=1,
            manifest_hash=manifest_hash(made.manifest_bytes).hex(), root=made.manifest.root,
        )  # fmt: skip
        await self.catalog.put_version("sessions", state_document(document))
        self.made[session] = made
        return session

    async def change(self, session: str, **changes: Any) -> None:
        """Another document of a session."""
        before = await self.catalog.get("sessions", session)
        assert before is not None
        after = {**before, **changes, "version": before["version"] + 1}
        assert await self.catalog.put_version("sessions", after)

    @asynccontextmanager
    async def house(self) -> AsyncIterator[House]:
        async with open_house(
            self.settings, self.policies, signer=load_signer(self.settings, "storage"),
            clock=lambda: self.now,
        ) as house:  # fmt: skip
            yield house

    async def apply(self, only: str | None = None, *, damaged: bool = False) -> list[Done]:
        """Plan and apply at once, as the command does."""
        async with self.house() as house:
            plan = await house.plan(only)
            return [one async for one in house.apply(plan, damaged=damaged)]

    async def hold(self, number: int = 1, **scope: str) -> list[str]:
        """Set a hold; the sessions for which it came too late."""
        hold = Hold(id=f"hold-{number:012x}", reason="case 7", set_by="ada", set_at=1, **scope)
        async with self.house() as house:
            return await house.register.set_hold(hold)

    def later(self, days: float) -> None:
        self.now += round(days * DAY)

    # -- What there is --------------------------------------------------------------------------

    def files(self, session: str) -> set[str]:
        folder = self.blobs.folder(session)
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    async def verify(self, session: str) -> Report:
        access = load_access([], [], self.settings)
        source = await find_session(self.settings, UUID(session), access.trusted)
        return run_verification(source, access)

    async def topic_values(self, name: str) -> list[tuple[bytes, bytes | None]]:
        """Key and value of all records of a topic."""
        return [(raw.key or b"", raw.value) for raw in await self._records(name)]

    async def _records(self, name: str) -> list[Any]:
        return [raw async for raw in read_topic(self.settings, self.topic(name))]

    async def told(self, *types: type[Strict]) -> list[Strict]:
        """The data of all events of these types so far."""
        records = await self._records("session.events")
        events = [event_from_kafka(raw.key, raw.headers, raw.value) for raw in records]
        return [one.data for one in events if isinstance(one.data, types or Strict)]

    async def audited(self) -> list[AuditEvent]:
        records = await self._records("audit.events")
        found = [AuditEvent.from_kafka(raw.key, raw.headers, raw.value) for raw in records]
        return [event for event in found if not isinstance(event.data, ChainStarted)]

    async def raw(self) -> bytes:
        """Every byte of files and catalog."""
        found = [path.read_bytes() for path in self.blobs.root.rglob("*") if path.is_file()]
        for name in await self.catalog.collections(""):
            for document in await self.catalog.find(name):
                found.append(repr(document).encode())
        return b"\n".join(found)

    def key_forms(self, session: str) -> Mapping[str, bytes]:
        """The ways in which a wrapped key may be written somewhere."""
        wrapped = self.made[session].wrapped
        return {"raw": wrapped, "base64": base64.b64encode(wrapped), "hex": wrapped.hex().encode(),
                "repr": repr(wrapped)[2:-1].encode()}  # fmt: skip


@asynccontextmanager
async def open_yard(stack: Stack, home: Path, topics: Path | None = None) -> AsyncIterator[Yard]:
    mark = uuid4().hex[:10]
    settings = Settings.load(
        home=home, mongo=stack.mongo, kafka=stack.kafka, database=f"ret_{mark}",
        topic_prefix=f"ret-{mark}.", topics_file=topics, host="store",
    )  # fmt: skip
    init_keys(settings)
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    blobs = Blobs(settings.blobs_dir)
    blobs.root.mkdir()
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        with ThreadPoolExecutor(2) as pool:
            keeper = Keeper(blobs, catalog, pool, StorageMetrics(CollectorRegistry()))
            yield Yard(settings, contract, catalog, producer, blobs, keeper)
