"""Recordings of desktops: commands to this host's recorder, its answers, its signs of life.

    recording = await recordings.start(command_id, …)      raises NotRecorded
    await recordings.stop(recording, reason)               whether the recorder did
    recordings.watch(recording); recordings.silent(recording) -> seconds

Answers are events of `session.events` with the command's id as correlation id. A recording
that nobody waits for is stopped again, or it would keep the display from the next one: one
that begins too late; one that a recorder begins which was killed and carries the same command
out anew; one that was given up as lost and goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import structlog

from agents.platform.producer import Producer
from agents.platform.retry import Transient
from agents.rdp.controller.errors import NotRecorded, RecorderRefused, RecorderSilent
from agents.rdp.controller.settings import ControllerSettings
from schemas.canonical import encode
from schemas.commands import RecorderCommand
from schemas.events import (
    CommandDone,
    CommandRefused,
    SessionAbandoned,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionIncomplete,
)
from schemas.sessions import new_session_id

log = structlog.get_logger(__name__)

AT_ONCE = 16  # starts that wait for the recorder; it opens one display after the other
STOP_SECONDS = 6.0  # for a recorder to close a recording
REMEMBERED = 10_000
Kept = TypeVar("Kept")
Ended = Callable[[str, str], None]


class Recordings:
    """This host's recordings of desktops. ended: called with a watched one that has ended."""

    def __init__(
        self, producer: Producer, topic: str, host: str, section: ControllerSettings,
        *, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._producer, self._topic, self._host = producer, topic, host
        self._section, self._clock = section, clock
        self._waiting: dict[str, asyncio.Future[CommandDone]] = {}
        # What came of each start by its command: a recording, or None once it was given up.
        self._asked: OrderedDict[str, str | None] = OrderedDict()
        self._lost: OrderedDict[str, None] = OrderedDict()
        self._heard: dict[str, float] = {}
        self._stopping: set[str] = set()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf_until = 0.0
        self.ended: Ended = lambda recording, reason: None

    # -- commands ------------------------------------------------------------------------------

    async def start(self, command_id: str, display: str, xauthority: str, owner: str) -> str:
        """Have a display recorded; its session. Raises NotRecorded.

        The same id again starts nothing twice: the recorder knows what it has carried out.
        """
        command = RecorderCommand(
            id=command_id, host=self._host, action="start", display=display,
            xauthority=xauthority, owner=owner, project=self._section.project,
        )  # fmt: skip
        async with self._room:
            try:
                done = await self._ask(command, self._section.start_within)
            except NotRecorded:
                _remember(self._asked, command_id, None)
                raise
        _remember(self._asked, command_id, done.session)
        self.watch(done.session)
        return done.session

    async def stop(self, recording: str, reason: str) -> bool:
        """Have a recording closed; whether it is."""
        self._stopping.add(recording)
        command = RecorderCommand(
            id=str(new_session_id()), host=self._host, action="stop", session=recording,
            reason=reason[:500] or "the session ended",
        )  # fmt: skip
        try:
            await self._ask(command, STOP_SECONDS)
        except NotRecorded as error:
            log.warning("a recording was not closed", recording=recording, error=error)
            return False
        finally:
            self.forget(recording)
        return True

    async def _ask(self, command: RecorderCommand, seconds: float) -> CommandDone:
        answer: asyncio.Future[CommandDone] = asyncio.get_running_loop().create_future()
        self._waiting[command.id] = answer
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self._send(command)
                    # A recorder that was being started did not hear it the first time.
                    await asyncio.wait([answer], timeout=max(seconds / 3, 0.2))
                    if answer.done():
                        return answer.result()
        except TimeoutError:
            raise RecorderSilent(
                f"the recorder of {self._host} did not {command.action} within {seconds:g} s",
                hint="Start it with `lucid run recorder`, and look whether the broker answers",
            ) from None
        finally:
            self._waiting.pop(command.id, None)
            if answer.done() and not answer.cancelled():
                answer.exception()

    async def _send(self, command: RecorderCommand) -> None:
        try:
            await self._producer.send(self._topic, encode(command), key=command.host.encode())
        except Transient as error:
            log.warning("a command to the recorder is sent again", error=error)

    # -- what the recorder says ------------------------------------------------------------------

    def heard(self, event: SessionEvent) -> None:
        """An event of `session.events`."""
        data = event.data
        if isinstance(data, CommandDone | CommandRefused) and data.host == self._host:
            self._answered(event.correlation, data)
        elif isinstance(data, SessionHeartbeat) and data.session in self._heard:
            self._heard[data.session] = self._clock()
        elif isinstance(data, SessionHeartbeat) and data.session in self._lost:
            del self._lost[data.session]
            self._stop_soon(data.session)
        elif (
            isinstance(data, SessionClosed | SessionAbandoned | SessionIncomplete)
            and data.session in self._heard
            and data.session not in self._stopping
        ):
            reason = getattr(data, "reason", "records are missing")
            self.forget(data.session)
            self.ended(data.session, str(reason))

    def _answered(self, command_id: str, data: CommandDone | CommandRefused) -> None:
        answer = self._waiting.get(command_id)
        if answer is not None and not answer.done():
            if isinstance(data, CommandDone):
                answer.set_result(data)
            else:
                answer.set_exception(RecorderRefused(data.reason[:400]))
        elif (
            isinstance(data, CommandDone)
            and data.action == "start"
            and self._asked.get(command_id, data.session) != data.session
        ):
            self._stop_soon(data.session)

    def _stop_soon(self, recording: str) -> None:
        task = asyncio.create_task(self._stop_late(recording))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_late(self, recording: str) -> None:
        if not await self.stop(recording, "nobody waited for this recording any more"):
            self.lose(recording)

    # -- signs of life -----------------------------------------------------------------------------

    def watch(self, recording: str) -> None:
        """Expect signs of life from now on."""
        self._heard.setdefault(recording, self._clock())

    def forget(self, recording: str) -> None:
        """Expect none any more."""
        self._heard.pop(recording, None)
        self._stopping.discard(recording)

    def lose(self, recording: str) -> None:
        """Expect none any more; should it go on all the same, it is stopped."""
        self.forget(recording)
        _remember(self._lost, recording, None)

    def deaf(self) -> None:
        """Nothing can be heard now: silence counts from here on."""
        self._deaf_until = self._clock()

    def silent(self, recording: str) -> float:
        """Seconds without a sign of a recording; 0 for one that is not watched."""
        heard = self._heard.get(recording)
        return 0.0 if heard is None else self._clock() - max(heard, self._deaf_until)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _remember(known: OrderedDict[str, Kept], key: str, value: Kept) -> None:
    known[key] = value
    if len(known) > REMEMBERED:
        known.popitem(last=False)
