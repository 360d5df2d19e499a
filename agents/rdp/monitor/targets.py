"""What is to be measured on a host: servers with their sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.rdp.monitor.processes import Ref
from schemas.rdp_metrics import MeasuredLimits


@dataclass(frozen=True, slots=True)
class SessionTarget:
    """A session. display: such as `:10`, or empty while it is not known."""

    session: str
    roots: tuple[Ref, ...]
    user: str = ""
    display: str = ""


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server of this host, and its sessions. folder: its runtime folder, if it is known."""

    server: str
    roots: tuple[Ref, ...]
    limits: MeasuredLimits | None = None
    folder: Path | None = None
    sessions: tuple[SessionTarget, ...] = ()
