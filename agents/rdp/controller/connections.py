"""Clients' connections, as xrdp itself shows them.

xrdp forks a child for each client that it accepts; the child lives as long as the connection.
Once the client has logged on, the child has a unix socket to the X server of the desktop, at
`…/xrdp_display_N`; until then it has none. Both are looked up in the kernel's tables, for the
log of xrdp repeats what clients say and may be made to say anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from agents.platform.process_table import end_processes, is_alive, process_ref
from agents.platform.retry import Transient, wait_stopped
from agents.platform.service import StopSignal
from agents.rdp.controller.ledger import Tools
from agents.rdp.controller.sessions import Sessions
from agents.rdp.controller.sock_diag import socket_inodes, unix_peers
from schemas.rdp_processes import ProcessChanged, ProcessRef
from schemas.rdp_session_events import RdpConnectionChanged
from schemas.rdp_sessions import Connection, ConnectionState, connection_moved
from schemas.sessions import new_session_id

log = structlog.get_logger(__name__)

DISPLAY_SOCKET = re.compile(r"/xrdp_display_([0-9]{1,5})$")
END_SECONDS = 2.0


class CannotSee(Transient):
    """The kernel does not tell of connections."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A child of xrdp now. display: what it shows, `:N`; empty before the logon."""

    server: str
    process: ProcessRef
    address: str
    display: str


class Look:
    """One look at this host's connections; what blocks is read in a thread."""

    def __init__(self) -> None:
        self._addresses: dict[ProcessRef, str] = {}

    def at(self, servers: list[ProcessChanged]) -> list[Seen]:
        """Every connection of these servers; raises CannotSee."""
        children = [
            (server, child) for server in servers if server.pids.xrdp is not None
            for child in children_of(server.pids.xrdp.pid)
        ]  # fmt: skip
        try:
            peers = unix_peers() if children else {}
            found = [self._seen(server, child, peers) for server, child in children]
        except OSError as error:
            raise CannotSee(
                f"connections cannot be seen: {error}", hint="The controller has to run as root"
            ) from error
        self._addresses = {one.process: one.address for one in found}
        return found

    def _seen(self, server: ProcessChanged, child: ProcessRef, peers: dict[int, str]) -> Seen:
        address = self._addresses.get(child) or address_of(child.pid, server.port)
        for inode in socket_inodes(child.pid):
            if (match := DISPLAY_SOCKET.search(peers.get(inode, ""))) is not None:
                return Seen(server.server, child, address, f":{match[1]}")
        return Seen(server.server, child, address, "")


def children_of(pid: int) -> list[ProcessRef]:
    """A process's own children."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [ref for word in text.split() if (ref := process_ref(int(word))) is not None]


def address_of(pid: int, port: int) -> str:
    """The client at the other end of a process's connection at `port`; empty if there is none."""
    with contextlib.suppress(psutil.Error):
        for one in psutil.Process(pid).net_connections("tcp"):
            if one.laddr and one.raddr and one.laddr.port == port:
                return f"{one.raddr.ip.removeprefix('::ffff:')}:{one.raddr.port}"
    return ""


class Connections:
    """A part of the service: keeps the connections' states, and cuts those that may not be."""

    name = "connections"

    def __init__(
        self, tools: Tools, sessions: Sessions, host: str, *, look: Look | None = None
    ) -> None:
        self._tools, self._sessions, self._host = tools, sessions, host
        self._look = look or Look()
        self._there = {one.process: one for one in tools.store.connections()}
        self._trouble: CannotSee | None = None

    @property
    def connections(self) -> list[Connection]:
        """Those that are there."""
        return list(self._there.values())

    async def healthy(self) -> None:
        """Raise CannotSee while nothing is known."""
        if self._trouble is not None:
            raise self._trouble

    async def run(self, stop: StopSignal, /) -> None:
        """Look every now and then."""
        while not await wait_stopped(stop, self._tools.section.watch_every):
            try:
                await self.look()
            except CannotSee as error:
                if self._trouble is None:
                    log.error("connections cannot be seen", error=error)
                self._trouble = error
            else:
                self._trouble = None

    async def look(self) -> None:
        """Look once; raises CannotSee."""
        found = await asyncio.to_thread(self._look.at, self._tools.servers.running())
        now, before = {one.process for one in found}, dict(self._there)
        for process in [one for one in self._there if one not in now]:
            self._ended(process)
        for seen in found:
            self._see(seen)
        self._tell_sessions()
        await self._cut()
        if self._there != before:
            self._tools.store.put_connections(self._there.values())

    def _see(self, seen: Seen) -> None:
        known = self._there.get(seen.process)
        if known is None:
            now = self._tools.wall()
            known = Connection(
                connection=str(new_session_id()), server=seen.server, host=self._host,
                address=seen.address, process=seen.process, created=now, changed=now,
            )  # fmt: skip
            self._put(known)
        if seen.display and known.state == "connecting":
            desktop = self._sessions.on_display(seen.server, seen.display)
            # A desktop that no gate has asked for yet; the next look finds it.
            if desktop is not None:
                self._move(known, "connected", "logged on", desktop.session.session)

    def _ended(self, process: ProcessRef) -> None:
        known = self._there[process]
        if known.state == "connecting":
            self._move(known, "error", "it ended before a logon")
        else:
            self._move(known, "disconnected", "the client is gone")
        del self._there[process]

    def _move(
        self, connection: Connection, state: ConnectionState, reason: str, session: str = ""
    ) -> None:
        self._put(
            connection_moved(connection, state, reason, self._tools.wall(), session or None)
        )  # fmt: skip

    def _put(self, connection: Connection) -> None:
        self._there[connection.process] = connection
        self._tools.outbox.put(RdpConnectionChanged(**dict(connection)))

    def _tell_sessions(self) -> None:
        shown = [one.session for one in self._there.values() if one.state == "connected"]
        for desktop in self._sessions.desktops:
            desktop.shown_to(shown.count(desktop.session.session))

    async def _cut(self) -> None:
        """End the connections that may not be any more."""
        late = {one.process: why for one in self._there.values() if (why := self._why_cut(one))}
        if not late:
            return
        await end_processes(late, END_SECONDS)
        for process, why in late.items():
            connection = self._there[process]
            log.info("a connection is cut", connection=connection.connection, reason=why)
            if not is_alive(process):
                self._move(connection, "disconnected", why)
                del self._there[process]

    def _why_cut(self, connection: Connection) -> str:
        """Why a connection has to end; empty if it may stay."""
        section = self._tools.section
        if connection.session is None:
            return ""  # who never logs on is the xrdp room's to send away
        desktop = self._sessions.get(connection.session or "")
        if desktop is None or desktop.over:
            return ""  # xrdp ends it with the desktop
        if desktop.session.state == "suspended":
            return "the session is suspended"
        if (desktop.idle_ms or 0) > section.stale_after * 1000:
            return f"no input for {section.stale_after:g} s"
        return ""
