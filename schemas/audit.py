"""Audit events: who did what with records and recordings, when and from where.

CloudEvents as in schemas/envelope.py, on topic `audit.events`; the subject is the session, or
what else the act was done to. Who did it stands in `ce_authtype`, `ce_authid` and
`ce_authclaims` (the CloudEvents extension "Auth Context") and `ce_clientaddress`, on which
host in `ce_source`, the place in its writer's chain in `ce_chain…` (schemas/audit_chain.py).
The format page is docs/formats/audit.md.

FormatError
└── InvalidEvent      also an actor or a place in a chain that is none
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field

from schemas.access import TokenId
from schemas.audit_chain import Place, hash_canonical, read_attributes
from schemas.canonical import Count, Hex32, Strict, decode, encode
from schemas.controls import Reason
from schemas.envelope import Event, InvalidEvent
from schemas.errors import FormatError
from schemas.node_commands import NodeCommand
from schemas.rdp_commands import ServerCommand
from schemas.rdp_session_commands import RdpSessionCommand

MAX_NAME = 300
MAX_ROLES = 50
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
UserType = Literal["user", "api", "service", "anonymous"]
AUTH_TYPES: dict[str, str] = {
    "user": "user", "api": "app_user", "service": "service_account", "anonymous": "unauthenticated",
}  # fmt: skip
"""The values that the CloudEvents extension "Auth Context" has for each."""
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def name_of(text: str) -> str:
    """Any text as a Name: control characters escaped, cut to 300 characters, never empty."""
    fit = _UNFIT.sub(lambda found: f"\\x{ord(found[0]):02x}", text[: MAX_NAME + 1]) or "-"
    return fit if len(fit) <= MAX_NAME else f"{fit[: MAX_NAME - 1]}…"


# Who ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acted. user: as the operating system or the token's subject names them.

    user_type: `user` of an operating system, `api` for a token's subject, `service`, or
    `anonymous` for somebody who showed no valid token and so has no name. address: where the
    request came from. roles: what the token said. Raises InvalidEvent for what cannot travel.
    """

    user: str
    user_type: UserType = "user"
    address: str = ""
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = (self.user, self.address, *self.roles)
        if any(_UNFIT.search(text) or len(text) > MAX_NAME for text in texts):
            raise InvalidEvent("who acted has a name, address or role that cannot travel")
        if len(self.roles) > MAX_ROLES:
            raise InvalidEvent(f"who acted has {len(self.roles)} roles")
        known = self.user_type in get_args(UserType)
        if not known or bool(self.user) == (self.user_type == "anonymous"):
            raise InvalidEvent("it does not say who acted")


class _Claims(Strict):
    roles: list[str]


@lru_cache(1000)
def _claims(roles: tuple[str, ...]) -> str:
    return encode(_Claims(roles=list(roles))).decode()


@lru_cache(1000)
def _roles(claims: str) -> tuple[str, ...]:
    return tuple(decode(_Claims, claims.encode()).roles)


# What -----------------------------------------------------------------------------------------


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


class TokenIssued(Strict):
    """An access token was given to `subject`. expires: seconds since 1970."""

    jti: TokenId
    subject: Name
    roles: Annotated[list[Name], Field(min_length=1, max_length=100)]
    expires: Count


class TokenRevoked(Strict):
    """An access token is not taken any more; its UUID is what is known of it."""

    jti: TokenId
    reason: Reason


class ChainStarted(Strict):
    """A writer's chain begins with this, its entry 0.

    reason: it is the `first` of its writer, or the state of the former one was `lost` or
    `damaged`. former: the chain that stopped there, as far as it is known.
    """

    reason: Literal["first", "lost", "damaged"]
    former: Name | None


class ResourceRead(Strict):
    """Somebody read something: by a request to the API, or by a command.

    action: the route's or the command's name. resource: what was read. request: the id of the
    request. bytes, items: how much was handed out. outcome: such as `ok` or a status.
    """

    action: Name
    resource: Name
    session: str | None
    request: Name | None
    bytes: Count
    items: Count
    outcome: Name


class AccessDenied(Strict):
    """Somebody was refused. permission: the one that was needed; code: the error's name."""

    permission: Name
    resource: Name
    session: str | None
    code: Name
    request: Name | None


class SessionExported(Strict):
    """A session's content was written to a file. file_type: such as mp4; size: bytes."""

    session: str
    form: Literal["bundle", "film", "sheet"]
    file_type: Name
    size: Count


class SessionVerified(Strict):
    """A session was verified. findings: how many of each verdict; unchecked: of what not."""

    session: str
    outcome: Name
    findings: dict[Name, Count]
    unchecked: Count


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


class RdpServerOrdered(Strict):
    """Somebody sent a command about an RDP server or a port. command: it, whole."""

    command: ServerCommand


class RdpSessionOrdered(Strict):
    """Somebody sent a command about a desktop session. command: it, whole."""

    command: RdpSessionCommand


class NodeOrdered(Strict):
    """Somebody sent a command about a node, a pool or a payout. command: it, whole."""

    command: NodeCommand


AUDIT_TYPES: dict[str, type[Strict]] = {
    "lucid.audit.letter_replayed.v1": LetterReplayed,
    "lucid.audit.letter_discarded.v1": LetterDiscarded,
    "lucid.audit.session_replayed.v1": SessionReplayed,
    "lucid.audit.chunks_repaired.v1": ChunksRepaired,
    "lucid.audit.projection_rebuilt.v1": ProjectionRebuilt,
    "lucid.audit.token_issued.v1": TokenIssued,
    "lucid.audit.token_revoked.v1": TokenRevoked,
    "lucid.audit.chain_started.v1": ChainStarted,
    "lucid.audit.resource_read.v1": ResourceRead,
    "lucid.audit.access_denied.v1": AccessDenied,
    "lucid.audit.session_exported.v1": SessionExported,
    "lucid.audit.session_verified.v1": SessionVerified,
    "lucid.audit.hold_set.v1": LegalHoldSet,
    "lucid.audit.hold_released.v1": LegalHoldReleased,
    "lucid.audit.erasure_begun.v1": ErasureBegun,
    "lucid.audit.rdp_server_ordered.v1": RdpServerOrdered,
    "lucid.audit.rdp_session_ordered.v1": RdpSessionOrdered,
    "lucid.audit.node_ordered.v1": NodeOrdered,
}


# The event --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditEvent(Event):
    """What was done, by whom and when; the fields of Actor. place: None for an unchained one."""

    types: ClassVar[Mapping[str, type[Strict]]] = AUDIT_TYPES
    extensions: ClassVar[Mapping[str, str]] = {
        "authtype": "auth_type", "authid": "user", "authclaims": "claims",
        "clientaddress": "address", "chainid": "chain", "chainseq": "number",
        "chainprev": "previous",
    }  # fmt: skip

    user: str
    user_type: UserType = "user"
    address: str = ""
    roles: tuple[str, ...] = ()
    place: Place | None = None

    @property
    def actor(self) -> Actor:
        """Who acted; raises InvalidEvent when the fields name nobody."""
        return Actor(self.user, self.user_type, self.address, self.roles)

    @property
    def auth_type(self) -> str:
        """The type of who acted, as it travels."""
        return AUTH_TYPES[self.user_type]

    @property
    def claims(self) -> str:
        """The roles as they travel, empty without any."""
        return _claims(self.roles) if self.roles else ""

    @property
    def chain(self) -> str:
        return self.place.chain if self.place else ""

    @property
    def number(self) -> str:
        return str(self.place.number) if self.place else ""

    @property
    def previous(self) -> str:
        return self.place.previous.hex() if self.place else ""

    @classmethod
    def from_kafka(
        cls, key: bytes | None, headers: Sequence[tuple[str, bytes | None]], value: bytes | None
    ) -> Self:
        """Read an event; raises InvalidEvent, also when it does not say who acted."""
        event = super(AuditEvent, cls).from_kafka(key, headers, value)
        try:
            _ = event.actor
        except InvalidEvent as error:
            raise InvalidEvent(f"audit event {event.id}: {error.what}") from error
        return event

    @classmethod
    def read_extensions(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Who acted, and the place in a chain; raises InvalidEvent."""
        kinds = {wire: kind for kind, wire in AUTH_TYPES.items()}
        claims = str(attributes.get("authclaims", ""))
        try:
            roles = _roles(claims) if claims else ()
        except FormatError as error:
            raise InvalidEvent(f"the claims of who acted are no roles: {error.what}") from error
        return {
            "user": attributes.get("authid", ""),
            "user_type": kinds.get(attributes.get("authtype", ""), ""),
            "address": attributes.get("clientaddress", ""),
            "roles": roles,
            "place": Place.read(attributes),
        }


KafkaRecord = tuple[bytes, list[tuple[str, bytes]], bytes]


def put_in_chain(events: Iterable[AuditEvent], first: Place) -> Iterator[tuple[KafkaRecord, bytes]]:
    """The records of events that follow one another from a place on, each with its hash."""
    place = first
    for event in events:
        record = replace(event, place=place).to_kafka()
        hashed = hash_canonical(read_attributes(record[1]), record[2])
        yield record, hashed
        place = Place(place.chain, place.number + 1, hashed)
