"""Lifecycle events of sessions: CloudEvents 1.0 in Kafka binary mode on `session.events`.

The subject and key is the session id (a command that names no session: its host). Types
and their data stand in EVENT_TYPES, the envelope in schemas/envelope.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from schemas.canonical import Strict
from schemas.commands import Action
from schemas.controls import Reason, Text
from schemas.envelope import Event
from schemas.manifests import Count, Hex32


class SessionOpened(Strict):
    """The recorder has put the `open` record on the broker, at this partition and offset."""

    session: str
    partition: Count
    offset: Count
    host: Text
    recorder: str
    codec: str
    source: dict[str, str | int]
    owner: Text = ""
    project: Text = ""
    started: Count


class SessionHeartbeat(Strict):
    """The recorder lives. next_seq: records sent so far; raw_bytes: their payloads."""

    session: str
    next_seq: Count
    raw_bytes: Count
    paused: bool = False


class SessionPaused(Strict):
    session: str
    reason: Reason


class SessionResumed(Strict):
    session: str
    reason: Reason


class SessionClosed(Strict):
    """The `close` record is on the broker; next_seq counts it."""

    session: str
    next_seq: Count
    raw_bytes: Count
    reason: Reason


class SessionAbandoned(Strict):
    """The pipeline has put an `abandon` record on the broker."""

    session: str
    partition: Count
    offset: Count
    reason: Reason


class ChunkStored(Strict):
    """Storage has the chunk on disk and in the catalog. size: bytes of the file."""

    session: str
    index: Count
    leaf: Hex32
    size: Count
    records: Count
    missing: Count
    last: bool


class ChunkConflict(Strict):
    """A chunk differs from the first one stored under its index; it is kept aside."""

    session: str
    index: Count
    stored_leaf: Hex32
    refused_leaf: Hex32


class ManifestStored(Strict):
    session: str
    manifest_hash: Hex32


class ManifestConflict(Strict):
    """A manifest differs from the first one stored for its session; it is kept aside."""

    session: str
    stored_hash: Hex32
    refused_hash: Hex32


class SessionCompleted(Strict):
    """Everything that was recorded is sealed, stored and counted."""

    session: str
    chunks: Count
    records: Count
    stored_bytes: Count
    root: Hex32


class SessionIncomplete(Strict):
    """The session has ended, and this is what is missing."""

    session: str
    shortcomings: list[str] = Field(min_length=1, max_length=2000)


class CommandDone(Strict):
    """A recorder has carried out a command; the event's correlation id is the command's id."""

    action: Action
    host: Text
    session: str


class CommandRefused(Strict):
    """A recorder could not carry out a command."""

    action: Action
    host: Text
    session: str | None = None
    code: str
    reason: str


EVENT_TYPES: dict[str, type[Strict]] = {
    "lucid.session.opened.v1": SessionOpened,
    "lucid.session.heartbeat.v1": SessionHeartbeat,
    "lucid.session.paused.v1": SessionPaused,
    "lucid.session.resumed.v1": SessionResumed,
    "lucid.session.closed.v1": SessionClosed,
    "lucid.session.abandoned.v1": SessionAbandoned,
    "lucid.session.completed.v1": SessionCompleted,
    "lucid.session.incomplete.v1": SessionIncomplete,
    "lucid.chunk.stored.v1": ChunkStored,
    "lucid.chunk.conflict.v1": ChunkConflict,
    "lucid.manifest.stored.v1": ManifestStored,
    "lucid.manifest.conflict.v1": ManifestConflict,
    "lucid.command.done.v1": CommandDone,
    "lucid.command.refused.v1": CommandRefused,
}


@dataclass(frozen=True, slots=True)
class SessionEvent(Event):
    """An event of `session.events`.

    correlation: the id of the command or event that this one answers.
    """

    types: ClassVar[Mapping[str, type[Strict]]] = EVENT_TYPES
    extensions: ClassVar[Mapping[str, str]] = {"correlationid": "correlation"}

    correlation: str = ""


event_to_kafka = SessionEvent.to_kafka
event_from_kafka = SessionEvent.from_kafka
