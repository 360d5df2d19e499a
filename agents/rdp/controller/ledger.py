"""A session as it is written down and told: each change once, with its events.

A change is put into the session's file together with its events, which then are on their way;
nothing waits in between, so what is told was written down, and what was written down is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from agents.platform.clock import wall_clock
from agents.rdp.controller.outbox import Outbox
from agents.rdp.controller.recordings import Recordings
from agents.rdp.controller.servers import Servers
from agents.rdp.controller.settings import ControllerSettings
from agents.rdp.controller.store import Kept, Store, Unsent
from schemas.canonical import Strict
from schemas.rdp_session_events import RdpRecordingChanged, RdpSessionChanged
from schemas.rdp_sessions import OVER, RdpSession, RdpState, moved, recorded

log = structlog.get_logger(__name__)

What = Literal["started", "stopped", "missing", "lost"]


def boot_seconds() -> float:
    """Seconds since boot, sleep included: no one sets this clock, and a restart keeps it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every desktop of a host shares. required: whether each has to be recorded."""

    section: ControllerSettings
    required: bool
    store: Store
    outbox: Outbox
    recordings: Recordings
    servers: Servers
    clock: Callable[[], float] = boot_seconds
    wall: Callable[[], int] = wall_clock


class Ledger:
    """The written side of a desktop."""

    def __init__(self, kept: Kept, tools: Tools) -> None:
        self.kept, self._tools = kept, tools
        self._unwritten = False

    @property
    def session(self) -> RdpSession:
        return self.kept.session

    @property
    def over(self) -> bool:
        return self.session.state in OVER

    def _change(self, session: RdpSession, *events: Strict) -> None:
        """Write a change down with its events, which then are on their way."""
        news: list[Strict] = list(events)
        if session is not self.kept.session:
            news.insert(0, RdpSessionChanged(**dict(session)))
        put = self._tools.outbox.put
        told = [put(one, kept=session.session) for one in news]
        self._keep(session=session, unsent=[*self.kept.unsent, *told])

    def _keep(self, **fields: Any) -> None:
        self.kept = self.kept.model_copy(update=fields)
        self._tools.store.put(self.kept)
        self._unwritten = False

    def write(self) -> None:
        """Write down what was only sent since the last change."""
        if self._unwritten:
            self._keep()

    def announce(self) -> None:
        """Tell of the session for the first time."""
        self._change(self.session.model_copy())

    def sent(self, event: Unsent) -> None:
        """The broker has an event. If that is not written down, it comes twice: no harm."""
        unsent = [one for one in self.kept.unsent if one != event]
        self.kept = self.kept.model_copy(update={"unsent": unsent})
        self._unwritten = True

    def _move(self, state: RdpState, reason: str, *events: Strict) -> None:
        self._change(moved(self.session, state, reason[:500], self._tools.wall()), *events)

    def _recording(self, recording: str | None, what: What, code: str, reason: str) -> None:
        before = self.session.recording
        after = recorded(self.session, recording, reason[:500], self._tools.wall())
        self._change(after, RdpRecordingChanged(
            session=self.session.session, recording=recording or before, what=what,
            required=self._tools.required, code=code, reason=reason[:500],
        ))  # fmt: skip
        if what in ("missing", "lost"):
            log.error("a desktop is not recorded", session=self.session.session, code=code,
                      required=self._tools.required, reason=reason)  # fmt: skip


def one_line(text: str) -> str:
    """Text as a reason: printable, at most 500 characters."""
    return "".join(char if char.isprintable() else " " for char in text)[:500].strip()
