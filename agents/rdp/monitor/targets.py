"""What is to be measured on a host: servers with their sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.rdp.monitor.processes import Ref
from schemas.rdp_metrics import MeasuredLimits


@dataclass(frozen=True, slots=True)
class SessionTarget:
    """A session. desktop: its programs' first process and its X server, children of one parent.

    connections: the processes of xrdp that serve its clients now. display: such as `:10`.
    """

    session: str
    desktop: tuple[Ref, ...]
    connections: tuple[Ref, ...] = ()
    uid: int | None = None
    display: str = ""


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server of this host, and its sessions. folder: its runtime folder, if it is known."""

    server: str
    roots: tuple[Ref, ...]
    limits: MeasuredLimits | None = None
    folder: Path | None = None
    sessions: tuple[SessionTarget, ...] = ()
