"""Audit events: what people did with records and recordings. Topic `audit.events`.

CloudEvents as in schemas/envelope.py; the subject is the session, or what else the act was
done to. Who did it stands in `ce_authtype` and `ce_authid` (the CloudEvents extension "Auth
Context"), on which host in `ce_source`. The format page is docs/formats/audit.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field

from schemas.canonical import Strict
from schemas.controls import Reason
from schemas.envelope import Event, InvalidEvent
from schemas.manifests import Count, Hex32

Name = Annotated[str, Field(min_length=1, max_length=300)]


class LetterReplayed(Strict):
    """A dead letter's record went to its origin's partition again, to `offset` there.

    origin: `TOPIC/PARTITION/OFFSET` of the refused record. letter: the letter's offset in
    `dead.letters`. session: null if the record belongs to none. tries: of which this is one.
    """

    origin: Name
    letter: Count
    session: str | None
    offset: Count
    tries: Count


class LetterDiscarded(Strict):
    """Somebody decided that a dead letter's record will not be taken."""

    origin: Name
    letter: Count
    session: str | None
    reason: Reason


class SessionReplayed(Strict):
    """A session's frame records were processed again, and the chunks compared."""

    session: str
    outcome: Name
    chunks: Count
    differences: Count


class ChunksRepaired(Strict):
    """Chunks of the store were restored from the log."""

    session: str
    indexes: Annotated[list[Count], Field(min_length=1, max_length=10_000)]


class ProjectionRebuilt(Strict):
    """A projection was built anew from `events` events, and took the place of the old one."""

    projection: Name
    events: Count


class LegalHoldSet(Strict):
    """Somebody forbade to delete a session, those of a project, or, with neither, anything."""

    session: str | None
    project: Name | None
    reason: Reason


class LegalHoldReleased(Strict):
    """Somebody lifted a legal hold."""

    session: str | None
    project: Name | None
    reason: Reason


class ErasureBegun(Strict):
    """Somebody had a session's content or metadata deleted. record: SHA-256 of its record."""

    session: str
    stage: Name
    scope: Name
    keep_days: Count
    record: Hex32


AUDIT_TYPES: dict[str, type[Strict]] = {
    "lucid.audit.letter_replayed.v1": LetterReplayed,
    "lucid.audit.letter_discarded.v1": LetterDiscarded,
    "lucid.audit.session_replayed.v1": SessionReplayed,
    "lucid.audit.chunks_repaired.v1": ChunksRepaired,
    "lucid.audit.projection_rebuilt.v1": ProjectionRebuilt,
    "lucid.audit.hold_set.v1": LegalHoldSet,
    "lucid.audit.hold_released.v1": LegalHoldReleased,
    "lucid.audit.erasure_begun.v1": ErasureBegun,
}


@dataclass(frozen=True, slots=True)
class AuditEvent(Event):
    """What was done, by whom and when. user: the name by which the operating system knows them."""

    types: ClassVar[Mapping[str, type[Strict]]] = AUDIT_TYPES
    extensions: ClassVar[Mapping[str, str]] = {"authtype": "user_type", "authid": "user"}

    user: str
    user_type: str = "user"

    @classmethod
    def from_kafka(
        cls, key: bytes | None, headers: Sequence[tuple[str, bytes | None]], value: bytes | None
    ) -> Self:
        """Read an event; raises InvalidEvent, also when it does not say who acted."""
        event = super(AuditEvent, cls).from_kafka(key, headers, value)
        if event.user_type != "user" or not event.user:
            raise InvalidEvent(f"audit event {event.id} does not say who acted")
        return event
