"""Desktop sessions and connections: their states, and which may follow which. Pure.

A session is one user's desktop on one X display of a server; a connection is one client's. A
session outlives its connections. Times are microseconds since 1970, for people; what is due is
measured by clocks that nobody sets.

LucidError
└── ForbiddenTransition    (schemas/rdp_states.py) a change that the tables below do not have
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from schemas.canonical import Count, Strict
from schemas.events import SessionId
from schemas.rdp_config import Host, ServerId
from schemas.rdp_processes import ProcessRef
from schemas.rdp_states import check_step

RdpState = Literal["creating", "active", "idle", "suspended", "terminated", "error"]
ConnectionState = Literal["connecting", "connected", "disconnected", "error"]
Display = Annotated[str, Field(pattern=r"^:[0-9]{1,5}$")]
User = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x20\x7f:]+$")]
Why = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]

SESSION_STEPS: Mapping[RdpState, frozenset[RdpState]] = {
    "creating": frozenset({"active", "terminated", "error"}),
    "active": frozenset({"idle", "suspended", "terminated", "error"}),
    "idle": frozenset({"active", "suspended", "terminated", "error"}),
    "suspended": frozenset({"active", "terminated", "error"}),
    "terminated": frozenset(),
    "error": frozenset(),
}
CONNECTION_STEPS: Mapping[ConnectionState, frozenset[ConnectionState]] = {
    "connecting": frozenset({"connected", "disconnected", "error"}),
    "connected": frozenset({"disconnected", "error"}),
    "disconnected": frozenset(),
    "error": frozenset(),
}
OVER: frozenset[RdpState] = frozenset({"terminated", "error"})
"""Ended as somebody wanted it, and ended by a fault."""


class RdpSession(Strict):
    """A desktop session, whole.

    seq: of its newest change, gapless from 0. leader: the gate, a child of the session process
    of sesman. recording: the session of `session.frames` that records it now; recordings: all
    so far. created, changed: microseconds since 1970.
    """

    session: SessionId
    seq: Count = 0
    server: ServerId
    host: Host
    user: User
    uid: Count
    display: Display
    leader: ProcessRef
    xorg: ProcessRef
    state: RdpState = "creating"
    reason: Why = ""
    recording: SessionId | None = None
    recordings: list[SessionId] = Field(default_factory=list)
    created: Count
    changed: Count


class Connection(Strict):
    """A client's connection to a server, whole.

    session: the desktop that it shows, null until it has logged on. address: the client's, IP
    and port. process: xrdp's child that serves it.
    """

    connection: SessionId
    seq: Count = 0
    server: ServerId
    host: Host
    address: Annotated[str, Field(max_length=100)]
    process: ProcessRef
    session: SessionId | None = None
    state: ConnectionState = "connecting"
    reason: Why = ""
    created: Count
    changed: Count


def moved(session: RdpSession, state: RdpState, reason: str, now: int) -> RdpSession:
    """The session after a change of state; itself when it is in that state already.

    Raises ForbiddenTransition. The clock may have been set back: a change is never older than
    the one before it.
    """
    if state == session.state:
        return session
    check_step(SESSION_STEPS, session.state, state, f"session {session.session}")
    return session.model_copy(
        update={
            "state": state, "reason": reason, "seq": session.seq + 1,
            "changed": max(now, session.changed),
            **({"recording": None} if state in OVER else {}),
        }
    )  # fmt: skip


def recorded(session: RdpSession, recording: str | None, reason: str, now: int) -> RdpSession:
    """The session with another recording, or with none; itself when nothing changes."""
    if recording == session.recording or session.state in OVER:
        return session
    known = session.recordings
    if recording is not None and recording not in known:
        known = [*known, recording]
    return session.model_copy(
        update={
            "recording": recording, "recordings": known, "reason": reason,
            "seq": session.seq + 1, "changed": max(now, session.changed),
        }
    )  # fmt: skip


def connection_moved(
    connection: Connection, state: ConnectionState, reason: str, now: int,
    session: str | None = None,
) -> Connection:  # fmt: skip
    """The connection after a change; itself when it is in that state already."""
    if state == connection.state:
        return connection
    check_step(
        CONNECTION_STEPS, connection.state, state, f"connection {connection.connection}"
    )  # fmt: skip
    return connection.model_copy(
        update={
            "state": state, "reason": reason, "seq": connection.seq + 1,
            "changed": max(now, connection.changed), "session": session or connection.session,
        }
    )  # fmt: skip
