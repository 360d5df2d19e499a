"""Commands to recorders: records of `session.commands`, key host, canonical JSON.

The answer is an event of `session.events` with the command's id as correlation id. Version 2
is version 1 and the member `activity`; without it a command is of version 1, which every
recorder reads.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from schemas.activity import Policy
from schemas.canonical import InvalidModel, Strict, decode
from schemas.controls import Reason, Text
from schemas.sessions import parse_session_id

Action = Literal["start", "pause", "resume", "stop"]


class RecorderCommand(Strict):
    """Start recording a display, or pause, resume or stop a session of a host's recorder.

    activity: what `start` wants to have recorded beside the pictures; None leaves it to the
    recorder's settings, which also say what is refused.
    """

    version: Literal[1, 2] = 1
    id: str
    host: Annotated[str, Field(min_length=1, max_length=255)]
    action: Action
    session: str | None = None
    display: Annotated[str, Field(pattern=r"^:[0-9]{1,5}(\.[0-9]{1,3})?$")] | None = None
    xauthority: Annotated[Text, Field(pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    owner: Text = ""
    project: Text = ""
    reason: Reason = "requested"
    activity: Policy | None = None

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
        if (self.activity is not None) != (self.version == 2):
            raise InvalidModel(f"command version {self.version} does not go with its activity")
        if self.activity is not None and self.action != "start":
            raise InvalidModel(f"command {self.action} names activity")
        return self

    @model_serializer(mode="wrap")
    def _members(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if self.version == 1:
            fields.pop("activity")
        return fields

    @property
    def session_id(self) -> UUID | None:
        return UUID(self.session) if self.session else None


def read_command(data: bytes) -> RecorderCommand:
    """Read a command's canonical bytes; raises FormatError."""
    return decode(RecorderCommand, data)
