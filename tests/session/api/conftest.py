"""A running API on the real servers, with sessions whose every part is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from agents.platform.blobs import CHECKPOINT, KEY, MANIFEST, Blobs, chunk_name
from agents.platform.catalog import Catalog, chunk_document, manifest_document
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.service import make_service, serve
from agents.platform.settings import Settings
from agents.platform.token_keys import rotate
from agents.platform.tokens import issue
from agents.session.api.agent import Room
from agents.session.api.settings import ApiSettings
from agents.session.pipeline.keeper import SessionKeeper, Topics
from schemas.access import Role
from schemas.canonical import Strict
from schemas.events import (
    ManifestStored,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    chunk_stored,
)
from schemas.manifests import manifest_hash
from tests.conftest import Stack
from tests.factories import START, MadeSession, make_session
from tests.waiting import until

BASE = "/api/v1"


@dataclass
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Yard:
    """An installation whose sessions are put there by hand, through the pipeline's own code."""

    settings: Settings
    contract: Contract
    catalog: Catalog
    producer: Producer
    keeper: SessionKeeper
    made: dict[str, MadeSession] = field(default_factory=dict)

    async def tell(self, data: Strict, session: str) -> tuple[int, int]:
        """An event on the topic, handled by the pipeline."""
        event = SessionEvent(data, "lucid/test/h", session)
        topic = self.contract.topic("session.events").full_name
        placed = await self.producer.send_event(topic, event)
        await self.keeper.handle(event, (placed.partition, placed.offset))
        return placed.partition, placed.offset

    async def open(self, made: MadeSession, owner: str, project: str) -> str:
        """A session that was opened."""
        session = made.manifest.session
        self.made[session] = made
        manifest = made.manifest
        await self.tell(
            SessionOpened(
                session=session, partition=0, offset=0, host=manifest.host, codec=manifest.codec,
                recorder=manifest.recorder, source=manifest.source, owner=owner, project=project,
                started=START + len(self.made),
            ),
            session,
        )  # fmt: skip
        await self.tell(SessionHeartbeat(session=session, next_seq=1, raw_bytes=0), session)
        return session

    async def store(self, made: MadeSession, chunks: Sequence[int] | None = None) -> None:
        """Chunks on disk, in the catalog and told of."""
        session, blobs = made.manifest.session, Blobs(self.settings.blobs_dir)
        blobs.put(session, KEY, made.wrapped)
        for chunk in made.chunks:
            if chunks is not None and chunk.header.index not in chunks:
                continue
            blobs.put(session, chunk_name(chunk.header.index), chunk.data)
            await self.catalog.insert(
                "chunks", chunk_document(chunk.header, chunk.leaf, len(chunk.data))
            )
            await self.tell(chunk_stored(chunk.header, chunk.leaf, len(chunk.data)), session)

    async def close(self, made: MadeSession) -> None:
        """The rest of a session that ends well."""
        session, manifest = made.manifest.session, made.manifest
        await self.tell(
            SessionClosed(session=session, next_seq=manifest.next_seq, raw_bytes=10, reason="done"),
            session,
        )
        blobs = Blobs(self.settings.blobs_dir)
        blobs.put(session, MANIFEST, made.manifest_bytes)
        blobs.put(session, CHECKPOINT, made.checkpoint.encode())
        await self.catalog.insert(
            "manifests", manifest_document(session, made.manifest_bytes, made.checkpoint)
        )
        digest = manifest_hash(made.manifest_bytes).hex()
        await self.tell(ManifestStored(session=session, manifest_hash=digest), session)

    async def whole(self, owner: str = "ada", project: str = "payroll", **how: Any) -> str:
        """A session from its opening to its end."""
        made = make_session(**{"seed": len(self.made), **how})
        session = await self.open(made, owner, project)
        await self.store(made)
        await self.close(made)
        return session

    def token(self, *roles: Role, owners: Sequence[str] = ("*",), projects: Sequence[str] = ("*",),
              subject: str = "tester", minutes: int = 10) -> str:  # fmt: skip
        return issue(
            self.settings, subject=subject, roles=list(roles or [Role.ADMIN]),
            owners=list(owners), projects=list(projects), seconds=minutes * 60,
        ).token  # fmt: skip


@dataclass
class Running:
    """The API on its port. `get` asks as an admin unless it is given another token."""

    yard: Yard
    port: int
    client: aiohttp.ClientSession
    admin: str
    stop: Callable[[], None]

    async def get(
        self, path: str, *, token: str | None = None, headers: dict[str, str] | None = None,
        method: str = "GET",
    ) -> Answer:  # fmt: skip
        more = {"Authorization": f"Bearer {self.admin if token is None else token}"}
        if token == "":
            more = {}
        address = f"http://127.0.0.1:{self.port}{path}"
        async with self.client.request(
            method, address, headers={**more, **(headers or {})}
        ) as found:
            return Answer(found.status, found.headers, await found.read())

    async def until(
        self, path: str, check: Callable[[Answer], bool], seconds: float = 20
    ) -> Answer:
        """The first answer that passes the check."""

        async def look() -> Answer | None:
            return found if check(found := await self.get(path)) else None

        found: Answer = await until(look, f"such answer to {path}", seconds, every=0.05)
        return found


def settings_of(stack: Stack, home: Path, **more: Any) -> Settings:
    name = f"api{uuid4().hex[:8]}"
    return Settings.load(**{
        "home": home, "kafka": stack.kafka, "mongo": stack.mongo, "redis": stack.redis,
        "database": name, "topic_prefix": f"{name}.", **more,
    })  # fmt: skip


@asynccontextmanager
async def a_yard(settings: Settings) -> AsyncIterator[Yard]:
    """Topics, a database, a signing key for tokens."""
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    rotate(settings)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        await catalog.prepare()
        topics = Topics(
            contract.topic("session.frames").full_name, contract.topic("session.anchors").full_name
        )
        events = EventBus(producer, contract, service="pipeline", host="h")
        keeper = SessionKeeper(catalog, producer, events, topics, "h")
        yield Yard(settings, contract, catalog, producer, keeper)


@asynccontextmanager
async def running(yard: Yard, **section: Any) -> AsyncIterator[Running]:
    """The API of an installation, from ready to stopped."""
    room = Room()
    service = make_service("api", yard.settings, ApiSettings(port=0, **section))
    task = asyncio.create_task(serve(service, room.build, front=room.front))
    try:
        async with aiohttp.ClientSession() as client, asyncio.timeout(30):
            while not service.port and not task.done():
                await asyncio.sleep(0.02)
            found = Running(yard, service.port, client, yard.token(), service.stop.set)
            while (await found.get("/health/ready")).status != 200 and not task.done():
                await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as found.client:
            yield found
    finally:
        service.stop.set()
        status = await asyncio.wait_for(task, 20)
    assert status == 0


@pytest.fixture
async def yard(stack: Stack, tmp_path: Path) -> AsyncIterator[Yard]:
    async with a_yard(settings_of(stack, tmp_path)) as found:
        yield found


@pytest.fixture
async def api(yard: Yard) -> AsyncIterator[Running]:
    async with running(yard, rate=100_000, heavy_rate=100_000) as found:
        yield found
