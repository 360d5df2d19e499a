"""Payloads of control records: everything in `session.frames` but pictures. Canonical JSON.

The format is docs/formats/frame-record.md.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, field_validator

from schemas.canonical import Strict
from schemas.chunks import Sealing
from schemas.datakey import MAX_WRAPPED
from schemas.notes import Verifier
from schemas.sessions import parse_session_id

MAX_OPEN = 256 * 1024
"""Bytes of an `open` payload: it stands in each progress record, which fits into 1 MiB."""

MAX_NOTE = 4096
"""Characters of a closing note: it stands in the manifest, which fits into 1 MiB."""

Text = Annotated[str, Field(max_length=1000)]
Reason = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


@lru_cache(256)  # a recorder opens many sessions
def _verifier_text(text: str) -> str:
    return str(Verifier.parse(text))


class Open(Strict):
    """The first record of a session: everything that the processor has to know.

    key: the wrapped data key, an age file in base64. recorder: the recorder's verifier key.
    source: what is recorded, for people; no decision rests on it.
    """

    version: Literal[1] = 1
    session: str
    recorder: str
    key: Annotated[str, Field(max_length=MAX_WRAPPED * 4 // 3 + 4)]
    recipients: Annotated[list[Text], Field(min_length=1, max_length=400)]
    codec: Annotated[str, Field(min_length=1, max_length=64)]
    source: dict[str, str | int]
    host: Text
    owner: Text = ""
    project: Text = ""
    sealing: Sealing

    @field_validator("session")
    @classmethod
    def _session(cls, text: str) -> str:
        return str(parse_session_id(text))

    @field_validator("recorder")
    @classmethod
    def _recorder(cls, text: str) -> str:
        return _verifier_text(text)

    @field_validator("key")
    @classmethod
    def _key(cls, text: str) -> str:
        data = base64.b64decode(text, validate=True)
        if not data or base64.b64encode(data).decode() != text:
            raise ValueError("the wrapped key is not canonical base64")
        return text

    @property
    def session_id(self) -> UUID:
        return UUID(self.session)

    @property
    def wrapped_key(self) -> bytes:
        """The age file."""
        return base64.b64decode(self.key)

    @property
    def wrapped_key_hash(self) -> str:
        """SHA-256 of the age file, in hex."""
        return hashlib.sha256(self.wrapped_key).hexdigest()


class Keepalive(Strict):
    """Sent at least every 5 s of event time; its note commits to all records before it."""

    note: str


class Gap(Strict):
    """The recorder could not see the screen from one event time to another."""

    reason: Reason
    from_time: int
    to_time: int


class Pause(Strict):
    """Recording stops on request; keepalives go on."""

    reason: Reason


class Resume(Strict):
    """Recording goes on."""

    reason: Reason


class Close(Strict):
    """The last record; its note commits to all records before it and to the reason."""

    reason: Reason
    note: Annotated[str, Field(max_length=MAX_NOTE)]


class Abandon(Strict):
    """The pipeline ends a session whose recorder has vanished."""

    reason: Reason
    by: Text
    last_seen: int
