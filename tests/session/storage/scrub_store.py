"""A store with sessions in it, and its scrub."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.eventbus import EventBus
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.session.storage.findings import Ledger
from agents.session.storage.keeper import Keeper
from agents.session.storage.metrics import ScrubMetrics
from agents.session.storage.reading import Reader
from agents.session.storage.rounds import Rounds
from agents.session.storage.scrub import Scrubber
from schemas.events import event_from_kafka
from schemas.manifests import read_manifest
from schemas.stored import ChunkRecord, ManifestRecord
from tests.factories import MadeSession, make_session


@dataclass
class Store:
    """A store with a session in it, and what scrubs it."""

    settings: Settings
    blobs: Blobs
    catalog: Catalog
    pool: ThreadPoolExecutor
    events: EventBus
    topic: str
    metrics: ScrubMetrics
    keeper: Keeper
    made: MadeSession = field(default_factory=make_session)

    @property
    def session(self) -> str:
        return str(self.made.session)

    def scrubber(self, grace: float = 0.0, rate: int = 0) -> Scrubber:
        reader = Reader(rate, self.metrics.bytes.inc)
        return Scrubber(self.blobs, self.catalog, reader, self.pool, grace)

    def rounds(self, pause: float = 60.0, **more: Any) -> Rounds:
        ledger = Ledger(self.catalog, self.events, self.metrics)
        file = self.settings.home / "scrub.json"
        return Rounds(self.scrubber(**more), ledger, self.metrics, file, pause)

    async def fill(self, *, manifest: bool = True) -> None:
        for chunk in self.made.chunks:
            await self.keeper.keep_chunk(ChunkRecord(chunk, self.made.wrapped))
        if manifest:
            record = ManifestRecord(
                self.made.manifest_bytes, self.made.checkpoint, self.made.wrapped
            )
            await self.keeper.keep_manifest(record, read_manifest(self.made.manifest_bytes))

    def path(self, name: str) -> Path:
        return self.blobs.path(self.session, name)

    async def verdicts(self, session: str | None = None, **more: Any) -> dict[str, str]:
        looks = self.scrubber(**more).look(self.session if session is None else session)
        return {one.name: one.finding.verdict async for one in looks if one.finding}

    async def told(self) -> list[Any]:
        """The data of all events so far."""
        return [
            event_from_kafka(raw.key, raw.headers, raw.value).data
            async for raw in read_topic(self.settings, self.topic)
        ]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
