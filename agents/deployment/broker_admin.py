"""Users and rights of a broker, by the Kafka protocol.

await set_passwords(settings, {"storage": "…"})     SCRAM-SHA-512, salted here
await set_rights(settings, wanted)                  exactly these, what is over is taken away

Transient
└── BrokerUnreachable
LucidError
└── AdminRefused      the broker does not do it, mostly for want of rights
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import (
    CreateAclsRequest_v1,
    DeleteAclsRequest_v1,
    DescribeAclsRequest_v1,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from agents.deployment.rights import Operation, Pattern, Resource, Right
from agents.platform.broker import administering
from agents.platform.settings import Settings
from schemas.errors import LucidError

ITERATIONS = 8192
_SCRAM_SHA_512 = 2
_ALLOW, _ANY, _MATCH_ANY = 3, 1, 1


class AdminRefused(LucidError):
    """The broker refuses a change of users or rights."""

    exit_status = 77  # EX_NOPERM of sysexits.h


class _ScramResponse(Response):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("results", CompactArray(
            ("user", CompactString("utf-8")), ("error_code", Int16),
            ("error_message", CompactString("utf-8")), ("tags", TaggedFields),
        )),
        ("tags", TaggedFields),
    )  # fmt: skip


class _ScramRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _ScramResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(
            ("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields),
        )),
        ("upsertions", CompactArray(
            ("name", CompactString("utf-8")), ("mechanism", Int8), ("iterations", Int32),
            ("salt", CompactBytes), ("salted_password", CompactBytes), ("tags", TaggedFields),
        )),
        ("tags", TaggedFields),
    )  # fmt: skip


class _Scram(Request[_ScramRequest]):  # type: ignore[misc]
    API_KEY = 51

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = passwords

    def build(self, request_struct_class: type[_ScramRequest]) -> _ScramRequest:
        entries: list[tuple[Any, ...]] = []
        for user, password in self._passwords.items():
            salt = os.urandom(24)
            salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
            entries.append((user, _SCRAM_SHA_512, ITERATIONS, salt, salted, {}))
        return request_struct_class([], entries, {})


class _Fixed(Request[CreateAclsRequest_v1]):  # type: ignore[misc]
    """Sends a request that is made already."""

    API_KEY = 30

    def __init__(self, made: Any) -> None:
        self._made = made
        self.API_KEY = made.API_KEY

    def prepare(self, versions: Any) -> Any:
        return self._made

    def build(self, request_struct_class: Any) -> Any:
        return self._made


def _check(code: int, message: str | None, what: str) -> None:
    if code:
        raise AdminRefused(
            f"the broker refuses {what}: {message or for_code(code).__name__}",
            hint="Log in as its administrator, a name of super.users in its settings",
        )


async def set_passwords(settings: Settings, passwords: Mapping[str, str]) -> None:
    """Make the users, or give them these passwords; raises AdminRefused, BrokerUnreachable."""
    async with administering(settings) as client:
        answer = await client._send_to_controller(_Scram(passwords))
    for user, code, message, _ in answer.results:
        _check(code, message, f"user {user}")


async def read_rights(settings: Settings) -> set[Right]:
    """All entries that allow something; raises AdminRefused, BrokerUnreachable."""
    async with administering(settings) as client:
        return await _read(client)


async def _read(client: AIOKafkaAdminClient) -> set[Right]:
    asked = DescribeAclsRequest_v1(_ANY, None, _MATCH_ANY, None, None, _ANY, _ANY)
    answer = await client._send_to_controller(_Fixed(asked))
    _check(answer.error_code, answer.error_message, "to show its rights")
    found = set()
    for kind, name, pattern, entries in answer.resources:
        for principal, _, operation, permission in entries:
            known = kind in Resource.__members__.values() and permission == _ALLOW
            if known and operation in Operation.__members__.values():
                found.add(Right(
                    principal.removeprefix("User:"), Resource(kind), name, Operation(operation),
                    Pattern(pattern),
                ))  # fmt: skip
    return found


async def set_rights(settings: Settings, wanted: set[Right]) -> tuple[set[Right], set[Right]]:
    """Give what is missing, take away what is over; both are returned."""
    async with administering(settings) as client:
        there = await _read(client)
        missing, over = wanted - there, there - wanted
        if missing:
            answer = await client._send_to_controller(
                _Fixed(CreateAclsRequest_v1([_entry(one) for one in sorted(missing)]))
            )
            for code, message in answer.creation_responses:
                _check(code, message, "to give a right")
        if over:
            answer = await client._send_to_controller(
                _Fixed(DeleteAclsRequest_v1([_entry(one) for one in sorted(over)]))
            )
            for code, message, _ in answer.filter_responses:
                _check(code, message, "to take a right away")
    return missing, over


def _entry(right: Right) -> tuple[int, str, int, str, str, int, int]:
    return (
        int(right.resource), right.name, int(right.pattern), f"User:{right.user}", "*",
        int(right.operation), _ALLOW,
    )  # fmt: skip
