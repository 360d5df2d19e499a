"""One session from its `open` to its `close` record.

    recording = Recording(source, order, outlet, capture)
    recording = Recording(source, order, outlet, leftover=leftover)     goes on with a session
    await recording.open()             the `open` record is on the broker
    ended = await recording.run()      until the source ends, fails, or stop() is called

The source captures in a thread of its own; everything else happens in the event loop. What
is captured is on disk before it is sent, and stays there until the broker holds it, so the
broker may be away and the recorder may be killed: what is left goes on from its spool. A
source that fails ends the session with a `gap` and a `close`: what was captured before stays
provable.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Literal
from uuid import UUID

import structlog

from agents.platform.retry import Transient
from agents.session.recorder.leftover import Leftover, ended_elsewhere
from agents.session.recorder.order import Ended, EndedElsewhere, LeftInSpool, Order, Outlet
from agents.session.recorder.sources.base import (
    Control,
    Source,
    SourceError,
    SourceInfo,
    Stopped,
    now,
)
from agents.session.recorder.sources.capture import Capture
from agents.session.recorder.track import Track
from schemas.canonical import decode
from schemas.controls import Close, Gap, Pause, Resume
from schemas.errors import FormatError, LucidError
from schemas.events import SessionClosed, SessionHeartbeat, SessionPaused, SessionResumed
from schemas.frames import Kind

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 3.0  # for a source to notice that the recording is over
END_OF_SOURCE = "end of the source"
AWAY = "the recorder was away"
FULL = "the spool was full"


class Recording:
    """A session that is being recorded. source: None when nothing more can be captured."""

    def __init__(
        self, source: Source | None, order: Order, outlet: Outlet, capture: Capture | None = None,
        *, leftover: Leftover | None = None,
    ) -> None:  # fmt: skip
        self.info = SourceInfo("", "")
        self.state: Literal["opening", "recording", "paused", "closed"] = "opening"
        self.started = time.monotonic()
        self.track: Track
        self._source, self._order, self._outlet = source, order, outlet
        self._capture, self._leftover = capture, leftover
        self._control = Control()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._left = asyncio.Event()
        self._ending: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._error: LucidError | None = None
        self._missed_from: int | None = None

    # -- what others look at -----------------------------------------------------------------

    @property
    def session(self) -> UUID:
        return self.track.spool.session

    @property
    def frames(self) -> int:
        return self.track.frames

    @property
    def raw_bytes(self) -> int:
        """Bytes of the frames' payloads."""
        return self.track.raw_bytes

    @property
    def display(self) -> str:
        """The display that is captured, empty if it is none."""
        capture = self.track.head.capture
        return capture.name if capture is not None and capture.kind == "display" else ""

    @property
    def next_seq(self) -> int:
        """How many records there are so far."""
        return self.track.sequencer.next_seq

    @property
    def partition(self) -> int:
        return self.track.head.partition

    @property
    def unacknowledged(self) -> int:
        """Bytes that are on their way to the broker."""
        return self.track.publisher.unacknowledged

    @property
    def waiting(self) -> int:
        """Records that the broker has not confirmed yet."""
        return self.track.spool.waiting

    @property
    def trouble(self) -> Transient | None:
        """Why nothing reaches the broker now."""
        return self.track.publisher.trouble

    # -- beginning ---------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the source, then the session, or go on with it.

        Raises SourceError (of a new session), SpoolFull, SpoolFailed or BrokerUnreachable; a
        spool that is left then is gone on with by the next recorder.
        """
        try:
            if self._leftover is None:
                await self._open_new()
            else:
                await self._open_again(self._leftover)
        except BaseException:
            if self._source is not None:
                await asyncio.to_thread(self._source.close)
            raise

    async def _open_new(self) -> None:
        assert self._source is not None, "a new session needs a source"
        self.info = await asyncio.to_thread(self._source.open)
        self.track = await Track.begin(self.info, self._capture, self._order, self._outlet)
        await self._start()
        self.state = "recording"
        log.info("recording", session=str(self.session), source=self.info.type,
                 partition=self.partition)  # fmt: skip

    async def _start(self) -> None:
        self.track.start()
        try:
            await self.track.opened()
        except BaseException:
            await self.track.leave()
            raise

    async def _open_again(self, leftover: Leftover) -> None:
        """Deliver what is left; capture again, or close behind an exact gap."""
        self.track = Track.again(leftover, self._order, self._outlet)
        self.state = "recording"
        if leftover.closed is not None:
            self._source = None
            self._end(_reason(leftover.closed.payload), None)
            await self._start()
            return
        if leftover.spool.state.paused:
            self._pause_source()
        await self._reopen_source(leftover)
        if self._source is None or self.info.live or not leftover.exact:
            await self._put_gap(AWAY, self.track.sequencer.time)
        await self._start()
        log.info("recording again", session=str(self.session), records=self.next_seq,
                 captured=self._source is not None)  # fmt: skip

    async def _reopen_source(self, leftover: Leftover) -> None:
        source, self._source = self._source, None
        if source is None:
            return self._end("the recorder was started again", None)
        try:
            self.info = await asyncio.to_thread(source.open)
            if not self.info.live and not leftover.exact:
                raise SourceError("how far it was recorded is not known any more")
            await asyncio.to_thread(source.skip, leftover.frames, leftover.raw_bytes)
            self._source = source
        except SourceError as error:
            await asyncio.to_thread(source.close)
            self._end(one_line(error.what), None)

    # -- while it runs -----------------------------------------------------------------------

    async def run(self) -> Ended:
        """Record until the end; all of it is on the broker unless `error` says not."""
        thread = threading.Thread(
            target=self._run_source, args=[asyncio.get_running_loop()],
            name=f"capture {self.session}", daemon=True,
        )  # fmt: skip
        thread.start()
        keepalives = asyncio.create_task(self._keep_alive())
        watching = asyncio.create_task(self._watch())
        try:
            reason = await self._ending
        finally:
            self.track.ending.set()
            for task in (keepalives, watching):
                task.cancel()
            await asyncio.gather(keepalives, watching, return_exceptions=True)
            self._control.stop()
            self._resumed.set()
        await self._leave_source(thread)
        return await self._close(reason)

    def _run_source(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the source's thread."""

        def emit(payload: bytes, time_us: int) -> None:
            self._control.check()
            asyncio.run_coroutine_threadsafe(self._frame(payload, time_us), loop).result()

        if self._source is None:
            return
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
        if self._ending.done():
            raise Stopped
        self._missed_from = time_us if self.info.live else None
        if await self.track.frame(payload, time_us) and self.info.live:
            await self._put_gap(FULL, time_us)
        self._missed_from = None

    async def _put_gap(self, reason: str, from_time: int) -> None:
        gap = Gap(reason=reason, from_time=from_time, to_time=max(from_time, now()))
        await self.track.put(lambda made: made.control(Kind.GAP, gap, gap.to_time))

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._order.keepalive_every)
            try:
                await self.track.put(lambda made: made.keepalive(now()))
            except LucidError as error:
                self._end(one_line(error.what), error)
                return
            self.track.announce(
                SessionHeartbeat(
                    session=str(self.session), next_seq=self.next_seq,
                    raw_bytes=self.raw_bytes, paused=self.state == "paused",
                )
            )  # fmt: skip

    async def _watch(self) -> None:
        """End the session when the broker refuses a record for good."""
        publisher = self.track.publisher
        await publisher.changed.until(lambda: publisher.error is not None)
        assert publisher.error is not None
        self._end(one_line(publisher.error.what), publisher.error)

    # -- from outside ------------------------------------------------------------------------

    async def pause(self, reason: str) -> None:
        """Capture nothing until `resume`, also after a crash; keepalives go on."""
        if self.state != "recording":
            return
        self._pause_source()
        await asyncio.to_thread(self.track.spool.note, paused=True)
        await self.track.put(lambda made: made.control(Kind.PAUSE, Pause(reason=reason), now()))
        self.track.announce(SessionPaused(session=str(self.session), reason=reason))

    def _pause_source(self) -> None:
        self.state = "paused"
        self._resumed.clear()
        self._control.pause()

    async def resume(self, reason: str) -> None:
        """Go on."""
        if self.state != "paused":
            return
        await self.track.put(lambda made: made.control(Kind.RESUME, Resume(reason=reason), now()))
        await asyncio.to_thread(self.track.spool.note, paused=False)
        self.state = "recording"
        self._control.resume()
        self._resumed.set()
        self.track.announce(SessionResumed(session=str(self.session), reason=reason))

    def stop(self, reason: str) -> None:
        """End the recording; `run` returns once it is closed and delivered."""
        self._end(reason, None)

    def leave(self) -> None:
        """Wait for the broker no longer: the next recorder delivers what is left."""
        self._left.set()

    def ended_elsewhere(self) -> None:
        """Somebody else has ended the session: record nothing more, and say so."""
        self._end("ended elsewhere", EndedElsewhere(
            f"session {self.session} was ended by the pipeline while it was recorded",
            hint="Its recorder was silent for too long; start a new recording",
        ))  # fmt: skip

    # -- end ---------------------------------------------------------------------------------

    def _end(self, reason: str, error: LucidError | None) -> None:
        if not self._ending.done():
            self._error = error
            self._ending.set_result(reason)

    async def _leave_source(self, thread: threading.Thread) -> None:
        await asyncio.to_thread(thread.join, LEAVE_SECONDS)
        if thread.is_alive():
            log.error("the source does not stop, going on without it", session=str(self.session))
        elif self._source is not None:
            await asyncio.to_thread(self._source.close)

    async def _close(self, reason: str) -> Ended:
        try:
            waiting = await self._finish(reason)
        except LucidError as error:
            self._error = self._error or error
            waiting = self.waiting
            await self.track.leave()
        self.state = "closed"
        log.info("recording ended", session=str(self.session), reason=reason,
                 records=self.next_seq, waiting=waiting, error=self._error)  # fmt: skip
        return Ended(reason, self.next_seq, self.frames, self.raw_bytes, waiting, self._error)

    async def _finish(self, reason: str) -> int:
        """Write the end and deliver it; how many records are left in the spool."""
        track = self.track
        if isinstance(self._error, EndedElsewhere):
            await track.stop()
            self._error = await asyncio.to_thread(ended_elsewhere, track.spool)
            return 0
        if self._leftover is None or self._leftover.closed is None:
            await self._write_end(reason)
        track.announce(
            SessionClosed(
                session=str(self.session), next_seq=self.next_seq,
                raw_bytes=self.raw_bytes, reason=reason,
            )
        )  # fmt: skip
        if await self._delivered():
            await track.remove()
            return 0
        waiting = track.spool.waiting
        await track.leave()
        self._error = self._error or LeftInSpool(
            f"{waiting} records of session {self.session} wait in {track.spool.place}",
            hint="`lucid record --resume` delivers them once the broker is back",
        )
        return waiting

    async def _write_end(self, reason: str) -> None:
        if self._error is not None:
            await self._put_gap(reason, self._missed_from or self.track.sequencer.time)
        elif self._missed_from is not None:
            await self._put_gap(FULL, self._missed_from)
        await self.track.put(lambda made: made.close(reason, now()))

    async def _delivered(self) -> bool:
        """Wait for the broker, or for `leave`; whether it holds everything."""
        delivering = asyncio.create_task(self.track.delivered())
        leaving = asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait([delivering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not delivering.done():
                return False
            delivering.result()
            return True
        finally:
            delivering.cancel()
            leaving.cancel()


def _reason(payload: bytes) -> str:
    try:
        return decode(Close, payload).reason
    except FormatError:
        return "unknown"


def one_line(text: str) -> str:
    """`text` as a reason: one line of printable characters, at most 500."""
    cleaned = "".join(char if char.isprintable() else " " for char in text)
    return cleaned[:500].strip() or "unknown"
