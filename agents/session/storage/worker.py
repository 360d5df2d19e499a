"""One partition of `session.chunks` or `session.manifests` inside storage.

A record is finished when its file is on disk, its entry in the catalog and its event on
the broker. While disk or catalog do not take it, it is tried again: nothing is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog
from aiokafka import ConsumerRecord, TopicPartition

from agents.platform.deadletters import DeadLetters
from agents.platform.eventbus import EventBus
from agents.platform.expiry import Expired
from agents.platform.partition import Fail, OffsetTracker, Tasks
from agents.platform.points import async_point
from agents.platform.retry import Backoff, Deadline, Permanent, Transient, retry
from agents.session.storage.keeper import Keeper
from schemas.canonical import Strict
from schemas.errors import FormatError
from schemas.events import RecordsExpired
from schemas.stored import ChunkRecord, ManifestRecord

log = structlog.get_logger(__name__)

SMALL = 128 * 1024  # bytes that are hashed sooner than another thread is told to
Record: TypeAlias = "ConsumerRecord[bytes, bytes]"


@dataclass(slots=True)
class Trouble:
    """The last error of a store that does not take records; the service is not ready then."""

    last: Transient | None = None
    waiting: set[str] = field(default_factory=set)

    async def check(self) -> None:
        """Raise the error while any record waits for the store."""
        if self.waiting and self.last is not None:
            raise self.last


@dataclass(frozen=True, slots=True)
class Shared:
    """What all partitions of one storage service share; `manifests` is a topic's full name."""

    keeper: Keeper
    events: EventBus
    letters: DeadLetters
    manifests: str
    trouble: Trouble
    stop: asyncio.Event


class StorageWorker:
    """Keeps the records of one partition (a PartitionWorker)."""

    def __init__(self, partition: TopicPartition, shared: Shared, fail: Fail) -> None:
        self._place = f"{partition.topic}-{partition.partition}"
        manifests = partition.topic == shared.manifests
        self._topic = "session.manifests" if manifests else "session.chunks"
        self._shared = shared
        self._tracker = OffsetTracker()
        self._tasks = Tasks(fail)

    async def start(self) -> None:
        """Storage has nothing to restore: everything is found by its name."""

    def expected(self) -> int | None:
        """Storage knows no more than the group's commit."""
        return None

    async def expired(self, lost: Expired) -> None:
        """Tell of the range; which sessions were in it, nobody can say any more."""
        event = RecordsExpired(
            session=None, topic=self._topic, partition=lost.partition,
            first_offset=lost.first, next_offset=lost.next_offset, next_seq=None,
        )  # fmt: skip
        await self._shared.events.emit(event, f"{self._topic}/{lost.partition}")
        self._tracker.jump(lost.next_offset)

    async def take(self, records: Sequence[Record]) -> None:
        """Start keeping each record."""
        for raw in records:
            self._tracker.add(raw.offset)
            self._tasks.spawn(self._handle(raw), len(raw.value or b""))

    async def _handle(self, raw: Record) -> None:
        """Keep one record until it is kept, or refuse it."""
        trouble, place = self._shared.trouble, f"{self._place}@{raw.offset}"

        def note(error: Transient, pause: float) -> None:
            trouble.last = error
            trouble.waiting.add(place)
            log.warning("storing again", partition=self._place, offset=raw.offset,
                        pause=round(pause, 2), code=error.code, error=str(error))  # fmt: skip

        try:
            await retry(
                lambda: self._keep(raw),
                backoff=Backoff(most=5.0),
                stop=self._shared.stop,
                on_retry=note,
            )
        finally:
            trouble.waiting.discard(place)
        self._tracker.done(raw.offset)

    async def _keep(self, raw: Record) -> None:
        try:
            event = await self._stored(raw)
        except (FormatError, Permanent) as error:
            await self._shared.letters.refuse(raw, error)
            return
        if event is None:
            return
        await self._shared.events.emit(event, (raw.key or b"").decode())
        await async_point("storage.event-sent")

    async def _stored(self, raw: Record) -> Strict | None:
        if raw.topic == self._shared.manifests:
            record, manifest = ManifestRecord.from_kafka(raw.key, raw.headers, raw.value)
            return await self._shared.keeper.keep_manifest(record, manifest)
        if len(raw.value or b"") <= SMALL:
            chunk = ChunkRecord.from_kafka(raw.key, raw.headers, raw.value)
        else:
            chunk = await asyncio.to_thread(ChunkRecord.from_kafka, raw.key, raw.headers, raw.value)
        return await self._shared.keeper.keep_chunk(chunk)

    def position(self) -> int | None:
        return self._tracker.position()

    def busy(self) -> int:
        return self._tasks.busy

    async def committed(self, offset: int) -> None:
        """Nothing hangs on the commit."""

    async def drain(self, deadline: Deadline) -> None:
        await self._tasks.drain(deadline)

    async def close(self) -> None:
        self._tasks.cancel()
