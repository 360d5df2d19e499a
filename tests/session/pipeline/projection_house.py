"""A pipeline and its view, live and rebuilt, against the real servers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from agents.platform.catalog import Catalog, chunk_document, manifest_document
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.projection_commands import FETCH_BYTES, list_projections
from agents.platform.reader import open_reader
from agents.platform.rebuild import Rebuild, Rebuilt
from agents.platform.retry import Backoff, retry
from agents.platform.settings import Settings
from agents.session.pipeline.keeper import SessionKeeper, Topics
from agents.session.pipeline.projection import SESSIONS
from schemas.canonical import Strict
from schemas.events import (
    ChunkConflict,
    ManifestStored,
    SessionAbandoned,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    SessionPaused,
    SessionResumed,
    chunk_stored,
)
from schemas.manifests import manifest_hash
from tests.conftest import Stack
from tests.factories import MadeSession, make_session

HASH = "ab" * 32
SEEDS = itertools.count(40)
STATES = ("recording", "paused", "processing", "completed", "incomplete")


async def nothing() -> None:
    """Happens when a view is frozen."""


@dataclass
class House:
    """A pipeline's keeper, a topic of events, a catalog."""

    settings: Settings
    contract: Contract
    catalog: Catalog
    producer: Producer
    keeper: SessionKeeper
    sent: list[tuple[SessionEvent, tuple[int, int]]] = field(default_factory=list)
    when_frozen: Callable[[], Awaitable[None]] = nothing

    async def send(self, data: Strict, session: str) -> tuple[SessionEvent, tuple[int, int]]:
        """Put an event on the topic; its place."""
        event = SessionEvent(data, "lucid/test/h", session)
        topic = self.contract.topic("session.events").full_name
        placed = await self.producer.send_event(topic, event)
        self.sent.append((event, (placed.partition, placed.offset)))
        return self.sent[-1]

    async def live(self, data: Strict, session: str) -> None:
        """An event that the live pipeline handles, as the control plane has it do."""
        event, place = await self.send(data, session)
        await retry(lambda: self.keeper.handle(event, place), backoff=Backoff(0.02, 0.1))

    async def rebuild(self, **more: Any) -> Rebuilt:
        async with open_reader(
            self.settings, self.contract, "session.events", FETCH_BYTES
        ) as reader:
            work = Rebuild(self.catalog, reader, SESSIONS, **{"cache_bytes": 1 << 20, **more})
            work.frozen = self.when_frozen
            return await work.run()

    async def view(self) -> dict[str, dict[str, Any]]:
        """All documents of the live view, without what only counts writes."""
        return {
            one["_id"]: {name: value for name, value in one.items() if name != "version"}
            for one in await self.catalog.find("sessions")
        }

    async def trusted_view(self) -> dict[str, dict[str, Any]]:
        """The same without the pipeline's own clock and its place in the topic."""
        return {
            key: {**one, "last_sign": 0, "changed": 0, "positions": {}}
            for key, one in (await self.view()).items()
        }


def installation(stack: Stack, home: Path) -> Settings:
    mark = uuid4().hex[:8]
    settings = Settings.load(
        home=home, kafka=stack.kafka, mongo=stack.mongo, database=f"p{mark}",
        topic_prefix=f"p{mark}.",
    )  # fmt: skip
    asyncio.run(apply_contract(settings, load_contract(settings)))
    return settings


@asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    contract = load_contract(settings)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        events = EventBus(producer, contract, service="pipeline", host="h")
        topics = Topics(
            contract.topic("session.frames").full_name, contract.topic("session.anchors").full_name
        )
        keeper = SessionKeeper(catalog, producer, events, topics, "h")
        yield House(settings, contract, catalog, producer, keeper)


def opened(session: str) -> SessionOpened:
    return SessionOpened(session=session, partition=2, offset=0, host="desk", recorder="r",
                         codec="bytes/1", source={}, started=1)  # fmt: skip


def conflict(session: str) -> ChunkConflict:
    return ChunkConflict(session=session, index=0, stored_leaf=HASH, refused_leaf=HASH)


def closed(made: MadeSession) -> SessionClosed:
    return SessionClosed(
        session=made.manifest.session, next_seq=made.manifest.next_seq, raw_bytes=1, reason="done"
    )


async def listed(house: House) -> dict[str, Any]:
    """What `lucid projections list` says of the sessions."""
    found = await list_projections(house.settings)
    return next(one for one in found if one["projection"] == "sessions")


async def stored(house: House, made: MadeSession) -> list[Strict]:
    """Chunks and manifest in the catalog; the events of storage."""
    session, found = made.manifest.session, []
    for chunk in made.chunks:
        header = chunk.header
        await house.catalog.insert("chunks", chunk_document(header, chunk.leaf, len(chunk.data)))
        found.append(chunk_stored(header, chunk.leaf, len(chunk.data)))
    document = manifest_document(session, made.manifest_bytes, made.checkpoint)
    await house.catalog.insert("manifests", document)
    digest = manifest_hash(made.manifest_bytes).hex()
    return [*found, ManifestStored(session=session, manifest_hash=digest)]


async def sessions_of_all_states(house: House) -> dict[str, str]:
    """Sessions by the state that they end in."""
    found = {}
    for state in STATES:
        made = make_session(seed=next(SEEDS), drop=[3, 4] if state == "incomplete" else ())
        session = made.manifest.session
        found[state] = session
        await house.live(opened(session), session)
        await house.live(SessionPaused(session=session, reason="lunch"), session)
        if state == "paused":
            continue
        await house.live(SessionResumed(session=session, reason="back"), session)
        beat = SessionHeartbeat(session=session, next_seq=5, raw_bytes=700)
        await house.live(beat, session)
        if state == "recording":
            continue
        if state != "completed":
            await house.live(conflict(session), session)
        await house.live(closed(made), session)
        events = await stored(house, made)
        for data in events[:-1] if state == "processing" else events:
            await house.live(data, session)
    abandoned = make_session(seed=next(SEEDS), end="abandon")
    session = found["abandoned"] = abandoned.manifest.session
    await house.live(opened(session), session)
    end = SessionAbandoned(session=session, partition=2, offset=9, reason="silence")
    for data in [end, *await stored(house, abandoned)]:
        await house.live(data, session)
    return found
