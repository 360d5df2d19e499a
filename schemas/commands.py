"""Commands to recorders: records of `session.commands`, key host, canonical JSON.

The answer is an event of `session.events` with the command's id as correlation id.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from schemas.canonical import InvalidModel, Strict, decode
from schemas.controls import Reason, Text
from schemas.sessions import parse_session_id

Action = Literal["start", "pause", "resume", "stop"]


class RecorderCommand(Strict):
    """Start recording a display, or pause, resume or stop a session of a host's recorder."""

    version: Literal[1] = 1
    id: str
    host: Annotated[str, Field(min_length=1, max_length=255)]
    action: Action
    session: str | None = None
    display: Annotated[str, Field(pattern=r"^:[0-9]{1,5}(\.[0-9]{1,3})?$")] | None = None
    xauthority: Annotated[Text, Field(pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    owner: Text = ""
    project: Text = ""
    reason: Reason = "requested"

    @field_validator("id", "session")
    @classmethod
    def _ids(cls, text: str | None) -> str | None:
        return text if text is None else str(parse_session_id(text))

    @model_validator(mode="after")
    def _target(self) -> RecorderCommand:
        if self.action == "start" and self.display is None:
            raise InvalidModel("command start names no display")
        if self.action != "start" and self.session is None:
            raise InvalidModel(f"command {self.action} names no session")
        return self

    @property
    def session_id(self) -> UUID | None:
        return UUID(self.session) if self.session else None


def read_command(data: bytes) -> RecorderCommand:
    """Read a command's canonical bytes; raises FormatError."""
    return decode(RecorderCommand, data)
