"""One partition of `session.frames` inside a processor.

A record is finished, and its offset may be committed, when its chunk is acknowledged by
the broker, then its manifest if it was the last, then its progress.

A session that has ended is remembered for a while after that: records of it that come a
second time, from a recorder that had no acknowledgement, are duplicates and no strangers.

LucidError
└── CannotTakeUp      this processor lacks what a running session needs
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol, TypeAlias

import structlog
from aiokafka import ConsumerRecord, TopicPartition

from agents.platform.deadletters import Refusable
from agents.platform.expiry import Expired
from agents.platform.partition import Fail, OffsetTracker, Tasks
from agents.platform.retry import Deadline
from agents.session.processor.chunker import Cut, NoOpenRecord
from agents.session.processor.holding import HoldingBudget
from agents.session.processor.metrics import ProcessorMetrics
from agents.session.processor.sealer import open_session
from agents.session.processor.session import Session
from schemas.canonical import Strict
from schemas.chunks import Chunk
from schemas.errors import LucidError
from schemas.events import RecordsExpired, SessionOpened, SessionUnsealed
from schemas.frames import FrameRecord, Kind, from_kafka
from schemas.manifests import Manifest
from schemas.progress import SessionProgress

log = structlog.get_logger(__name__)

FRAMES = "session.frames"
REMEMBER_SECONDS = 300.0  # that an ended session is known; longer than a recorder tries again
Record: TypeAlias = "ConsumerRecord[bytes, bytes]"


class CannotTakeUp(LucidError):
    """A session that another processor began to seal cannot be gone on with."""

    exit_status = 77  # EX_NOPERM of sysexits.h


class Results(Protocol):
    """Where a worker's results go: to the topics (outlet.py), or beside what is stored
    (comparing.py). Each call returns once its result is safe there."""

    async def read_progress(self, partition: int) -> list[SessionProgress]: ...
    async def publish_chunk(self, progress: SessionProgress, chunk: Chunk) -> None: ...
    async def publish_manifest(self, progress: SessionProgress, manifest: Manifest) -> None: ...
    async def publish_progress(self, progress: SessionProgress) -> None: ...
    async def forget(self, progress: SessionProgress) -> None: ...
    async def refuse(self, raw: Refusable, error: LucidError) -> None: ...
    async def tell(self, data: Strict, subject: str) -> None: ...


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

    def __init__(self, partition: TopicPartition, shared: Shared, fail: Fail) -> None:
        self._partition = partition.partition
        self._shared = shared
        self._tracker = OffsetTracker()
        self._sessions: dict[str, Session] = {}
        self._ended: dict[str, Session] = {}  # of these, in the order of their ends
        self._tasks = Tasks(fail)

    async def start(self) -> None:
        """Take up every session that the partition's progress records speak of.

        Raises CannotTakeUp: without the session its records would all be refused, though
        another processor can seal them.
        """
        for progress in await self._shared.outlet.read_progress(self._partition):
            try:
                self._adopt(progress)
            except LucidError as error:
                if progress.ended:
                    continue
                raise CannotTakeUp(
                    f"session {progress.opened.session} on partition {self._partition} was sealed "
                    f"up to record {progress.next_seq}, and cannot be taken up here: {error}",
                    hint="Its records wait: start a processor with the identity that it was "
                    "opened with (LUCID_PROCESSOR_IDENTITY)",
                ) from error

    def _adopt(self, progress: SessionProgress) -> Session:
        session = Session(progress, self._shared.identities)
        self._sessions[progress.opened.session] = session
        if progress.ended:
            self._ended[progress.opened.session] = session
        else:
            self._shared.holding.watch(session.chunker)
            self._shared.metrics.open_sessions.inc()
        return session

    def expected(self) -> int | None:
        """Behind the first of the last records that the running sessions have sealed."""
        known = [one.progress.offset for one in self._sessions.values() if not one.progress.ended]
        return min(known) + 1 if known else None

    async def expired(self, lost: Expired) -> None:
        """Tell of the partition, and of each session that has not ended before the range."""
        running = [
            (name, session.chunker.next_seq)
            for name, session in self._sessions.items()
            if not session.chunker.ended and session.progress.offset + 1 < lost.next_offset
        ]
        log.error("sessions may have lost records", partition=self._partition,
                  sessions=[name for name, _ in running])  # fmt: skip
        for name, next_seq in [*running, (None, None)]:
            event = RecordsExpired(
                session=name, topic=FRAMES, partition=self._partition,
                first_offset=lost.first, next_offset=lost.next_offset, next_seq=next_seq,
            )  # fmt: skip
            await self._shared.outlet.tell(event, name or f"{FRAMES}/{self._partition}")
        self._tracker.jump(lost.next_offset)

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
        if record.kind is Kind.ABANDON and str(record.session) not in self._sessions:
            self._tracker.add(raw.offset)
            self._tasks.spawn(self._unsealed(record, raw.offset), len(record.payload))
            return
        session = self._session_of(record, raw)
        chunker = session.chunker
        known = chunker.duplicates
        cuts = list(chunker.add(record, raw.offset))
        self._shared.holding.changed(chunker)
        self._shared.metrics.took(record, chunker.duplicates - known)
        # An offset is open while a chunk begins there that is not published.
        begins = raw.offset == chunker.first_offset
        if begins or any(raw.offset == cut.first_offset for cut in cuts):
            self._tracker.add(raw.offset)
        else:
            self._tracker.skip(raw.offset)
        for cut in cuts:
            self._tasks.spawn(self._publish(session, cut), cut.raw_size)

    def _session_of(self, record: FrameRecord, raw: Record) -> Session:
        # The key was read as the id's only form; making the text anew takes as long as the rest.
        session = self._sessions.get((raw.key or b"").decode())
        if session is not None:
            return session
        offset = raw.offset
        if record.kind is not Kind.OPEN:
            raise NoOpenRecord(
                f"record {record.seq} ({record.kind.label}) of session {record.session} came "
                f"without an open record before it in partition {self._partition}",
                hint="Its open record expired, was refused, or is in another partition",
            )
        session = self._adopt(open_session(record, self._partition, offset))
        # The recorder says the same, unless it dies in between: then nobody else would know.
        session.told = asyncio.create_task(self._tell_opened(session, record, offset))
        # At debug, since a line costs 60 µs and more: the event says the same.
        log.debug("session opened", session=str(record.session), partition=self._partition,
                  offset=offset)  # fmt: skip
        return session

    async def _tell_opened(self, session: Session, record: FrameRecord, offset: int) -> None:
        event = SessionOpened.of(session.progress.opened, self._partition, offset, record.time)
        await self._shared.outlet.tell(event, event.session)

    async def _unsealed(self, record: FrameRecord, offset: int) -> None:
        """An end of a session that is not known here: sealed long ago, or never opened."""
        event = SessionUnsealed(
            session=str(record.session), partition=self._partition, offset=offset
        )
        await self._shared.outlet.tell(event, event.session)
        self._tracker.done(offset)

    async def _publish(self, session: Session, cut: Cut) -> None:
        outlet, loop = self._shared.outlet, asyncio.get_running_loop()
        async with session.sealing:
            with self._shared.metrics.seal_seconds.time():
                sealed = await loop.run_in_executor(self._shared.pool, session.seal, cut)
        chunk, progress, manifest = sealed
        async with session.publishing:
            await outlet.publish_chunk(progress, chunk)
            if session.told is not None:
                await session.told
            if manifest is not None:
                await outlet.publish_manifest(progress, manifest)
            await outlet.publish_progress(progress)
        self._tracker.done(cut.first_offset)
        self._shared.metrics.sealed(chunk)
        if manifest is not None:
            self._ended[manifest.session] = session
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
        """Drop the sessions that ended long before `offset`: nothing of them is read again."""
        long_ago = time.monotonic() - REMEMBER_SECONDS
        # Only as far as the first that ended lately: there may be thousands, each second.
        old = list(takewhile(lambda one: one[1].since <= long_ago, self._ended.items()))
        for name, session in old:
            if session.progress.offset < offset:
                # In a task: a commit must not wait for a broker that is away.
                self._tasks.spawn(self._shared.outlet.forget(session.progress), 0)
                del self._sessions[name], self._ended[name]

    async def drain(self, deadline: Deadline) -> None:
        await self._tasks.drain(deadline)

    async def close(self) -> None:
        self._tasks.cancel()
        for session in self._sessions.values():
            if session.told is not None:
                session.told.cancel()
            if self._shared.holding.watches(session.chunker):
                self._shared.metrics.open_sessions.dec()
            self._shared.holding.forget(session.chunker)
            session.chunker.held.discard()
        self._sessions.clear()
        self._ended.clear()
