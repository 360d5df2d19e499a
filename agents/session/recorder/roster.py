"""All recordings of a recorder service, and the commands that start and end them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from agents.platform.eventbus import EventBus
from agents.platform.retry import Transient
from agents.platform.service import StopSignal
from agents.session.recorder.recording import Recording
from schemas.commands import RecorderCommand
from schemas.errors import LucidError
from schemas.events import CommandDone, CommandRefused
from schemas.progress import SessionProgress

log = structlog.get_logger(__name__)

MakeRecording = Callable[[RecorderCommand], Recording]
GIVE_UP_BEFORE = 1.5  # seconds of a stop that leaving the spools and closing get
REMEMBERED = 10_000  # commands, so that one that is handed over again starts nothing twice


class CommandProblem(LucidError):
    """A command cannot be carried out."""


class StaleCommand(CommandProblem):
    """A command is too old: what it asked for is no longer what is wanted."""


class NotRecording(CommandProblem):
    """This recorder has no such session."""


class AlreadyRecorded(CommandProblem):
    """The display is being recorded already."""


@dataclass
class Roster:
    """Runs many recordings at once (a part of a service). stale_after: seconds.

    A recording that its stop leaves no time to deliver is left to the next start.
    """

    make: MakeRecording
    events: EventBus
    host: str
    stale_after: float
    name: str = "recordings"
    _running: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)
    _recordings: dict[UUID, Recording] = field(default_factory=dict)
    _displays: dict[str, UUID] = field(default_factory=dict)
    _done: dict[str, UUID] = field(default_factory=dict)

    @property
    def recordings(self) -> list[Recording]:
        """What is being recorded now."""
        return list(self._recordings.values())

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set; then every recording is closed properly."""
        await stop.wait()
        for recording in self.recordings:
            recording.stop("the recorder was stopped")
        if not self._running:
            return
        patience = max(0.0, stop.deadline.remaining() - GIVE_UP_BEFORE)
        _, late = await asyncio.wait(set(self._running.values()), timeout=patience)
        if late:
            for recording in self.recordings:
                recording.leave()
            await asyncio.wait(late)

    async def carry_out(self, command: RecorderCommand, age: float) -> None:
        """Do what a command asks for, and say so in an event; age in seconds.

        Raises Transient while the broker does not take the records that it needs.
        """
        if command.host != self.host:
            return
        try:
            session = await self._do(command, age)
        except Transient:
            raise
        except LucidError as error:
            log.warning("command refused", command=command.id, action=command.action, error=error)
            await self._answer(command, CommandRefused(
                action=command.action, host=self.host, session=command.session,
                code=error.code, reason=str(error),
            ))  # fmt: skip
            return
        done = CommandDone(action=command.action, host=self.host, session=str(session))
        await self._answer(command, done)

    async def _answer(self, command: RecorderCommand, data: CommandDone | CommandRefused) -> None:
        subject = data.session or self.host
        await self.events.emit(data, subject, correlation=command.id)

    async def _do(self, command: RecorderCommand, age: float) -> UUID:
        if command.id in self._done:
            return self._done[command.id]
        if age > self.stale_after:
            raise StaleCommand(
                f"command {command.id} ({command.action}) is {age:.0f} s old",
                hint="Send it again if it is still wanted",
            )
        if command.action == "start":
            session = await self._start(command)
        else:
            session = await self._change(command)
        self._done[command.id] = session
        if len(self._done) > REMEMBERED:
            self._done.pop(next(iter(self._done)))
        return session

    async def _start(self, command: RecorderCommand) -> UUID:
        display = command.display or ""
        if display in self._displays:
            raise AlreadyRecorded(
                f"display {display} is being recorded already, by session "
                f"{self._displays[display]}",
                hint="Stop that session first",
            )
        recording = self.make(command)
        await recording.open()
        self.add(recording, display)
        return recording.session

    def add(self, recording: Recording, display: str) -> None:
        """Run a recording that is open; display: which one it captures, if any."""
        session = recording.session
        if display:
            self._displays[display] = session
        self._recordings[session] = recording
        self._running[session] = asyncio.create_task(self._record(recording, display))

    async def _record(self, recording: Recording, display: str) -> None:
        try:
            await recording.run()
        finally:
            self._displays.pop(display, None)
            self._recordings.pop(recording.session, None)
            self._running.pop(recording.session, None)

    async def _change(self, command: RecorderCommand) -> UUID:
        session = command.session_id
        recording = self._recordings.get(session) if session else None
        if recording is None or session is None:
            raise NotRecording(
                f"the recorder of {self.host} records no session {command.session}",
                hint="It may have ended; `lucid sessions list` shows all",
            )
        if command.action == "pause":
            await recording.pause(command.reason)
        elif command.action == "resume":
            await recording.resume(command.reason)
        else:
            recording.stop(command.reason)
            await asyncio.wait([self._running[session]])
        return session

    def sealed(self, progress: SessionProgress) -> None:
        """A progress record: a session that was ended by others is recorded no longer."""
        recording = self._recordings.get(progress.opened.session_id)
        if recording is not None and progress.ended and recording.state != "closed":
            recording.ended_elsewhere()
