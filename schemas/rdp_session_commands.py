"""Commands to RDP controllers: records of `rdp.session.commands`, canonical JSON.

The key is the session id. The answer is an event of `rdp.session.events` with the command's
id as correlation id.
"""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from schemas.canonical import InvalidModel, Strict, decode
from schemas.controls import Reason
from schemas.events import SessionId
from schemas.rdp_config import Host
from schemas.sessions import parse_session_id

SessionAction = Literal["suspend", "resume", "terminate"]


class RdpSessionCommand(Strict):
    """Stop the programs of a host's desktop session, let them go on, or end it."""

    version: Literal[1] = 1
    id: str
    host: Host
    session: SessionId
    action: SessionAction
    reason: Reason = "requested"

    @field_validator("id")
    @classmethod
    def _id(cls, text: str) -> str:
        return str(parse_session_id(text))


def read_session_command(key: bytes | None, data: bytes) -> RdpSessionCommand:
    """Read a command's canonical bytes; raises FormatError, also for another key than its own."""
    command = decode(RdpSessionCommand, data)
    if key != command.session.encode():
        raise InvalidModel(f"command {command.id} is under another key than its session")
    return command
