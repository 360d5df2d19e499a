"""One session from its `open` to its `close` record.

    recording = Recording(source, order, outlet)
    await recording.open()             the `open` record is on the broker
    ended = await recording.run()      until the source ends, fails, or stop() is called

The source captures in a thread of its own; everything else happens in the event loop, so
that records are numbered, chained and queued one by one. A source that fails ends the
session with a `gap` and a `close`: what was captured before stays provable.

LucidError
└── EndedElsewhere      the session was given up while it was recorded
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import structlog

from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.session.recorder.publisher import Publisher
from agents.session.recorder.sequencer import Sequencer
from agents.session.recorder.sources.base import (
    Control,
    Source,
    SourceError,
    SourceInfo,
    Stopped,
    now,
)
from schemas.canonical import Strict
from schemas.chunks import Sealing
from schemas.controls import Gap, Open, Pause, Resume
from schemas.datakey import derive, new_data_key, wrap
from schemas.errors import LucidError
from schemas.events import (
    SessionClosed,
    SessionHeartbeat,
    SessionOpened,
    SessionPaused,
    SessionResumed,
)
from schemas.frames import FrameRecord, Kind
from schemas.notes import Signer
from schemas.sessions import new_session_id

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 3.0  # for a source to notice that the recording is over
END_OF_SOURCE = "end of the source"


class EndedElsewhere(LucidError):
    """The pipeline gave the session up: what is captured now would be nobody's."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to record for whom. recipients: age recipients that can open the session."""

    signer: Signer
    recipients: Sequence[str]
    host: str
    owner: str = ""
    project: str = ""
    sealing: Sealing = field(default_factory=Sealing)
    keepalive_every: float = 5.0
    unacknowledged: int = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where a recorder's records and events go; `partitions` of topic `frames`."""

    producer: Producer
    events: EventBus
    frames: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a recording ended; error: what the source or the broker failed with."""

    reason: str
    records: int
    frames: int
    raw_bytes: int
    error: LucidError | None = None


class Recording:
    """A session that is being recorded."""

    def __init__(self, source: Source, order: Order, outlet: Outlet) -> None:
        self.session = new_session_id()
        self.info = SourceInfo("", "")
        self.state: Literal["opening", "recording", "paused", "closed"] = "opening"
        self.frames = 0
        self.raw_bytes = 0
        self.started = time.monotonic()
        self._source, self._order, self._outlet = source, order, outlet
        self._control = Control()
        self._turn = asyncio.Lock()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._ending: asyncio.Future[str] | None = None
        self._error: LucidError | None = None
        partition = self.session.int % outlet.partitions
        self._publisher = Publisher(outlet.producer, outlet.frames, partition, order.unacknowledged)
        data_key = new_data_key()
        self._wrapped = wrap(data_key, order.recipients)
        self._sequencer = Sequencer(self.session, derive(data_key, self.session), order.signer)

    @property
    def next_seq(self) -> int:
        """How many records there are so far."""
        return self._sequencer.next_seq

    @property
    def partition(self) -> int:
        return self._publisher.partition

    @property
    def unacknowledged(self) -> int:
        """Bytes that the broker has not confirmed yet."""
        return self._publisher.unacknowledged

    # -- beginning ---------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the source, then the session; raises SourceError or BrokerUnreachable."""
        self.info = await asyncio.to_thread(self._source.open)
        try:
            time_us = now()
            await self._publisher.put(self._sequencer.open(self._opened(), time_us))
            await self._publisher.flush()
            await self._emit(self._opened_event(time_us))
        except BaseException:
            await asyncio.to_thread(self._source.close)
            raise
        self.state = "recording"
        log.info("recording", session=str(self.session), source=self.info.type,
                 partition=self.partition, offset=self._publisher.offset)  # fmt: skip

    def _opened(self) -> Open:
        order = self._order
        return Open(
            session=str(self.session),
            recorder=str(order.signer.verifier),
            key=base64.b64encode(self._wrapped).decode(),
            recipients=list(order.recipients),
            codec=self.info.codec,
            source={"type": self.info.type, **self.info.details},
            host=order.host,
            owner=order.owner,
            project=order.project,
            sealing=order.sealing,
        )

    def _opened_event(self, started: int) -> SessionOpened:
        return SessionOpened(
            session=str(self.session),
            partition=self.partition,
            offset=self._publisher.offset,
            host=self._order.host,
            recorder=str(self._order.signer.verifier),
            codec=self.info.codec,
            source={"type": self.info.type, **self.info.details},
            owner=self._order.owner,
            project=self._order.project,
            started=started,
        )

    # -- while it runs -----------------------------------------------------------------------

    async def run(self) -> Ended:
        """Record until the end; the `close` record is on the broker unless `error` says not."""
        loop = asyncio.get_running_loop()
        self._ending = loop.create_future()
        thread = threading.Thread(
            target=self._capture, args=[loop], name=f"capture {self.session}", daemon=True
        )
        thread.start()
        keepalives = asyncio.create_task(self._keep_alive())
        try:
            reason = await self._ending
        finally:
            keepalives.cancel()
            self._control.stop()
            self._resumed.set()
        await self._leave(thread)
        return await self._close(reason)

    def _capture(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the source's thread."""

        def emit(payload: bytes, time_us: int) -> None:
            self._control.check()
            asyncio.run_coroutine_threadsafe(self._frame(payload, time_us), loop).result()

        error: LucidError | None = None
        try:
            self._source.run(emit, self._control)
        except Stopped:
            return
        except LucidError as problem:
            error = problem
        except Exception as problem:
            log.exception("source failed", session=str(self.session))
            error = SourceError(f"the source failed: {problem!r}", hint="This is a bug of Lucid")
        reason = END_OF_SOURCE if error is None else one_line(error.what)
        # The loop may be gone when a source ends long after its recording.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._end, reason, error)

    async def _frame(self, payload: bytes, time_us: int) -> None:
        await self._resumed.wait()
        if self._ending is None or self._ending.done():
            raise Stopped
        await self._put(lambda: self._sequencer.make(Kind.FRAMES, payload, time_us))
        self.frames += 1
        self.raw_bytes += len(payload)

    async def _put(self, make: Callable[[], FrameRecord]) -> None:
        """Number, chain and queue a record as one step."""
        async with self._turn:
            self._publisher.check()
            await self._publisher.put(make())

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._order.keepalive_every)
            try:
                await self._put(lambda: self._sequencer.keepalive(now()))
                await self._emit(
                    SessionHeartbeat(
                        session=str(self.session), next_seq=self.next_seq,
                        raw_bytes=self.raw_bytes, paused=self.state == "paused",
                    )
                )  # fmt: skip
            except LucidError as error:
                self._end(one_line(error.what), error)
                return

    async def _emit(self, data: Strict) -> None:
        await self._outlet.events.emit(data, str(self.session))

    # -- from outside ------------------------------------------------------------------------

    async def pause(self, reason: str) -> None:
        """Capture nothing until `resume`; keepalives go on."""
        if self.state != "recording":
            return
        self.state = "paused"
        self._resumed.clear()
        self._control.pause()
        await self._put(lambda: self._sequencer.control(Kind.PAUSE, Pause(reason=reason), now()))
        await self._emit(SessionPaused(session=str(self.session), reason=reason))

    async def resume(self, reason: str) -> None:
        """Go on."""
        if self.state != "paused":
            return
        await self._put(lambda: self._sequencer.control(Kind.RESUME, Resume(reason=reason), now()))
        self.state = "recording"
        self._control.resume()
        self._resumed.set()
        await self._emit(SessionResumed(session=str(self.session), reason=reason))

    def stop(self, reason: str) -> None:
        """End the recording; `run` returns once it is closed."""
        self._end(reason, None)

    def ended_elsewhere(self) -> None:
        """Somebody else has ended the session: record nothing more, and say so."""
        self._end("ended elsewhere", EndedElsewhere(
            f"session {self.session} was ended by the pipeline while it was recorded",
            hint="Its recorder was silent for too long; start a new recording",
        ))  # fmt: skip

    # -- end ---------------------------------------------------------------------------------

    def _end(self, reason: str, error: LucidError | None) -> None:
        if self._ending is not None and not self._ending.done():
            self._error = error
            self._ending.set_result(reason)

    async def _leave(self, thread: threading.Thread) -> None:
        await asyncio.to_thread(thread.join, LEAVE_SECONDS)
        if thread.is_alive():
            log.error("the source does not stop, going on without it", session=str(self.session))
            return
        await asyncio.to_thread(self._source.close)

    async def _close(self, reason: str) -> Ended:
        try:
            if not isinstance(self._error, EndedElsewhere):
                await self._write_end(reason)
        except LucidError as error:
            self._error = self._error or error
        self.state = "closed"
        log.info("recording ended", session=str(self.session), reason=reason,
                 records=self.next_seq, error=self._error)  # fmt: skip
        return Ended(reason, self.next_seq, self.frames, self.raw_bytes, self._error)

    async def _write_end(self, reason: str) -> None:
        if isinstance(self._error, SourceError):
            gap = Gap(reason=reason, from_time=self._sequencer.time, to_time=now())
            await self._put(lambda: self._sequencer.control(Kind.GAP, gap, gap.to_time))
        await self._put(lambda: self._sequencer.close(reason, now()))
        await self._publisher.flush()
        await self._emit(
            SessionClosed(
                session=str(self.session), next_seq=self.next_seq,
                raw_bytes=self.raw_bytes, reason=reason,
            )
        )  # fmt: skip


def one_line(text: str) -> str:
    """`text` as a reason: one line of printable characters, at most 500."""
    cleaned = "".join(char if char.isprintable() else " " for char in text)
    return cleaned[:500].strip() or "unknown"
