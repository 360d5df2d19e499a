"""Lifecycle events of sessions: CloudEvents 1.0 in Kafka binary mode on `session.events`.

The key is the session id (a command that names no session: its host), `ce_subject` the
same; the value is the data's canonical JSON. Types and their data stand in EVENT_TYPES.

FormatError
└── InvalidEvent      not a CloudEvent, an unknown type, or data that its type forbids
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from cloudevents.core.formats.base import Format
from cloudevents.core.v1.event import CloudEvent
from pydantic import Field

from schemas.canonical import Strict, decode, encode
from schemas.commands import Action
from schemas.controls import Reason, Text
from schemas.errors import FormatError
from schemas.manifests import Count, Hex32

CONTENT_TYPE = "application/json"
MAX_EVENT = 256 * 1024


Damage = Literal[
    "MissingFile", "ChecksumMismatch", "SizeMismatch", "UnexpectedFile", "CatalogMissing", "Unknown"
]
"""The stable names of what a scrub finds."""


class InvalidEvent(FormatError):
    """A record of an event topic that is not one of Lucid's events."""


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


class ScrubFinding(Strict):
    """A file of the store is not as the catalog has it. index: of a chunk's file."""

    session: str
    name: Text
    index: Count | None
    verdict: Damage
    expected: Text
    found: Text


class ScrubResolved(Strict):
    """A later look finds the file in order."""

    session: str
    name: Text
    index: Count | None
    verdict: Damage


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
    "lucid.scrub.finding.v1": ScrubFinding,
    "lucid.scrub.resolved.v1": ScrubResolved,
    "lucid.command.done.v1": CommandDone,
    "lucid.command.refused.v1": CommandRefused,
}
_TYPE_OF = {model: name for name, model in EVENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An event: its data and its envelope.

    source: the service and host, such as `lucid/recorder/host1`. correlation: the id of
    the command or event that this one answers.
    """

    data: Strict
    source: str
    subject: str
    id: str = field(default_factory=lambda: str(uuid4()))
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    correlation: str = ""

    @property
    def type(self) -> str:
        return _TYPE_OF[type(self.data)]


class _Canonical(Format):
    """Data as our own canonical bytes; the envelope is the library's."""

    def write(self, event: Any) -> bytes:
        raise NotImplementedError

    def read(self, event_factory: Any, data: str | bytes) -> Any:
        raise NotImplementedError

    def write_data(self, data: Any, datacontenttype: str | None) -> bytes:
        return bytes(data)

    def read_data(self, body: bytes, datacontenttype: str | None) -> bytes:
        return bytes(body)

    def get_content_type(self) -> str:
        return CONTENT_TYPE


def event_to_kafka(event: SessionEvent) -> tuple[bytes, list[tuple[str, bytes]], bytes]:
    """Key, headers and value of the Kafka record."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "datacontenttype": CONTENT_TYPE,
    }
    if event.correlation:
        attributes["correlationid"] = event.correlation
    message = to_binary(CloudEvent(attributes, encode(event.data)), _Canonical())
    return event.subject.encode(), list(message.headers.items()), message.value


def event_from_kafka(
    key: bytes | None, headers: Sequence[tuple[str, bytes | None]], value: bytes | None
) -> SessionEvent:
    """Read an event; raises InvalidEvent or another FormatError, whatever the bytes are."""
    fields = {name: text for name, text in headers if text is not None}
    if value is None or len(value) > MAX_EVENT or len(fields) != len(headers):
        raise InvalidEvent("an event has no value, is over 256 KiB, or repeats a header")
    try:
        message = KafkaMessage(headers=fields, key=None, value=value)
        event = from_binary(message, _Canonical())
    except Exception as error:
        # The binding raises its own errors, dateutil's and UnicodeDecodeError alike.
        raise InvalidEvent(f"a record is not a CloudEvent: {error}") from error
    attributes = event.get_attributes()
    model = EVENT_TYPES.get(attributes["type"])
    subject, time = attributes.get("subject"), attributes.get("time")
    if model is None:
        raise InvalidEvent(f"an event has type {attributes['type']!r}, which is not known here")
    if not subject or key != subject.encode() or time is None or time.tzinfo is None:
        raise InvalidEvent(f"event {attributes['id']} has no time, or its key is not its subject")
    if attributes.get("datacontenttype") != CONTENT_TYPE:
        raise InvalidEvent(f"event {attributes['id']} holds data that is not {CONTENT_TYPE}")
    return SessionEvent(
        data=decode(model, value),
        source=attributes["source"],
        subject=subject,
        id=attributes["id"],
        time=time,
        correlation=attributes.get("correlationid", ""),
    )
