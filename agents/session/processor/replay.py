"""Replay: frame records through the processor's own worker, beside what is stored.

The worker, its threads and its budgets are those of `lucid run processor`; only what comes
out goes elsewhere (comparing.py), and nothing is committed: the log is read without a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from aiokafka import TopicPartition

from agents.platform.reader import POLL_MS, Record, TopicReader
from agents.session.processor.comparing import Comparing
from agents.session.processor.ranges import Stretch, is_open
from agents.session.processor.worker import FramesWorker, Shared

Step = Callable[[int, int], None]
"""Called with how many offsets were read, and of how many."""


@dataclass(slots=True)
class Passed:
    """A session that a replay did not cover: its first record in the range, and why."""

    session: str
    partition: int
    offset: int
    reason: str


@dataclass(slots=True)
class Part:
    """One stretch that is being read; `following`: the sessions whose records are taken."""

    stretch: Stretch
    worker: FramesWorker
    following: set[str] = field(default_factory=set)
    position: int = 0


class Replay:
    """Reads stretches of the log once, all partitions side by side.

    busy_limit: bytes being sealed and compared above which nothing more is read.
    only: the one session to replay; None: each that opens in a stretch.
    """

    def __init__(
        self, log: TopicReader, comparing: Comparing, shared: Shared, busy_limit: int,
        only: UUID | None = None,
    ) -> None:  # fmt: skip
        self._log = log
        self._comparing = comparing
        self._shared = shared
        self._busy_limit = busy_limit
        self._only = str(only) if only else None
        self._failure: BaseException | None = None
        self._parts: dict[TopicPartition, Part] = {}
        self.passed: dict[str, Passed] = {}

    async def run(self, stretches: Sequence[Stretch], step: Step = lambda *_: None) -> None:
        """Replay; raises RecordsGone when records go from the broker meanwhile."""
        for stretch in stretches:
            place = self._log.places[stretch.partition]
            worker = FramesWorker(place, self._shared, self._fail)
            self._parts[place] = Part(stretch, worker, position=stretch.start)
        consumer = self._log.consumer
        consumer.assign(list(self._parts))
        for place, part in self._parts.items():
            consumer.seek(place, part.position)
        try:
            await self._read(step)
            await self._room(0)
        finally:
            for part in self._parts.values():
                await part.worker.close()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    async def _read(self, step: Step) -> None:
        consumer, live = self._log.consumer, set(self._parts)
        total = sum(one.stretch.end - one.stretch.start for one in self._parts.values())
        while live:
            batches = await consumer.getmany(timeout_ms=POLL_MS)
            for place, records in batches.items():
                part = self._parts[place]
                await part.worker.take(self._choose(part, records))
                position = part.worker.position()
                if position is not None:
                    await part.worker.committed(position)
            await self._room(self._busy_limit)
            for place in list(live):
                part = self._parts[place]
                part.position = min(await consumer.position(place), part.stretch.end)
                if part.position >= part.stretch.end or self._finished(part):
                    live.discard(place)
                    consumer.pause(place)
                    part.position = part.stretch.end
            done = sum(one.position - one.stretch.start for one in self._parts.values())
            step(done, total)

    async def _room(self, limit: int) -> None:
        """Wait until no more than `limit` bytes are in flight; raises what a worker failed with."""
        workers = [part.worker for part in self._parts.values()]
        while self._failure is None and sum(worker.busy() for worker in workers) > limit:
            await max(workers, key=lambda worker: worker.busy()).one()
        if self._failure is not None:
            raise self._failure

    def _choose(self, part: Part, records: Sequence[Record]) -> list[Record]:
        """The records of the sessions that are replayed."""
        chosen = []
        for raw in records:
            session = (raw.key or b"").decode("ascii", "replace")
            if raw.offset >= part.stretch.end:
                continue
            if session not in part.following and not self._starts(part, session, raw):
                continue
            if not self._comparing.over(session):
                chosen.append(raw)
        return chosen

    def _starts(self, part: Part, session: str, raw: Record) -> bool:
        if self._only is not None and session != self._only:
            return False
        if raw.offset < part.stretch.opens_before and self._comparing.erased(session):
            reason = "its content was erased"
        elif is_open(raw) and raw.offset < part.stretch.opens_before:
            if self._comparing.begin(session, raw.partition, raw.offset):
                part.following.add(session)
                return True
            reason = "another open record of it is in another partition"
        elif raw.offset < part.stretch.opens_before:
            reason = "no open record of it is in the range"
        else:
            return False
        if session not in self.passed:
            self.passed[session] = Passed(session[:64], raw.partition, raw.offset, reason)
        return False

    def _finished(self, part: Part) -> bool:
        """No session can begin any more, and those that did have ended."""
        return part.position >= part.stretch.opens_before and all(
            self._comparing.over(session) for session in part.following
        )
