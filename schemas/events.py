"""Lifecycle events of sessions: CloudEvents 1.0 in Kafka binary mode on `session.events`.

The subject and key is the session id (a command that names no session: its host). Types
and their data stand in EVENT_TYPES, the envelope in schemas/envelope.py. Every version that
was ever written stays readable: tests/vectors/events has a sample of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field

from schemas.canonical import Count, Hex32, Strict
from schemas.chunks import ChunkHeader
from schemas.commands import Action
from schemas.controls import Open, Reason, Text
from schemas.envelope import AnsweringEvent
from schemas.sessions import parse_session_id

SessionId = Annotated[str, AfterValidator(lambda text: str(parse_session_id(text)))]
Damage = Literal[
    "MissingFile", "ChecksumMismatch", "SizeMismatch", "UnexpectedFile", "CatalogMissing", "Unknown"
]
"""The stable names of what a scrub finds."""


class SessionOpened(Strict):
    """The recorder has put the `open` record on the broker, at this partition and offset."""

    session: SessionId
    partition: Count
    offset: Count
    host: Text
    recorder: str
    codec: str
    source: dict[str, str | int]
    owner: Text = ""
    project: Text = ""
    started: Count

    @classmethod
    def of(cls, opened: Open, partition: int, offset: int, started: int) -> Self:
        """What an `open` record says, and where it is. started: its event time."""
        return cls(
            session=opened.session,
            partition=partition,
            offset=offset,
            host=opened.host,
            recorder=opened.recorder,
            codec=opened.codec,
            source=opened.source,
            owner=opened.owner,
            project=opened.project,
            started=started,
        )


class SessionHeartbeat(Strict):
    """The recorder lives. next_seq: records sent so far; raw_bytes: their payloads."""

    session: SessionId
    next_seq: Count
    raw_bytes: Count
    paused: bool = False


class SessionPaused(Strict):
    session: SessionId
    reason: Reason


class SessionResumed(Strict):
    session: SessionId
    reason: Reason


class SessionClosed(Strict):
    """The `close` record is on the broker; next_seq counts it."""

    session: SessionId
    next_seq: Count
    raw_bytes: Count
    reason: Reason


class SessionAbandoned(Strict):
    """The pipeline has put an `abandon` record on the broker."""

    session: SessionId
    partition: Count
    offset: Count
    reason: Reason


class ChunkStoredV1(Strict):
    """Storage has the chunk on disk and in the catalog. size: bytes of the file."""

    session: SessionId
    index: Count
    leaf: Hex32
    size: Count
    records: Count
    missing: Count
    last: bool


class ChunkStored(ChunkStoredV1):
    """The same, with what else a list of chunks shows.

    first_seq, next_seq: sequence numbers of its first record and of the first behind it.
    first_time, last_time: event times in microseconds. raw_size: bytes of its plaintext.
    """

    first_seq: Count
    next_seq: Count
    first_time: Count
    last_time: Count
    raw_size: Count


def chunk_stored(header: ChunkHeader, leaf: bytes, size: int) -> ChunkStored:
    """The event of a chunk with this header; size: bytes of its file."""
    names = set(ChunkStored.model_fields) & {one.name for one in fields(header)} - {"session"}
    return ChunkStored(
        session=str(header.session), leaf=leaf.hex(), size=size,
        **{name: getattr(header, name) for name in names},
    )  # fmt: skip


class ChunkConflict(Strict):
    """A chunk differs from the first one stored under its index; it is kept aside."""

    session: SessionId
    index: Count
    stored_leaf: Hex32
    refused_leaf: Hex32


class ManifestStored(Strict):
    session: SessionId
    manifest_hash: Hex32


class ManifestConflict(Strict):
    """A manifest differs from the first one stored for its session; it is kept aside."""

    session: SessionId
    stored_hash: Hex32
    refused_hash: Hex32


class RecordsExpired(Strict):
    """Retention took records before they were read: offsets first_offset to next_offset - 1.

    topic: its name in the contract. session: whose records may be among them, from next_seq
    on; both null when the partition as a whole is told of.
    """

    session: SessionId | None
    topic: Text
    partition: Count
    first_offset: Count
    next_offset: Count
    next_seq: Count | None


class SessionUnsealed(Strict):
    """The processor met the session's `abandon`, at this place, but never its `open`."""

    session: SessionId
    partition: Count
    offset: Count


class ScrubFinding(Strict):
    """A file of the store is not as the catalog has it. index: of a chunk's file."""

    session: SessionId
    name: Text
    index: Count | None
    verdict: Damage
    expected: Text
    found: Text


class ScrubResolved(Strict):
    """A later look finds the file in order."""

    session: SessionId
    name: Text
    index: Count | None
    verdict: Damage


class SessionCompleted(Strict):
    """Everything that was recorded is sealed, stored and counted."""

    session: SessionId
    chunks: Count
    records: Count
    stored_bytes: Count
    root: Hex32


class SessionIncomplete(Strict):
    """The session has ended, and this is what is missing."""

    session: SessionId
    shortcomings: list[str] = Field(min_length=1, max_length=2000)


class SessionErasing(Strict):
    """The record of an erasure is on disk, and deleting begins. record: SHA-256 of it."""

    session: SessionId
    stage: Literal["content", "metadata"]
    scope: Literal["default", "project", "session"]
    keep_days: Count
    record: Hex32


class SessionShredded(Strict):
    """Storage and catalog hold nothing of the stage any more; waiting: what still does."""

    session: SessionId
    stage: Literal["content", "metadata"]
    files: Count
    bytes: Count
    waiting: list[Text] = Field(max_length=100)


class SessionErased(Strict):
    """Nothing that Lucid can see holds anything of the stage any more."""

    session: SessionId
    stage: Literal["content", "metadata"]


class SessionSpared(Strict):
    """An erasure that was begun, and had destroyed nothing, was withdrawn for a hold."""

    session: SessionId
    hold: Text


class HoldSet(Strict):
    """A legal hold is in force: on a session, on a project, or, with neither, on everything."""

    session: SessionId | None
    project: Text | None
    reason: Reason


class HoldReleased(Strict):
    """A legal hold is over."""

    session: SessionId | None
    project: Text | None
    reason: Reason


class CommandDone(Strict):
    """A recorder has carried out a command; the event's correlation id is the command's id."""

    action: Action
    host: Text
    session: SessionId


class CommandRefused(Strict):
    """A recorder could not carry out a command."""

    action: Action
    host: Text
    session: SessionId | None = None
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
    "lucid.session.unsealed.v1": SessionUnsealed,
    "lucid.session.erasing.v1": SessionErasing,
    "lucid.session.shredded.v1": SessionShredded,
    "lucid.session.erased.v1": SessionErased,
    "lucid.session.spared.v1": SessionSpared,
    "lucid.session.hold_set.v1": HoldSet,
    "lucid.session.hold_released.v1": HoldReleased,
    "lucid.records.expired.v1": RecordsExpired,
    "lucid.chunk.stored.v1": ChunkStoredV1,
    "lucid.chunk.stored.v2": ChunkStored,
    "lucid.chunk.conflict.v1": ChunkConflict,
    "lucid.manifest.stored.v1": ManifestStored,
    "lucid.manifest.conflict.v1": ManifestConflict,
    "lucid.scrub.finding.v1": ScrubFinding,
    "lucid.scrub.resolved.v1": ScrubResolved,
    "lucid.command.done.v1": CommandDone,
    "lucid.command.refused.v1": CommandRefused,
}


def subject_of(data: Strict) -> str:
    """What an event is about: the session, else what is told of, else the host."""
    fields = dict(data)
    if fields["session"] is not None:
        return str(fields["session"])
    if isinstance(data, RecordsExpired):
        return f"{data.topic}/{data.partition}"
    if isinstance(data, HoldSet | HoldReleased):
        return "everything" if data.project is None else f"project/{data.project}"
    return str(fields.get("host"))


@dataclass(frozen=True, slots=True)
class SessionEvent(AnsweringEvent):
    """An event of `session.events`."""

    types: ClassVar[Mapping[str, type[Strict]]] = EVENT_TYPES
    strays_to: ClassVar[str] = "another session"

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return subject_of(data)


event_from_kafka = SessionEvent.from_kafka
