"""What the events say of this host's servers and sessions, so that they can be measured.

    known = Known("desk7")
    known.take("xrdp.process.events", record)     in the order of each topic; copies change nothing
    known.targets()                               the servers that have processes here

Raises FormatError for what is no event of its topic.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from agents.rdp.monitor.processes import Ref
from agents.rdp.monitor.targets import ServerTarget, SessionTarget
from schemas.rdp_config import Limits, XrdpConfigEvent
from schemas.rdp_metrics import GIB, MIB, MeasuredLimits
from schemas.rdp_processes import ProcessChanged, ProcessRef, XrdpProcessEvent
from schemas.rdp_session_events import RdpSessionEvent
from schemas.rdp_sessions import OVER, Connection, RdpSession

PROCESSES, CONFIG = "xrdp.process.events", "xrdp.config.events"
SESSIONS = "rdp.session.events"
TOPICS = (PROCESSES, CONFIG, SESSIONS)
CLOSED = frozenset({"disconnected", "error"})
MOST_ENDED = 10_000
Part = TypeVar("Part", RdpSession, Connection)


class Record(Protocol):
    """What is taken of a Kafka record."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def value(self) -> bytes | None: ...


class Ended:
    """The newest ids of what is over; an older event that comes again brings nothing back."""

    def __init__(self, most: int = MOST_ENDED) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, name: str) -> None:
        self._ids[name] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)

    def __contains__(self, name: str) -> bool:
        return name in self._ids


class Known:
    """Servers and sessions of one host."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._limits: dict[str, tuple[int, MeasuredLimits]] = {}
        self._processes: dict[str, ProcessChanged] = {}
        self._sessions: dict[str, RdpSession] = {}
        self._connections: dict[str, Connection] = {}
        self._ended = Ended()

    def take(self, topic: str, record: Record) -> None:
        """Learn from a record of one of TOPICS; raises FormatError."""
        if topic == CONFIG:
            self._configure(record)
        elif topic == PROCESSES:
            event = XrdpProcessEvent.from_kafka(record.key, record.headers, record.value)
            self._learn(event.change)
        elif topic == SESSIONS:
            data = RdpSessionEvent.from_kafka(record.key, record.headers, record.value).data
            if isinstance(data, RdpSession):
                self._note(self._sessions, data.session, data, data.state in OVER)
            elif isinstance(data, Connection):
                self._note(self._connections, data.connection, data, data.state in CLOSED)

    def _configure(self, record: Record) -> None:
        if record.value is None:
            # Nothing is left of the server, also of what is known here.
            server = (record.key or b"").decode("utf-8", "replace")
            self._limits.pop(server, None)
            self._processes.pop(server, None)
            return
        wanted = XrdpConfigEvent.from_kafka(record.key, record.headers, record.value).wanted
        version, _ = self._limits.get(wanted.server, (0, None))
        if wanted.version >= version:
            self._limits[wanted.server] = (wanted.version, measured(wanted.config.limits))

    def _learn(self, change: ProcessChanged) -> None:
        before = self._processes.get(change.server)
        if before is None or change.seq > before.seq:
            self._processes[change.server] = change

    def _note(self, known: dict[str, Part], name: str, part: Part, over: bool) -> None:
        """A session or connection after a change, unless it is of another host or older."""
        before = known.get(name)
        old = before is not None and part.seq <= before.seq
        if part.host != self._host or name in self._ended or old:
            return
        known[name] = part
        if over:
            del known[name]
            self._ended.add(name)

    def targets(self) -> list[ServerTarget]:
        """The servers whose processes are on this host, by their ids."""
        sessions: dict[str, list[SessionTarget]] = defaultdict(list)
        for name, session in sorted(self._sessions.items()):
            sessions[session.server].append(self._session(name, session))
        return [
            self._target(change, sessions[change.server])
            for _, change in sorted(self._processes.items())
            if change.host == self._host and roots_of(change)
        ]

    def _session(self, name: str, session: RdpSession) -> SessionTarget:
        serving = [one.process for one in self._connections.values() if one.session == name]
        return SessionTarget(
            name, refs(session.leader, session.xorg), refs(*serving), session.uid, session.display
        )

    def _target(self, change: ProcessChanged, sessions: list[SessionTarget]) -> ServerTarget:
        _, limits = self._limits.get(change.server, (0, None))
        folder = Path(change.folder) if change.folder.startswith("/") else None
        return ServerTarget(change.server, roots_of(change), limits, folder, tuple(sessions))


def refs(*processes: ProcessRef | None) -> tuple[Ref, ...]:
    """The processes that there are."""
    return tuple(Ref(one.pid, one.started) for one in processes if one is not None)


def roots_of(change: ProcessChanged) -> tuple[Ref, ...]:
    """The processes that a server's tree begins with."""
    return refs(change.pids.xrdp, change.pids.sesman)


def measured(limits: Limits) -> MeasuredLimits:
    """Limits in base units."""
    return MeasuredLimits(cpu=limits.cpu, memory=limits.memory_mb * MIB, disk=limits.disk_gb * GIB)
