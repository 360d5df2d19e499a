"""Audit events: who did what, when and from where, and to which session or record.

    audit = Audit(producer, contract, host=settings.host)
    await audit.record(LetterDiscarded(…), subject)          returns when the broker holds it

    async with (audit_producer(settings, contract) as producer,
                Audit(producer, contract, service="api") as audit):
        audit.note(ResourceRead(…), subject, actor=Actor(…)) returns at once, waits in memory
        yield [audit, …]                                     as a part of a service it sends

Entries stand in their writer's chain (docs/formats/audit.md), whose state is on disk before
the broker is sent anything: what a crash interrupts is sent with the next entry. Calls that
come together go together, with one write to the disk.

LucidError
├── AuditBusy         other processes hold the chain, or too many entries wait on disk
├── AuditFull         too many notes wait in memory
└── AuditFailed       the disk does not take the state
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog

from agents.platform.audit_state import AuditBusy, AuditFailed, ChainState, Slot, take_slot
from agents.platform.broker import unreachable
from agents.platform.contract import Contract
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer, RecordTooLarge
from agents.platform.retry import Backoff, Deadline, Transient, retry
from agents.platform.settings import Settings
from schemas.audit import MAX_NAME, Actor, AuditEvent, name_of
from schemas.canonical import Strict
from schemas.envelope import MAX_EVENT, InvalidEvent
from schemas.errors import LucidError

if TYPE_CHECKING:
    from agents.platform.service import StopSignal

__all__ = [
    "Actor", "Audit", "AuditBusy", "AuditFailed", "AuditFull", "acting_user", "audit_producer",
]  # fmt: skip

log = structlog.get_logger(__name__)
SECONDS = 30.0  # that a record gets altogether
TRY_SECONDS = 25.0  # of these, that a broker gets which refuses it for now
LOCK_SECONDS = 20.0  # of these, that another command gets, which may wait for the broker itself
FINISH_SECONDS = 3.0  # that notes get at the end of a service
POLL_SECONDS = 0.01
BATCH = 500  # entries that wait on disk before more are taken, so that its state stays small
REQUEST_BYTES = 256 * 1024  # a partition has one request on its way at a time
MOST_NOTES = 10_000
MARGIN = 32 * 1024  # of a record around its data
COMMANDS = "cli"


class AuditFull(Transient):
    """More acts wait to be put down than memory may hold; nothing may be done meanwhile."""


def acting_user() -> str:
    """The user of this process by its real id; the environment may say anything."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def audit_producer(
    settings: Settings, contract: Contract, *, metrics: Metrics | None = None
) -> Producer:  # fmt: skip
    """A producer for a service's audit entries alone: many of them go in one request."""
    topic = contract.topic("audit.events")
    limits = {topic.full_name: topic.max_record}
    return Producer(settings, limits, metrics=metrics, batch_bytes=REQUEST_BYTES)


def chain_folder(settings: Settings, contract: Contract) -> Path:
    """Where the states of this installation's chains are."""
    return settings.home / "audit" / contract.topic("audit.events").full_name


@dataclass(slots=True, eq=False)
class _Waiting:
    """An act that is not on the broker yet. done: for whoever waits for it."""

    event: AuditEvent
    done: asyncio.Future[AuditEvent] | None = None


class Audit:
    """Writes to `audit.events` what users of this process do.

    producer: None, with `settings`, for one that only keeps. service: `cli` for commands, which
    share the chain of their HOME; a service has its own until it is closed. notes: how many may
    wait in memory.
    """

    name = "audit"

    def __init__(
        self, producer: Producer | None, contract: Contract, *, host: str = "",
        service: str = COMMANDS, notes: int = MOST_NOTES, settings: Settings | None = None,
    ) -> None:  # fmt: skip
        settings = settings or (producer.settings if producer else None)
        assert settings is not None
        topic = contract.topic("audit.events")
        self._producer = producer
        self._topic = topic.full_name
        # The hash of a key takes 5 µs of Python, and says nothing where there is one partition.
        self._partition = 0 if topic.partitions == 1 else None
        self._largest = min(MAX_EVENT, topic.max_record - MARGIN)
        self._source = f"lucid/{service}/{host or settings.host}"
        self._service, self._most = service, notes
        self._settings = settings
        self._folder = chain_folder(settings, contract)
        self._slot: Slot | None = None
        self._queue: deque[_Waiting] = deque()
        self._kept: list[_Waiting] = []
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._running = False  # `run` sends
        self._gave_up = False  # at the end of a service: it has no time to wait twice

    @property
    def waiting(self) -> int:
        """Acts in memory that are neither on disk nor on the broker."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next note would be refused."""
        return len(self._queue) >= self._most

    @property
    def _unsent(self) -> bool:
        state = self._slot.state if self._slot is not None else None
        return bool(self._queue or self._kept or (state is not None and state.pending))

    async def record(
        self, data: Strict, subject: str, *, actor: Actor | None = None
    ) -> AuditEvent:  # fmt: skip
        """Write an entry about `subject`, a session id or what else was acted on.

        actor: None for the user of this process. Returns once all in-sync replicas hold it.
        Trouble that passes is waited out for 30 s; raises what Producer.send raises, AuditBusy,
        AuditFailed and InvalidEvent. After a failure the entry may be sent with a later one.
        """
        done: asyncio.Future[AuditEvent] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(self._event(data, subject, actor), done)
        self._queue.append(waiting)
        try:
            async with self._in_time():
                if self._running:
                    self._wake.set()
                    await asyncio.wait([done])
                else:
                    await self._deliver_until(done)
        finally:
            if not done.done():
                done.cancel()
                with contextlib.suppress(ValueError):
                    self._queue.remove(waiting)
        return done.result()

    async def _deliver_until(self, done: asyncio.Future[AuditEvent]) -> None:
        async with self._turn:
            while not done.done():
                with contextlib.suppress(LucidError):  # it is in `done`, too
                    await self._deliver()

    def note(self, data: Strict, subject: str, *, actor: Actor | None = None) -> None:
        """Put an entry down soon: `run` sends it, together with others.

        Raises AuditFull when too many wait, and InvalidEvent. Nothing that was noted is lost
        but with the process.
        """
        if self.full:
            raise AuditFull(
                f"{self._most} acts wait to be put down in {self._topic}",
                hint="Look at the broker and the disk; it goes on by itself", retry_after=1.0,
            )  # fmt: skip
        self._queue.append(_Waiting(self._event(data, subject, actor)))
        self._wake.set()

    async def keep(self, data: Strict, subject: str, *, actor: Actor | None = None) -> None:
        """Put an entry on disk only, for the next one to send; raises AuditBusy, AuditFailed."""
        event = self._event(data, subject, actor)
        async with self._turn, self._held() as (slot, _):
            await _to_the_end(asyncio.to_thread(slot.keep, [event]))

    async def deliver(self) -> None:
        """Send what waits, on disk and in memory; raises as `record` does."""
        async with self._in_time(), self._turn:
            await self._deliver()
            while self._queue:
                await self._deliver()

    async def run(self, stop: StopSignal) -> None:
        """Send notes until `stop` is set, beginning with what a former process has left."""
        self._running = True
        sender = asyncio.create_task(self._send_notes())
        waiter = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([sender, waiter], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # What is cut off is on disk and still in `_kept`; `finish` sends it again.
            self._running = False
            sender.cancel()
            waiter.cancel()
            results = await asyncio.gather(sender, waiter, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
        await self.finish()

    async def _send_notes(self) -> None:
        pauses = Backoff(most=5.0)
        while True:
            try:
                async with self._turn:
                    await self._deliver()
                pauses.reset()
            except Transient as error:
                log.warning("audit entries wait", error=str(error), waiting=self.waiting)
                await asyncio.sleep(pauses.next(error.retry_after))
                continue
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()

    async def finish(self) -> None:
        """Send the notes that are left; what the broker does not take now is kept on disk."""
        try:
            async with asyncio.timeout(0 if self._gave_up else FINISH_SECONDS), self._turn:
                while self._unsent:
                    await self._deliver()
        except AuditFailed:
            raise
        except (TimeoutError, LucidError) as error:
            self._gave_up = True
            async with self._turn, self._held() as (slot, _):
                if self._queue:
                    await _to_the_end(self._keep_queued(slot, len(self._queue)))
            log.warning("audit entries are on disk until the next start", error=repr(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.finish()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of a service's own chain."""
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    # One entry -------------------------------------------------------------------------------

    def _event(self, data: Strict, subject: str, actor: Actor | None) -> AuditEvent:
        """An act as it happens now; raises InvalidEvent for one that could never be sent."""
        who = actor or Actor(acting_user(), "user" if self._service == COMMANDS else "service")
        event = AuditEvent(
            data, self._source, subject, user=who.user, user_type=who.user_type,
            address=who.address, roles=who.roles,
        )  # fmt: skip
        if not subject or name_of(subject) != subject:
            raise InvalidEvent(f"the subject of an audit event is not 1 to {MAX_NAME} characters")
        size = len(data.model_dump_json().encode())
        if size > self._largest:
            raise RecordTooLarge(f"the data of an audit event has {size} bytes")
        _ = event.type  # raises InvalidEvent for a model that is none of this topic
        return event

    # All that wait ---------------------------------------------------------------------------

    async def _deliver(self) -> None:
        """Put what waits on disk, send what is there, and tell who waits for it.

        After an error nobody waits any more; what is on disk is sent the next time.
        """
        try:
            async with self._held() as (slot, state):
                if room := min(len(self._queue), max(0, BATCH - len(state.pending))):
                    await _to_the_end(self._keep_queued(slot, room))
                state = slot.loaded
                if state.pending:
                    pauses, deadline = Backoff(most=5.0), Deadline(TRY_SECONDS)
                    await retry(lambda: self._send(state), backoff=pauses, deadline=deadline)
                    self._tell()
                    await _to_the_end(asyncio.to_thread(slot.settle))
        except LucidError as error:
            self._fail(error)
            raise
        self._kept.clear()

    def _tell(self) -> None:
        """Nobody has to wait until the disk knows, too: what it lacks is sent twice at worst."""
        for one in self._kept:
            if one.done is not None and not one.done.done():
                one.done.set_result(one.event)

    async def _keep_queued(self, slot: Slot, count: int) -> None:
        """Move the first of the queue to the disk; they stay in the queue if that fails."""
        batch = [self._queue.popleft() for _ in range(count)]
        try:
            placed = await asyncio.to_thread(slot.keep, [one.event for one in batch])
        except BaseException:
            self._queue.extendleft(reversed(batch))
            raise
        for one, event in zip(batch, placed, strict=True):
            one.event = event
        self._kept += batch

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """A producer tries for as long as it lives; whoever waits for it does not."""
        try:
            async with asyncio.timeout(SECONDS):
                yield
        except TimeoutError as error:
            raise unreachable(self._settings, f"no answer for {SECONDS:g} s") from error

    def _fail(self, error: LucidError) -> None:
        for one in (*self._kept, *self._queue):
            if one.done is not None and not one.done.done():
                one.done.set_exception(error)
        self._kept.clear()
        self._queue = deque(one for one in self._queue if one.done is None)

    async def _send(self, state: ChainState) -> None:
        """All that is pending, in order, over one connection; all of it again after an error."""
        assert self._producer is not None
        epoch = await self._producer.epoch()
        sendings = []
        for record in state.pending:
            key, headers, value = record.to_kafka()
            sendings.append(await self._producer.submit(
                self._topic, value, key=key, headers=[*headers], partition=self._partition,
                epoch=epoch,
            ))  # fmt: skip
        for sending in sendings:
            await self._producer.acknowledged(sending)

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[tuple[Slot, ChainState]]:
        """The chain, locked and loaded; commands let it go again at once."""
        shared = self._service == COMMANDS
        if self._slot is None:
            own = not shared and take_slot(self._folder, self._service)
            self._slot = own or Slot(self._folder, COMMANDS, COMMANDS)
        slot = self._slot
        if shared:
            await _lock(slot)
        try:
            if slot.state is None:
                await _to_the_end(asyncio.to_thread(slot.load, self._source, acting_user()))
            yield slot, slot.loaded
        finally:
            if shared:
                slot.release()


async def _lock(slot: Slot) -> None:
    deadline = Deadline(LOCK_SECONDS)
    while not slot.try_lock():
        if deadline.expired:
            raise AuditBusy(
                f"other commands have held {slot.path} for {LOCK_SECONDS:g} s",
                hint="Look whether one of them waits for the broker",
            )
        await asyncio.sleep(POLL_SECONDS)


async def _to_the_end(work: Awaitable[object]) -> None:
    """Wait for a change of the disk; whoever is cancelled meanwhile still waits for its end."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
