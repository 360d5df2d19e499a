"""Signed heartbeats: the records of `node.heartbeats`. docs/formats/node-signing.md.

A heartbeat says that the node lives, how it is, and what it did in the slots of the last
hour. Work figures are totals of their slot so far, so that of two heartbeats the larger
figure is the newer one, in whatever order they are read (schemas/node_credits.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from schemas.canonical import Strict
from schemas.node_base import (
    SECOND,
    Amount,
    ClockTicked,
    Micros,
    NodeId,
    NodeTopicEvent,
)
from schemas.node_signing import Purpose, Signature, check_body, sign_body
from schemas.notes import Signer, Verifier

SLOT = 120 * SECOND
"""Length of a slot of work; slots are counted from 1970."""
LATE_SLOTS = 30
"""How many slots before its own a heartbeat may still speak of."""
MAX_SKEW = 120 * SECOND
"""Between a heartbeat's time and when the broker took it."""
Permille = Annotated[int, Field(ge=0, le=1000)]


class Figures(Strict):
    """How a node is. cpu, memory, disk: parts in a thousand in use. Bytes since it started."""

    cpu: Permille
    memory: Permille
    disk: Permille
    sent_bytes: Amount
    received_bytes: Amount
    processes: Amount
    sessions: Annotated[int, Field(ge=0, le=100_000)]


class SlotWork(Strict):
    """What was done in a slot until now: bytes relayed, proofs that stored data is there,
    signatures made for others."""

    slot: Amount
    relay_bytes: Annotated[int, Field(ge=0, le=10**12)]
    storage_proofs: Annotated[int, Field(ge=0, le=10**6)]
    signatures: Annotated[int, Field(ge=0, le=10**6)]


class Beat(Strict):
    """The body that a node signs. counter: higher than in every heartbeat before."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    node: NodeId
    counter: Amount
    time: Micros
    figures: Figures
    work: Annotated[list[SlotWork], Field(max_length=LATE_SLOTS + 1)]


class HeartbeatSent(Strict):
    """A heartbeat with its signature."""

    node: NodeId
    beat: Beat
    signature: Signature


def sign_beat(signer: Signer, beat: Beat) -> HeartbeatSent:
    """A heartbeat, signed."""
    return HeartbeatSent(
        node=beat.node, beat=beat, signature=sign_body(signer, Purpose.HEARTBEAT, beat)
    )


def check_beat(key: str, sent: HeartbeatSent) -> None:
    """Raise InvalidSignature unless the holder of `key` signed it."""
    check_body(Verifier.parse(key), Purpose.HEARTBEAT, sent.beat, sent.signature)


HEARTBEAT_TYPES: dict[str, type[Strict]] = {
    "lucid.node.heartbeat_sent.v1": HeartbeatSent,
    "lucid.node.clock_ticked.v1": ClockTicked,
}


@dataclass(frozen=True, slots=True)
class HeartbeatEvent(NodeTopicEvent):
    """An event of `node.heartbeats`."""

    types: ClassVar[Mapping[str, type[Strict]]] = HEARTBEAT_TYPES
