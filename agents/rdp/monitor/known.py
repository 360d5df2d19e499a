"""What the events say of this host's servers and sessions, so that they can be measured.

    known = Known("desk7")
    known.take("xrdp.process.events", record)     in the order of each topic; copies change nothing
    known.targets()                               the servers that have processes here

Raises FormatError for what is no event of its topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from agents.rdp.monitor.processes import Ref
from agents.rdp.monitor.targets import ServerTarget
from schemas.rdp_config import Limits, XrdpConfigEvent
from schemas.rdp_metrics import GIB, MIB, MeasuredLimits
from schemas.rdp_processes import ProcessChanged, XrdpProcessEvent

PROCESSES, CONFIG = "xrdp.process.events", "xrdp.config.events"
TOPICS = (PROCESSES, CONFIG)


class Raw(Protocol):
    """A record, whoever read it."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def value(self) -> bytes | None: ...


class Known:
    """Servers and sessions of one host."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._limits: dict[str, tuple[int, MeasuredLimits]] = {}
        self._processes: dict[str, ProcessChanged] = {}

    def take(self, topic: str, record: Raw) -> None:
        """Learn from a record of one of TOPICS."""
        if topic == PROCESSES:
            self._learn(
                XrdpProcessEvent.from_kafka(record.key, record.headers, record.value).change
            )
        elif topic == CONFIG:
            self._configure(record)

    def _configure(self, record: Raw) -> None:
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

    def targets(self) -> list[ServerTarget]:
        """The servers whose processes are on this host, by their ids."""
        return [
            self._target(change)
            for _, change in sorted(self._processes.items())
            if change.host == self._host and roots_of(change)
        ]

    def _target(self, change: ProcessChanged) -> ServerTarget:
        _, limits = self._limits.get(change.server, (0, None))
        folder = Path(change.folder) if change.folder.startswith("/") else None
        return ServerTarget(change.server, roots_of(change), limits, folder)


def roots_of(change: ProcessChanged) -> tuple[Ref, ...]:
    """The processes that a server's tree begins with."""
    found = (change.pids.xrdp, change.pids.sesman)
    return tuple(Ref(one.pid, one.started) for one in found if one is not None)


def measured(limits: Limits) -> MeasuredLimits:
    """Limits in base units."""
    return MeasuredLimits(cpu=limits.cpu, memory=limits.memory_mb * MIB, disk=limits.disk_gb * GIB)
