"""How a node registers: the records of `node.registration`. docs/formats/node-signing.md.

    requested ──▶ challenge_issued ──▶ challenge_answered        (node, manager, node)

What comes of it stands on `node.lifecycle`, which nodes do not write to. Ticks let the
deadlines pass in the same log, by the broker's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from schemas.canonical import Hex32, Strict
from schemas.node_base import (
    SECOND,
    Amount,
    ClockTicked,
    Id,
    Micros,
    NodeId,
    NodeKind,
    NodeTopicEvent,
    VerifierKey,
)
from schemas.node_signing import Purpose, Signature, check_body, sign_body
from schemas.notes import Signer, Verifier

ANSWER_WITHIN = 120 * SECOND
"""From the request to the answer of the challenge."""
DECIDE_WITHIN = 300 * SECOND
"""From the request to the approval."""
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Hardware(Strict):
    """What a machine has; bytes, and logical processors."""

    cpus: Annotated[int, Field(ge=1, le=65_536)]
    memory_bytes: Amount
    disk_bytes: Amount


class RegistrationRequested(Strict):
    """A node asks to be taken in under an id. max_sessions: how many it would run."""

    node: NodeId
    key: VerifierKey
    kind: NodeKind
    host: Name
    hardware: Hardware
    max_sessions: Annotated[int, Field(ge=0, le=100_000)]


class ChallengeIssued(Strict):
    """What the node has to sign. registration: the id of the request's event."""

    node: NodeId
    registration: Id
    challenge: Hex32
    answer_by: Micros
    decide_by: Micros


class Answer(Strict):
    """The body that a node signs to show that it holds the key."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    node: NodeId
    registration: Id
    challenge: Hex32
    key: VerifierKey


class ChallengeAnswered(Strict):
    """The signed answer."""

    node: NodeId
    registration: Id
    challenge: Hex32
    key: VerifierKey
    signature: Signature

    @property
    def body(self) -> Answer:
        return Answer(
            node=self.node, registration=self.registration, challenge=self.challenge, key=self.key
        )


def answer(signer: Signer, issued: ChallengeIssued) -> ChallengeAnswered:
    """The node's answer to a challenge."""
    body = Answer(
        node=issued.node, registration=issued.registration, challenge=issued.challenge,
        key=str(signer.verifier),
    )  # fmt: skip
    return ChallengeAnswered(
        node=body.node, registration=body.registration, challenge=body.challenge, key=body.key,
        signature=sign_body(signer, Purpose.ANSWER, body),
    )  # fmt: skip


def check_answer(data: ChallengeAnswered) -> None:
    """Raise InvalidSignature unless the key that the answer names has signed it."""
    check_body(Verifier.parse(data.key), Purpose.ANSWER, data.body, data.signature)


REGISTRATION_TYPES: dict[str, type[Strict]] = {
    "lucid.node.registration_requested.v1": RegistrationRequested,
    "lucid.node.challenge_issued.v1": ChallengeIssued,
    "lucid.node.challenge_answered.v1": ChallengeAnswered,
    "lucid.node.clock_ticked.v1": ClockTicked,
}


@dataclass(frozen=True, slots=True)
class RegistrationEvent(NodeTopicEvent):
    """An event of `node.registration`."""

    types: ClassVar[Mapping[str, type[Strict]]] = REGISTRATION_TYPES
