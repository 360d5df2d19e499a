"""One desktop session: its gate, its recording, its end.

What the outside does to a session comes in by few doors, each of which may be used twice:
attach, take, lost (the gate), recording_ended (the recorder), end, suspend (commands and
rules), shown_to (the clients), look (time).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from agents.platform.process_table import is_alive
from agents.rdp.controller.endings import kill_session
from agents.rdp.controller.errors import (
    NotCarriedOut,
    NotRecorded,
    RecorderSilent,
    RecordingEnded,
    WrongState,
)
from agents.rdp.controller.gates import GateLine
from agents.rdp.controller.ledger import Ledger, Tools, one_line
from agents.rdp.controller.store import End, Kept
from schemas.rdp_session_events import RdpNoticeAnswered
from schemas.rdp_sessions import RdpState
from schemas.sessions import new_session_id

log = structlog.get_logger(__name__)

FAULTS = {"x_gone", "away", "signal", "no_program"}
"""Words of a gate for an end that nobody wanted."""


class Desktop(Ledger):
    """A session from its gate's first word to the last event."""

    def __init__(self, kept: Kept, tools: Tools) -> None:
        super().__init__(kept, tools)
        self.line: GateLine | None = None
        self.idle_ms: int | None = None
        self.clients = 0
        now = tools.clock()
        self._lost_at: float = now
        self._heard_at: float = now
        self._retry_at: float = now + tools.section.retry_after
        self._kill_at: float | None = None
        self._attached = False
        self._suspended: asyncio.Future[bool] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        if kept.session.recording is not None:
            tools.recordings.watch(kept.session.recording)

    @property
    def done(self) -> bool:
        """Over, told, and with nothing left to do."""
        return self.over and not self.kept.unsent and not self._tasks

    @property
    def leader_lives(self) -> bool:
        """Whether the gate runs; of another boot's process nothing is known by its number."""
        return self.kept.boot == self._tools.store.boot and is_alive(self.session.leader)

    # -- work that runs beside -----------------------------------------------------------------

    def _run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something beside, once at a time."""
        if name not in self._tasks:
            task = self._tasks[name] = asyncio.create_task(work(), name=name)
            task.add_done_callback(lambda done: self._finished(name, done))

    def _finished(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a session's work failed", session=self.session.session, work=name,
                      error=repr(error))  # fmt: skip

    async def close(self) -> None:
        """The controller stops: leave everything as it is for the next one."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the gate ----------------------------------------------------------------------------

    def attach(self, line: GateLine) -> None:
        """The gate is there, for the first time or again."""
        old, self.line = self.line, line
        self._attached = True
        if old is not None:
            old.close()
        self._heard_at = self._tools.clock()
        if self.over:
            line.send({"go": False, "reason": self.session.reason})
        elif self.session.state == "creating":
            self._run("opening", self._open)
        else:
            self._let_in()
            if self.kept.end is not None:
                line.send({"end": self.kept.end.reason})

    def _let_in(self) -> None:
        section = self._tools.section
        self.send({
            "go": True, "session": self.session.session, "notice": section.notice,
            "report": section.report_every, "require": self._tools.required,
            "away": section.away_after,
        })  # fmt: skip

    def send(self, message: dict[str, Any]) -> None:
        """Tell the gate, if it is there."""
        if self.line is not None:
            self.line.send(message)

    def lost(self, line: GateLine) -> None:
        """A gate's connection has ended."""
        if line is self.line:
            self.line, self._lost_at = None, self._tools.clock()
            self.look()

    def take(self, message: dict[str, Any]) -> bool:
        """One message of the gate; whether it is one."""
        self._heard_at = self._tools.clock()
        match message:
            case {"idle": None}:
                self.idle_ms = None
            case {"idle": int(idle)} if 0 <= idle < 2**32:
                self._idle(idle)
            case {"notice": "accepted" | "declined" | "unshown" as answer}:
                self._change(self.session, RdpNoticeAnswered(
                    session=self.session.session, user=self.session.user, answer=answer
                ))  # fmt: skip
            case {"suspended": bool(answer)}:
                if self._suspended is not None and not self._suspended.done():
                    self._suspended.set_result(answer)
            case {"ended": int(), "code": str(code), "reason": str(reason)}:
                self._gate_ended(code, one_line(reason))
            case _:
                return False
        return True

    def _idle(self, idle: int) -> None:
        """Milliseconds since the last input."""
        self.idle_ms = idle
        limit = self._tools.section.idle_after
        if self.session.state == "active" and idle >= limit * 1000:
            self._move("idle", f"no input for {limit:g} s")
        elif self.session.state == "idle" and idle < limit * 1000:
            self._move("active", "there is input again")

    # -- the recording -----------------------------------------------------------------------

    async def _open(self) -> None:
        """Begin to record, then let the user in; or do what the policy says."""
        try:
            recording = await self._start_recording()
        except NotRecorded as error:
            if self.over:
                return
            self._recording(None, "missing", error.code, one_line(str(error)))
            if self._tools.required:
                self._refuse(f"it cannot be recorded: {error.what}")
                return
        else:
            if self.over:
                await self._tools.recordings.stop(recording, "the session ended meanwhile")
                return
            self._recording(recording, "started", "", "the desktop is recorded")
        if self.kept.end is None:
            self._move("active", "the user is let in")
            self._let_in()

    def _refuse(self, reason: str) -> None:
        self._want_end("error", reason)
        self._move("error", one_line(reason))
        self.send({"go": False, "reason": one_line(reason)})

    async def _start_recording(self) -> str:
        # The same command again after a restart: the recorder does not begin twice.
        command = self.kept.start or str(new_session_id())
        self._keep(start=command)
        session = self.session
        try:
            return await self._tools.recordings.start(
                command, session.display, self.kept.xauthority, session.user
            )
        finally:
            if not _cancelled():
                self._keep(start=None)

    async def _record_again(self) -> None:
        try:
            recording = await self._start_recording()
        except NotRecorded as error:
            log.warning("a desktop is still not recorded", session=self.session.session,
                        error=error)  # fmt: skip
            return
        if self.over:
            await self._tools.recordings.stop(recording, "the session ended meanwhile")
        else:
            self._recording(recording, "started", "", "the desktop is recorded again")

    def recording_ended(self, error: NotRecorded) -> None:
        """The recording stands still although the desktop does not."""
        recording = self.session.recording
        if recording is None or self.over or self.kept.end is not None:
            return
        self._tools.recordings.lose(recording)
        if not is_alive(self.session.xorg):
            # The recorder may see that the display is gone before the gate does.
            self._recording(None, "stopped", error.code, one_line(str(error)))
            self.end("its X server is gone", "error")
            return
        self._recording(None, "lost", error.code, one_line(str(error)))
        self._retry_at = self._tools.clock() + self._tools.section.retry_after
        if self._tools.required:
            self.end(f"the recording is lost: {error.what}", "error")

    # -- its end -----------------------------------------------------------------------------

    def end(self, reason: str, state: RdpState = "terminated") -> None:
        """Have the gate end the user's programs; the first reason stands."""
        if self.over or self.kept.end is not None:
            return
        self._want_end(state, reason)
        self.send({"end": one_line(reason)})

    def _want_end(self, state: RdpState, reason: str) -> None:
        """Note how and why the session ends, unless that is known already."""
        if self._kill_at is None:
            self._kill_at = self._tools.clock() + self._tools.section.end_within
        if self.kept.end is None:
            self._keep(end=End(state=state, reason=one_line(reason)))

    def _gate_ended(self, code: str, reason: str) -> None:
        """The gate has ended the user's programs, and waits for the recording to be closed."""
        self._want_end("error" if code in FAULTS else "terminated", reason)
        self._run("closing", self._close)

    async def _close(self) -> None:
        """Close the recording while the X server still is there, then let that go."""
        assert self.kept.end is not None, "whoever closes says how it ends"
        state, reason = self.kept.end.state, self.kept.end.reason
        recording = self.session.recording
        if not self.over:
            if recording is not None:
                closed = await self._tools.recordings.stop(recording, reason)
                text = reason if closed else "the recorder did not close it"
                self._recording(None, "stopped", "" if closed else "NotClosed", text)
            self._move(state, reason)
        self.send({"bye": True})

    def _gone(self, reason: str) -> None:
        """The gate is dead: so is the session."""
        if self._tools.servers.going_down(self.session.server):
            self._want_end("terminated", "its server is stopped")
        elif not self._attached:
            self._want_end("terminated", "it ended while no controller ran")
        self._want_end("error", reason)
        self._run("closing", self._clean_up)

    def vanished(self, reason: str) -> None:
        """Nothing of the session can be there any more, its processes' numbers are others'."""
        if not self.over:
            self._move("terminated", reason)

    async def _clean_up(self) -> None:
        await self._close()
        left = await kill_session(self.session)
        if left:
            log.warning("what was left of a session was killed", session=self.session.session,
                        processes=left)  # fmt: skip

    # -- commands ----------------------------------------------------------------------------

    async def suspend(self, wanted: bool, reason: str) -> None:
        """Stop the user's programs, or let them go on. Raises WrongState, NotCarriedOut."""
        state: RdpState = "suspended" if wanted else "active"
        if self.session.state == state or (not wanted and self.session.state == "idle"):
            return
        allowed = ("active", "idle") if wanted else ("suspended",)
        if self.session.state not in allowed or self.kept.end is not None:
            ending = " and being ended" if self.kept.end is not None else ""
            raise WrongState(f"session {self.session.session} is {self.session.state}{ending}")
        self._suspended = asyncio.get_running_loop().create_future()
        self.send({"suspend": wanted})
        try:
            async with asyncio.timeout(self._tools.section.gate_within):
                await self._suspended
        except TimeoutError:
            raise NotCarriedOut(
                f"session {self.session.session} does not answer",
                hint="`lucid rdp-sessions terminate` ends it, by force if need be",
            ) from None
        finally:
            self._suspended = None
        if not self.over:
            self._move(state, reason)

    async def ended(self) -> None:
        """Wait until the session is over; raises NotCarriedOut."""
        deadline = self._tools.section.end_within + self._tools.section.gate_within
        try:
            async with asyncio.timeout(deadline):
                while not self.over:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise NotCarriedOut(f"session {self.session.session} does not end") from None

    # -- time --------------------------------------------------------------------------------

    def look(self) -> None:
        """Do what is due now."""
        now, section = self._tools.clock(), self._tools.section
        if self.over:
            late = self._kill_at is None or now > self._kill_at
            if late and self._attached and self.leader_lives:
                self._run("closing", self._clean_up)
            return
        if not self.leader_lives:
            self._gone("the gate was killed")
        elif self.line is None and now - self._lost_at > section.gate_within:
            self._gone("the gate does not come back")
        elif now - self._heard_at > section.gate_within + 3 * section.report_every:
            self._gone("the gate does not answer")
        elif self._kill_at is not None and now > self._kill_at:
            self._gone("the session did not end when it was told to")
        elif self.session.state != "creating" and self.kept.end is None:
            self._look_at_recording(now)
            self._look_at_clients(now)

    def _look_at_recording(self, now: float) -> None:
        recording, section = self.session.recording, self._tools.section
        if recording is None:
            if not self._tools.required and now >= self._retry_at:
                self._retry_at = now + section.retry_after
                self._run("recording", self._record_again)
        elif self._tools.recordings.silent(recording) > section.silent_after:
            self.recording_ended(RecorderSilent(
                f"recording {recording} gave no sign of life for {section.silent_after:g} s",
                hint="Look at the recorder of this host",
            ))  # fmt: skip

    def _look_at_clients(self, now: float) -> None:
        alone, section = self.kept.alone_since, self._tools.section
        if alone is None:
            return
        if now - alone > section.stale_after:
            self.end(f"no client for {section.stale_after:g} s")
        elif not is_alive(self.kept.sesman):
            self.end("its session manager is gone, and nobody can come back to it", "error")

    def shown_to(self, clients: int) -> None:
        """How many clients show the desktop now."""
        self.clients = clients
        if clients and self.kept.alone_since is not None:
            self._keep(alone_since=None)
        elif not clients and self.kept.alone_since is None and not self.over:
            self._keep(alone_since=self._tools.clock())


def ended_by_recorder(recording: str, reason: str) -> RecordingEnded:
    """The error of a recording that has ended by itself."""
    return RecordingEnded(f"recording {recording} has ended: {reason}")


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
