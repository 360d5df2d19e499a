"""Commands of `rdp.session.commands`: suspend, resume and terminate, each answered once it is so.

A command that comes twice is carried out again where that changes nothing, and answered again.
"""

from __future__ import annotations

import structlog

from agents.rdp.controller.errors import NoSuchSession
from agents.rdp.controller.ledger import one_line
from agents.rdp.controller.outbox import Outbox
from agents.rdp.controller.sessions import Sessions
from schemas.errors import LucidError
from schemas.rdp_session_commands import RdpSessionCommand
from schemas.rdp_session_events import RdpCommandDone, RdpCommandRefused
from schemas.rdp_sessions import RdpState

log = structlog.get_logger(__name__)


class StaleCommand(LucidError):
    """A command is too old: what it asked for is no longer what is wanted."""


STALE_SECONDS = 120.0


class Orders:
    """Carries out the commands for this host's sessions."""

    def __init__(self, sessions: Sessions, outbox: Outbox, host: str) -> None:
        self._sessions, self._outbox, self._host = sessions, outbox, host

    async def carry_out(self, command: RdpSessionCommand, age: float) -> None:
        """Do what a command asks for, and say so in an event. age: seconds since it was sent."""
        if command.host != self._host:
            return
        try:
            state = await self._do(command, age)
        except LucidError as error:
            log.warning("command refused", command=command.id, error=error)
            self._outbox.put(RdpCommandRefused(
                session=command.session, action=command.action, code=error.code,
                reason=one_line(str(error)),
            ), correlation=command.id)  # fmt: skip
            return
        done = RdpCommandDone(session=command.session, action=command.action, state=state)
        self._outbox.put(done, correlation=command.id)

    async def _do(self, command: RdpSessionCommand, age: float) -> RdpState:
        if age > STALE_SECONDS:
            raise StaleCommand(f"command {command.id} is {age:.0f} s old",
                               hint="Send it again if it is still wanted")  # fmt: skip
        desktop = self._sessions.get(command.session)
        if desktop is None:
            raise NoSuchSession(
                f"host {self._host} has no session {command.session}",
                hint="It may have ended; `lucid rdp-sessions list` shows all",
            )
        if command.action == "terminate":
            desktop.end(command.reason)
            await desktop.ended()
        else:
            await desktop.suspend(command.action == "suspend", command.reason)
        return desktop.session.state
