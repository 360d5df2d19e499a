"""What all records about nodes share: names, the envelope's rules, the tick of the clock. Pure.

A node's id is a DNS label of the operator's choice. It is bound to one Ed25519 key by the
registration (schemas/node_registration.py); the key, not the id, is who the node is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from schemas.canonical import Count, Strict
from schemas.envelope import AnsweringEvent
from schemas.notes import Verifier

SECOND = 1_000_000
"""Microseconds."""
SHELVES = 16
CLOCK = ".clock"
"""The subject of ticks; no node can be called so."""
_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


def _uuid(text: str) -> str:
    if str(UUID(text)) != text:
        raise ValueError("must be a UUID in its lower-case text")
    return text


NodeId = Annotated[str, Field(pattern=_LABEL)]
PoolId = Annotated[str, Field(pattern=_LABEL)]
Id = Annotated[str, AfterValidator(_uuid)]
VerifierKey = Annotated[
    str, Field(max_length=300), AfterValidator(lambda text: str(Verifier.parse(text)))
]
"""A node's public key as a C2SP verifier key."""
Micros = Count
Amount = Count
NodeKind = Literal["worker", "validator", "storage", "compute"]


class ClockTicked(Strict):
    """The log's clock went on; host: whose manager wrote it. The broker says what time it is."""

    host: Annotated[str, Field(min_length=1, max_length=255)]


@dataclass(frozen=True, slots=True)
class NodeTopicEvent(AnsweringEvent):
    """An event of one of the topics node.…"""

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return subject_of(data)


def shelf_of(node: str) -> str:
    """Which of 16 documents a node stands in.

    A catalog that reads a whole collection to find or replace one document of it, as FerretDB
    does without our patch, does that 16 times for a batch of heartbeats, not once for each node.
    """
    return f"{hashlib.sha256(node.encode()).digest()[0] % SHELVES:02d}"


def subject_of(data: Strict) -> str:
    """What an event is about: the pool or node that its data names first."""
    if isinstance(data, ClockTicked):
        return CLOCK
    fields: dict[str, Any] = dict(data)
    return str(fields.get("pool") or fields.get("node") or fields.get("about") or "")
