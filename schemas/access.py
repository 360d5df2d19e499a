"""Who may see what: roles, permissions, and the claims of an access token. Pure.

    claims = read_claims(payload)                       the token's JSON, checked strictly
    may(claims, Permission.CHUNKS_DOWNLOAD)             what its roles allow
    sees(claims, owner="ada", project="north")          which sessions its scope holds

Both must say yes, and the default is no: a role that is not in the table allows nothing, an
empty scope holds nothing. The format page is docs/formats/token.md.

FormatError
└── ClaimsRefused     a payload that is not what an access token's has to be
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from schemas.canonical import Strict
from schemas.errors import FormatError

MAX_LIFETIME = 30 * 60
"""Seconds from `iat` to `exp`, at most."""
MAX_SCOPE = 100
EVERYTHING = "*"
"""In a scope, alone: every owner, or every project."""
_LAST_SECOND = 253_402_300_799  # of the year 9999


class ClaimsRefused(FormatError):
    """Claims that are missing, unknown, too long or contradict each other."""


class Role(StrEnum):
    """What somebody is to Lucid."""

    ADMIN = "admin"
    SESSION_MANAGER = "session_manager"
    SESSION_OPERATOR = "session_operator"
    SESSION_VIEWER = "session_viewer"
    AUDITOR = "auditor"


class Permission(StrEnum):
    """One thing that can be read. The public keys of tokens need none."""

    SESSIONS_LIST = "sessions:list"
    SESSIONS_READ = "sessions:read"
    CHUNKS_READ = "chunks:read"
    CHUNKS_DOWNLOAD = "chunks:download"
    PIPELINE_READ = "pipeline:read"
    STATISTICS_READ = "statistics:read"
    MANIFESTS_READ = "manifests:read"
    PROOFS_READ = "proofs:read"
    VERIFICATION_READ = "verification:read"
    EVENTS_READ = "events:read"
    STREAM_READ = "stream:read"
    AUDIT_READ = "audit:read"
    NODES_READ = "nodes:read"
    POOLS_READ = "pools:read"
    CREDITS_READ = "credits:read"
    RDP_READ = "rdp:read"


_P = Permission
PERMISSIONS: Mapping[Role, frozenset[Permission]] = MappingProxyType({
    Role.ADMIN: frozenset(_P),
    Role.SESSION_MANAGER: frozenset(_P) - {_P.AUDIT_READ},
    Role.SESSION_OPERATOR: frozenset({
        _P.SESSIONS_LIST, _P.SESSIONS_READ, _P.CHUNKS_READ, _P.PIPELINE_READ, _P.STATISTICS_READ,
        _P.EVENTS_READ, _P.STREAM_READ, _P.RDP_READ,
    }),
    Role.SESSION_VIEWER: frozenset({_P.SESSIONS_LIST, _P.SESSIONS_READ}),
    Role.AUDITOR: frozenset(_P) - {_P.STREAM_READ},
})  # fmt: skip
"""What each role may read, of the sessions in its token's scope."""


def _canonical_uuid(text: str) -> str:
    if str(UUID(text)) != text:
        raise ValueError("must be a UUID in its lower-case text")
    return text


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("names something twice")
    return values


def _scope(values: tuple[str, ...]) -> tuple[str, ...]:
    if EVERYTHING in values and len(values) > 1:
        raise ValueError('has more than "*"')
    return _distinct(values)


_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Subject = Annotated[str, Field(min_length=1, max_length=200, pattern=_PRINTABLE)]
Entry = Annotated[str, Field(min_length=1, max_length=1000, pattern=_PRINTABLE)]
Scope = Annotated[tuple[Entry, ...], Field(max_length=MAX_SCOPE), AfterValidator(_scope)]
Roles = Annotated[
    tuple[Role, ...], Field(min_length=1, max_length=len(Role)), AfterValidator(_distinct)
]
TokenId = Annotated[str, AfterValidator(_canonical_uuid)]
NumericDate = Annotated[int, Field(ge=0, le=_LAST_SECOND)]


class Claims(Strict):
    """What a token says, by the names of this program; aliases are those of the token.

    jti: the token's UUID. issued, not_before, expires: whole seconds since 1970. client: the
    program that asked for the token, `client_id` of RFC 9068.
    """

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=True)

    issuer: Subject = Field(alias="iss")
    audience: Subject = Field(alias="aud")
    subject: Subject = Field(alias="sub")
    client: Subject = Field(alias="client_id")
    issued: NumericDate = Field(alias="iat")
    not_before: NumericDate = Field(alias="nbf")
    expires: NumericDate = Field(alias="exp")
    jti: TokenId
    roles: Roles
    owners: Scope
    projects: Scope

    @model_validator(mode="after")
    def _lives_shortly(self) -> Self:
        if not self.issued <= self.not_before < self.expires:
            raise ValueError("iat, nbf and exp are not in this order")
        if self.expires - self.issued > MAX_LIFETIME:
            raise ValueError(f"exp is more than {MAX_LIFETIME} s after iat")
        return self

    def payload(self) -> dict[str, Any]:
        """The claims set of a token."""
        return self.model_dump(mode="json", by_alias=True)


def read_claims(payload: bytes) -> Claims:
    """The claims of a token's payload, whoever signed it; raises ClaimsRefused.

    What it says about the refusal names claims, never their values.
    """
    try:
        json.loads(payload.decode("utf-8"), object_pairs_hook=unique_members)
        return Claims.model_validate_json(payload, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = str(first["loc"][0]) if first["loc"] and first["loc"][0] in _NAMES else "the claims"
        raise ClaimsRefused(f"{place}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise ClaimsRefused("the claims are not one JSON object with each member once") from None


_NAMES = frozenset(field.alias or name for name, field in Claims.model_fields.items())


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError for a repeated member, where readers differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def may(claims: Claims, permission: Permission) -> bool:
    """Whether one of the token's roles has the permission."""
    return any(permission in PERMISSIONS.get(role, ()) for role in claims.roles)


def sees(claims: Claims, owner: str, project: str) -> bool:
    """Whether a session of that owner and project is in the token's scope: both must be.

    Names are compared character by character. A session without an owner, or without a
    project, is seen by a scope of "*" there, and by no other.
    """
    return _holds(claims.owners, owner) and _holds(claims.projects, project)


def _holds(scope: tuple[str, ...], name: str) -> bool:
    return scope == (EVERYTHING,) or (name != EVERYTHING and name in scope)
