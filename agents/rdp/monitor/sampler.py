"""One round: what the processes of each server and session use, since the round before.

    sampler = Sampler(host="desk7", disk=Disk())
    samples = sampler.sample(targets)            a ServerMetrics for each server

Blocking, and no more than a pass over /proc, so that it runs in a thread of its own. What
belongs to a tree once stays in it as long as it lives, also when its parent has ended; and a
process of a session's user that was started on the session's display belongs to the session.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import structlog

from agents.platform.process_table import PROC
from agents.platform.sock_diag import inodes_of
from agents.rdp.monitor.disk import Disk
from agents.rdp.monitor.processes import (
    TICKS,
    Ref,
    Stat,
    Table,
    belongs_to_display,
    memory_of,
    owner_of,
    read_table,
    ticks_used,
    tree,
)
from agents.rdp.monitor.sockets import (
    ESTABLISHED,
    NoSocketCounts,
    Socket,
    Traffic,
    read_sockets,
    traffic_since,
)
from agents.rdp.monitor.targets import ServerTarget, SessionTarget
from schemas.rdp_metrics import MAX_SESSIONS, ServerMetrics, SessionUsage, Usage

log = structlog.get_logger(__name__)

Key = tuple[str, str | None]
Members = Mapping[Ref, Stat]


@dataclass(slots=True)
class _Round:
    """What one round has read, each process and socket once. traffic: by a socket's cookie."""

    table: Table
    sockets: dict[int, Socket] | None
    traffic: dict[int, Traffic] = field(default_factory=dict)
    memory: dict[Ref, tuple[int, bool] | None] = field(default_factory=dict)
    inodes: dict[Ref, set[int] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a tree uses. partial: something could not be read. vanished: what ended meanwhile."""

    usage: Usage
    partial: bool
    vanished: int


class Sampler:
    """Measures the servers of this host; remembers what the round before has seen."""

    def __init__(
        self, *, host: str, disk: Disk, clock: Callable[[], float] = time.monotonic,
        proc: Path = PROC, sockets: Callable[[], dict[int, Socket]] = read_sockets,
    ) -> None:  # fmt: skip
        self._host, self._disk, self._clock, self._proc = host, disk, clock, proc
        self._read_sockets = sockets
        self._before: _Round | None = None
        self._members: dict[Key, dict[Ref, Stat]] = {}
        self.problem: NoSocketCounts | None = None
        """Why bytes and connections are not known, if they are not."""

    def sample(self, servers: Sequence[ServerTarget]) -> list[ServerMetrics]:
        """Measure all of them."""
        this = _Round(read_table(self._clock(), self._proc), self._sockets())
        this.traffic = {one.cookie: one.traffic for one in (this.sockets or {}).values()}
        members = self._gather(this.table, servers)
        found = [self._measure(this, server, members) for server in servers]
        self._before, self._members = this, members
        return found

    def _sockets(self) -> dict[int, Socket] | None:
        try:
            found = self._read_sockets()
        except NoSocketCounts as error:
            if self.problem is None:
                log.warning("bytes and connections are not measured", error=error)
            self.problem = error
            return None
        self.problem = None
        return found

    # -- which processes ---------------------------------------------------------------------

    def _gather(self, table: Table, servers: Iterable[ServerTarget]) -> dict[Key, dict[Ref, Stat]]:
        """The members of every tree."""
        found: dict[Key, dict[Ref, Stat]] = {}
        for server in servers:
            whole = self._tree(table, (server.server, None), server.roots)
            found[server.server, None] = whole
            for one in server.sessions:
                roots = session_roots(table, server, whole, one)
                found[server.server, one.session] = self._tree(
                    table, (server.server, one.session), roots
                )
        self._adopt(table, servers, found)
        for server in servers:
            for one in server.sessions:
                found[server.server, None].update(found[server.server, one.session])
        return found

    def _tree(self, table: Table, key: Key, roots: Iterable[Ref]) -> dict[Ref, Stat]:
        return tree(table, [*roots, *self._members.get(key, ())])

    def _adopt(
        self, table: Table, servers: Iterable[ServerTarget], found: dict[Key, dict[Ref, Stat]]
    ) -> None:
        """Give programs that left their parents to the session on whose display they started."""
        sessions = [
            (server.server, one, one.uid)
            for server in servers for one in server.sessions
            if one.display and one.uid is not None
        ]  # fmt: skip
        if not sessions:
            return
        taken = {ref for members in found.values() for ref in members}
        users = {uid for _, _, uid in sessions}
        loose: dict[int, list[Stat]] = {uid: [] for uid in users}
        for stat in table.by_pid.values():
            if stat.ref not in taken and (owner := owner_of(stat.ref, self._proc)) in users:
                loose[owner].append(stat)
        for server, one, uid in sessions:
            begun = min((root.started for root in one.desktop), default=0)
            mine = [
                stat.ref for stat in loose[uid]
                if stat.ref.started >= begun
                and belongs_to_display(stat.ref, one.display, self._proc)
            ]  # fmt: skip
            found[server, one.session].update(tree(table, mine))

    # -- what they use -------------------------------------------------------------------------

    def _measure(
        self, this: _Round, server: ServerTarget, members: Mapping[Key, Members]
    ) -> ServerMetrics:
        sessions = server.sessions[:MAX_SESSIONS]
        size, whole = self._disk.size(folders_of(server))
        all_of_it = self._use(this, (server.server, None), members, size)
        reads = [
            self._use(
                this, (server.server, one.session), members, self._disk.size(homes_of([one]))[0]
            )
            for one in sessions
        ]
        return ServerMetrics(
            server=server.server, host=self._host, seconds=self._seconds(this),
            limits=server.limits, usage=all_of_it.usage,
            sessions=[
                SessionUsage(session=one.session, usage=read.usage)
                for one, read in zip(sessions, reads, strict=True)
            ],
            partial=all_of_it.partial or (size is not None and not whole),
            vanished=all_of_it.vanished,
        )  # fmt: skip

    def _seconds(self, this: _Round) -> float | None:
        before = self._before
        return None if before is None else round(max(0.0, this.table.at - before.table.at), 3)

    def _use(
        self, this: _Round, key: Key, members: Mapping[Key, Members], disk: int | None
    ) -> _Read:
        mine = members[key]
        living = [stat for stat in mine.values() if not stat.dead]
        memory = [self._memory(this, stat) for stat in living]
        known = [one for one in memory if one is not None]
        inodes = [self._inodes(this, stat.ref) for stat in living]
        opened = {inode for some in inodes if some is not None for inode in some}
        partial = not all(whole for _, whole in known) or any(some is None for some in inodes)
        usage = Usage(
            cpu=self._cpu(this, key, mine), memory=sum(size for size, _ in known), disk=disk,
            processes=len(living), threads=sum(stat.threads for stat in living),
            **self._traffic(this, opened),
        )  # fmt: skip
        return _Read(usage, partial, len(memory) - len(known))

    def _cpu(self, this: _Round, key: Key, mine: Members) -> float | None:
        before, seconds = self._before, self._seconds(this)
        if before is None or not seconds:
            return None
        ticks = ticks_used(self._members.get(key, {}), before.table, mine)
        return round(ticks / TICKS / seconds, 4)

    def _traffic(self, this: _Round, inodes: set[int]) -> dict[str, int | None]:
        names = ("sent", "received", "packets_sent", "packets_received")
        if this.sockets is None:
            return dict.fromkeys((*names, "connections"))
        mine = (this.sockets.get(inode) for inode in inodes)
        connections = sum(one is not None and one.state == ESTABLISHED for one in mine)
        before = self._before
        if before is None or before.sockets is None:
            return {**dict.fromkeys(names), "connections": connections}
        traffic = traffic_since(before.traffic, this.sockets, inodes)
        return {**traffic._asdict(), "connections": connections}

    def _memory(self, this: _Round, stat: Stat) -> tuple[int, bool] | None:
        if stat.ref not in this.memory:
            this.memory[stat.ref] = memory_of(stat, self._proc)
        return this.memory[stat.ref]

    def _inodes(self, this: _Round, ref: Ref) -> set[int] | None:
        """Its sockets, none when it is gone, None when nobody may know."""
        if ref not in this.inodes:
            try:
                this.inodes[ref] = inodes_of(ref.pid, self._proc)
            except PermissionError:
                this.inodes[ref] = None
            except OSError:
                this.inodes[ref] = set()
        return this.inodes[ref]


def session_roots(
    table: Table, server: ServerTarget, whole: Members, session: SessionTarget
) -> list[Ref]:
    """What a session's tree begins with: its desktop, its clients' connections.

    sesman's process for the session is the parent of both parts of the desktop, and of the
    channel server, too, which no event names; it takes their place. A parent that is outside
    of the server's tree, or one of the server's own processes, does not.
    """
    found = [*session.desktop, *session.connections]
    parts = [table.get(ref) for ref in session.desktop]
    parents = {part.parent for part in parts if part is not None}
    if len(parts) > 1 and None not in parts and len(parents) == 1:
        parent = table.by_pid.get(parents.pop())
        if parent is not None and parent.ref in whole and parent.ref not in server.roots:
            found.append(parent.ref)
    return found


@lru_cache(maxsize=256)
def _home(uid: int) -> Path | None:
    """The home of a user; None for one that this host does not know."""
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return None


def homes_of(sessions: Iterable[SessionTarget]) -> set[Path]:
    """The homes of the sessions' users."""
    homes = (_home(one.uid) for one in sessions if one.uid is not None)
    return {home for home in homes if home is not None}


def folders_of(server: ServerTarget) -> set[Path]:
    """The folders whose size is the server's: its own, and the homes of its sessions' users."""
    return homes_of(server.sessions) | ({server.folder} if server.folder else set())
