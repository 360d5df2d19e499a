"""All desktop sessions of a host: who may come in, what becomes of those that were there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from agents.platform.retry import wait_stopped
from agents.platform.service import StopSignal
from agents.rdp.controller.desktop import Desktop, ended_by_recorder
from agents.rdp.controller.errors import (
    DisplayTaken,
    GateRefused,
    Nonsense,
    UnknownServer,
)
from agents.rdp.controller.gates import GateLine
from agents.rdp.controller.ledger import Tools, one_line
from agents.rdp.controller.store import Kept, Unsent
from agents.rdp.controller.trust import Claim, Hello, check, read_hello
from schemas.rdp_session_events import RdpGateRefused
from schemas.rdp_sessions import RdpSession
from schemas.sessions import new_session_id

log = structlog.get_logger(__name__)

HELLO_SECONDS = 10.0
KNOWN_SECONDS = 10.0  # for the xrdp room's event to say that a server runs
ALIVE_SECONDS = 3.0  # between signs of life to the gates
TOLD_EVERY = 10.0  # seconds between events about gates of one user that are refused alike


class Sessions:
    """A part of the service. host: this host's name."""

    name = "sessions"

    def __init__(
        self, tools: Tools, host: str, *, known_within: float = KNOWN_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._tools, self._host, self._known_within = tools, host, known_within
        self._monotonic = monotonic
        self._desktops: dict[str, Desktop] = {}
        self._refused: dict[tuple[int, str], tuple[float, int]] = {}
        tools.outbox.sent = self._sent
        tools.recordings.ended = self._recording_ended

    # -- what others look at -----------------------------------------------------------------

    @property
    def desktops(self) -> list[Desktop]:
        """Those that are not quite done with."""
        return list(self._desktops.values())

    def get(self, session: str) -> Desktop | None:
        return self._desktops.get(session)

    def on_display(self, server: str, display: str) -> Desktop | None:
        """The session of a display that is not over."""
        for one in self._desktops.values():
            if not one.over and (one.session.server, one.session.display) == (server, display):
                return one
        return None

    # -- after a restart -----------------------------------------------------------------------

    def restore(self) -> None:
        """Take up what an earlier controller had; its gates come back by themselves."""
        for kept in self._tools.store.sessions():
            desktop = Desktop(kept, self._tools)
            self._desktops[kept.session.session] = desktop
            for event in kept.unsent:
                self._tools.outbox.again(event, kept.session.session)
            if kept.boot != self._tools.store.boot and not desktop.over:
                desktop.vanished("the machine was started again")
            self._drop_if_done(desktop)

    # -- gates ---------------------------------------------------------------------------------

    async def serve(self, line: GateLine) -> None:
        """One connection of a gate, from its first word to its end."""
        desktop = None
        try:
            hello = read_hello(await line.line(HELLO_SECONDS))
            desktop = self._enter(await self._checked(hello, line), line)
            desktop.attach(line)
            while (message := await line.message()) is not None:
                if not desktop.take(message):
                    raise Nonsense(f"process {line.peer.pid} sends a message that is none")
        except GateRefused as error:
            self._refuse(line, error, None if desktop is None else desktop.session)
        finally:
            if desktop is not None:
                desktop.lost(line)
                self._drop_if_done(desktop)

    async def _checked(self, hello: Hello, line: GateLine) -> Claim:
        """What the gate says, once it is known to be so; raises GateRefused."""
        deadline = self._monotonic() + self._known_within
        while True:
            changed = self._tools.servers.changed
            try:
                return await asyncio.to_thread(check, hello, line.peer, self._tools.servers)
            except UnknownServer:
                # The event that a server runs may come after its first session.
                left = deadline - self._monotonic()
                if left <= 0:
                    raise
                await wait_stopped(changed, min(left, ALIVE_SECONDS))
                line.send({"alive": True})

    def _enter(self, claim: Claim, line: GateLine) -> Desktop:
        """The desktop of a gate: the one that it had before, or a new one."""
        for one in self._desktops.values():
            if one.session.leader == claim.leader:
                return one
        there = self.on_display(claim.hello.server, claim.hello.display)
        if there is not None and there.leader_lives:
            raise DisplayTaken(
                f"display {claim.hello.display} has session {there.session.session} already"
            )
        now = self._tools.wall()
        session = RdpSession(
            session=str(new_session_id()), server=claim.hello.server, host=self._host,
            user=claim.hello.user, uid=claim.uid, display=claim.hello.display,
            leader=claim.leader, xorg=claim.xorg, created=now, changed=now,
        )  # fmt: skip
        kept = Kept(
            boot=self._tools.store.boot, session=session, sesman=claim.sesman,
            xauthority=claim.hello.xauthority,
        )  # fmt: skip
        desktop = self._desktops[session.session] = Desktop(kept, self._tools)
        desktop.announce()
        log.info("a session asks to begin", session=session.session, server=session.server,
                 display=session.display)  # fmt: skip
        return desktop

    def _refuse(self, line: GateLine, error: GateRefused, session: RdpSession | None) -> None:
        """Say no, and tell of it; the same user's same mistake at most every TOLD_EVERY."""
        line.send({"go": False, "reason": one_line(error.what)})
        key, now = (line.peer.uid, error.code), self._monotonic()
        told_at, times = self._refused.get(key, (-TOLD_EVERY, 0))
        self._refused[key] = (told_at, times + 1)
        if now - told_at < TOLD_EVERY:
            return
        self._refused[key] = (now, 0)
        log.warning("a gate is refused", pid=line.peer.pid, uid=line.peer.uid, error=error)
        self._tools.outbox.put(RdpGateRefused(
            host=self._host, server=session.server if session else "",
            display=session.display if session else "", uid=line.peer.uid, pid=line.peer.pid,
            code=error.code, reason=one_line(error.what), times=times + 1,
        ))  # fmt: skip

    # -- news ----------------------------------------------------------------------------------

    def _sent(self, session: str, event: Unsent) -> None:
        desktop = self._desktops.get(session)
        if desktop is not None:
            desktop.sent(event)
            self._drop_if_done(desktop)

    def _recording_ended(self, recording: str, reason: str) -> None:
        for desktop in self.desktops:
            if desktop.session.recording == recording:
                desktop.recording_ended(ended_by_recorder(recording, reason))

    def _drop_if_done(self, desktop: Desktop) -> None:
        """Forget a session that is over, told of, and has no gate any more."""
        if desktop.done and desktop.line is None and not desktop.leader_lives:
            self._desktops.pop(desktop.session.session, None)
            self._tools.store.remove(desktop.session.session)

    # -- time ----------------------------------------------------------------------------------

    async def run(self, stop: StopSignal, /) -> None:
        """Look at every session now and then; what is there stays as it is at the end."""
        told = self._monotonic()
        while not await wait_stopped(stop, self._tools.section.watch_every):
            for desktop in self.desktops:
                desktop.look()
                desktop.write()
                self._drop_if_done(desktop)
            if self._monotonic() - told >= ALIVE_SECONDS:
                told = self._monotonic()
                for desktop in self.desktops:
                    desktop.send({"alive": True})
        for desktop in self.desktops:
            await desktop.close()
            desktop.write()
