"""One partition of `session.frames` inside a processor.

A record is finished, and its offset may be committed, when its chunk is acknowledged by
the broker, then its manifest if it was the last, then its progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog
from aiokafka import ConsumerRecord, TopicPartition

from agents.platform.dataplane import Fail, OffsetTracker, Tasks
from agents.platform.deadletters import Refusable
from agents.platform.retry import Deadline
from agents.session.processor.chunker import Cut, NoOpenRecord
from agents.session.processor.holding import HoldingBudget
from agents.session.processor.metrics import ProcessorMetrics
from agents.session.processor.sealer import open_session
from agents.session.processor.session import Session
from schemas.chunks import Chunk
from schemas.errors import LucidError
from schemas.frames import FrameRecord, Kind, from_kafka
from schemas.manifests import Manifest
from schemas.progress import SessionProgress

log = structlog.get_logger(__name__)

Record: TypeAlias = "ConsumerRecord[bytes, bytes]"


class Results(Protocol):
    """Where a worker's results go: to the topics (outlet.py), or beside what is stored
    (comparing.py). Each call returns once its result is safe there."""

    async def read_progress(self, partition: int) -> list[SessionProgress]: ...
    async def publish_chunk(self, progress: SessionProgress, chunk: Chunk) -> None: ...
    async def publish_manifest(self, progress: SessionProgress, manifest: Manifest) -> None: ...
    async def publish_progress(self, progress: SessionProgress) -> None: ...
    async def forget(self, progress: SessionProgress) -> None: ...
    async def refuse(self, raw: Refusable, error: LucidError) -> None: ...


@dataclass(frozen=True, slots=True)
class Shared:
    """What all partitions of one processor share. identities are age secret keys."""

    outlet: Results
    identities: Sequence[str]
    pool: ThreadPoolExecutor
    holding: HoldingBudget
    metrics: ProcessorMetrics


class FramesWorker:
    """Cuts, seals and publishes the sessions of one partition (a PartitionWorker)."""

    def __init__(
        self, partition: TopicPartition, committed: int | None, shared: Shared, fail: Fail
    ) -> None:
        self._partition = partition.partition
        self._committed = committed or 0
        self._shared = shared
        self._tracker = OffsetTracker()
        self._sessions: dict[str, Session] = {}
        self._tasks = Tasks(fail)

    async def start(self) -> None:
        """Take up every session that the partition's progress records speak of."""
        for progress in await self._shared.outlet.read_progress(self._partition):
            if progress.ended and progress.offset < self._committed:
                await self._shared.outlet.forget(progress)
                continue
            try:
                self._adopt(progress)
            except LucidError as error:
                log.error("cannot take up a session", session=progress.opened.session,
                          partition=self._partition, code=error.code, error=str(error))  # fmt: skip

    def _adopt(self, progress: SessionProgress) -> Session:
        session = Session(progress, self._shared.identities)
        self._sessions[progress.opened.session] = session
        self._shared.holding.watch(session.chunker)
        self._shared.metrics.open_sessions.inc()
        return session

    async def take(self, records: Sequence[Record]) -> None:
        """Route records to their sessions; what fits nowhere becomes a dead letter."""
        for raw in records:
            try:
                self._route(raw)
            except LucidError as error:
                self._tracker.add(raw.offset)
                self._tasks.spawn(self._refuse(raw, error), len(raw.value or b""))
        await self._shared.holding.trim()

    def _route(self, raw: Record) -> None:
        record = from_kafka(raw.key, raw.headers, raw.value)
        session = self._session_of(record, raw.offset)
        known = session.chunker.duplicates
        cuts = list(session.chunker.add(record, raw.offset))
        self._shared.metrics.took(record, session.chunker.duplicates - known)
        starts = (session.chunker.first_offset, *(cut.first_offset for cut in cuts))
        if raw.offset in starts:
            self._tracker.add(raw.offset)
        else:
            self._tracker.skip(raw.offset)
        for cut in cuts:
            self._tasks.spawn(self._publish(session, cut), cut.raw_size)

    def _session_of(self, record: FrameRecord, offset: int) -> Session:
        session = self._sessions.get(str(record.session))
        if session is not None:
            return session
        if record.kind is not Kind.OPEN:
            raise NoOpenRecord(
                f"record {record.seq} ({record.kind.label}) of session {record.session} came "
                f"without an open record before it in partition {self._partition}",
                hint="Its open record expired, was refused, or is in another partition",
            )
        session = self._adopt(open_session(record, self._partition, offset))
        log.info("session opened", session=str(record.session), partition=self._partition,
                 offset=offset)  # fmt: skip
        return session

    async def _publish(self, session: Session, cut: Cut) -> None:
        outlet, loop = self._shared.outlet, asyncio.get_running_loop()
        async with session.sealing:
            with self._shared.metrics.seal_seconds.time():
                sealed = await loop.run_in_executor(self._shared.pool, session.seal, cut)
        chunk, progress, manifest = sealed
        async with session.publishing:
            await outlet.publish_chunk(progress, chunk)
            if manifest is not None:
                await outlet.publish_manifest(progress, manifest)
            await outlet.publish_progress(progress)
        self._tracker.done(cut.first_offset)
        self._shared.metrics.sealed(chunk)
        if manifest is not None:
            self._shared.holding.forget(session.chunker)
            self._shared.metrics.open_sessions.dec()
            log.info("session sealed", session=manifest.session, partition=self._partition,
                     chunks=manifest.chunks, root=manifest.root)  # fmt: skip

    async def _refuse(self, raw: Record, error: LucidError) -> None:
        await self._shared.outlet.refuse(raw, error)
        self._tracker.done(raw.offset)

    def position(self) -> int | None:
        return self._tracker.position()

    def busy(self) -> int:
        return self._tasks.busy

    async def one(self) -> None:
        """Wait until something that is in flight is finished."""
        await self._tasks.one()

    async def committed(self, offset: int) -> None:
        """Drop the sessions that ended before `offset`: nothing of them is read again."""
        for name, session in list(self._sessions.items()):
            progress = session.progress
            if progress.ended and progress.offset < offset and not session.publishing.locked():
                await self._shared.outlet.forget(progress)
                del self._sessions[name]

    async def drain(self, deadline: Deadline) -> None:
        await self._tasks.drain(deadline)

    async def close(self) -> None:
        self._tasks.cancel()
        for session in self._sessions.values():
            self._shared.holding.forget(session.chunker)
            session.chunker.held.discard()
            if not session.progress.ended:
                self._shared.metrics.open_sessions.dec()
        self._sessions.clear()
