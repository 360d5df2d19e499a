"""What became of desktop sessions and connections: CloudEvents of `rdp.session.events`.

The subject and key is the session id; of a connection without one, the connection's id; of a
gate that was refused, `host/HOST`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from schemas.canonical import Count, Strict
from schemas.envelope import AnsweringEvent
from schemas.events import SessionId
from schemas.rdp_config import Host
from schemas.rdp_processes import Code
from schemas.rdp_session_commands import SessionAction
from schemas.rdp_sessions import Connection, RdpSession, RdpState, Why


class RdpSessionChanged(RdpSession):
    """A session, whole, after a change of its state or of its recording."""


class RdpRecordingChanged(Strict):
    """A desktop's recording has begun, has ended, or is missing.

    recording: null where none ever began. required: whether the desktop is refused or ended
    without one; if it is not, a desktop whose recording is `missing` or `lost` goes on unseen.
    """

    session: SessionId
    recording: SessionId | None
    what: Literal["started", "stopped", "missing", "lost"]
    required: bool
    code: Code = ""
    reason: Why


class RdpConnectionChanged(Connection):
    """A connection, whole, after a change."""


class RdpNoticeAnswered(Strict):
    """What a user did with the notice of the recording; unshown: nothing could show it."""

    session: SessionId
    user: str
    answer: Literal["accepted", "declined", "unshown"]


class RdpGateRefused(Strict):
    """Something asked for a desktop that it may not have.

    server, display: what it named, as far as that can be read. times: how often that user did
    the like since the last such event.
    """

    host: Host
    server: Annotated[str, Field(max_length=100)]
    display: Annotated[str, Field(max_length=100)]
    uid: Count
    pid: Count
    code: Code
    reason: Why
    times: Annotated[int, Field(ge=1)]


class RdpCommandDone(Strict):
    """A command is carried out; the event's correlation id is the command's id."""

    session: SessionId
    action: SessionAction
    state: RdpState


class RdpCommandRefused(Strict):
    """A command is not carried out."""

    session: SessionId
    action: SessionAction
    code: Code
    reason: Why


RDP_SESSION_TYPES: dict[str, type[Strict]] = {
    "lucid.rdp.session.changed.v1": RdpSessionChanged,
    "lucid.rdp.session.recording.v1": RdpRecordingChanged,
    "lucid.rdp.session.notice.v1": RdpNoticeAnswered,
    "lucid.rdp.connection.changed.v1": RdpConnectionChanged,
    "lucid.rdp.gate.refused.v1": RdpGateRefused,
    "lucid.rdp.session_command.done.v1": RdpCommandDone,
    "lucid.rdp.session_command.refused.v1": RdpCommandRefused,
}


def rdp_session_subject(data: Strict) -> str:
    """What an event is about."""
    fields = dict(data)
    if isinstance(data, RdpConnectionChanged):
        return data.session or data.connection
    return str(fields.get("session") or f"host/{fields['host']}")


@dataclass(frozen=True, slots=True)
class RdpSessionEvent(AnsweringEvent):
    """An event of `rdp.session.events`."""

    types: ClassVar[Mapping[str, type[Strict]]] = RDP_SESSION_TYPES
    strays_to: ClassVar[str] = "another session"

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return rdp_session_subject(data)
