"""The manager's events on their topics, under ids that follow from what caused them.

A record that is handled twice, because a manager was killed in between, is answered twice
with events that have the same ids, times and bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from agents.platform.contract import Contract
from agents.platform.lanes import Record
from agents.platform.producer import Producer
from schemas.canonical import Strict
from schemas.node_base import NodeTopicEvent, subject_of
from schemas.node_events import BY_TOPIC
from schemas.node_registration import ChallengeIssued, RegistrationEvent

_IDS = UUID("5f0f3a0e-5a5c-5d0f-8f0b-6f1d3c1a7e10")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOMES: dict[type[Strict], tuple[str, type[NodeTopicEvent]]] = {
    model: (topic, kind) for topic, kind in BY_TOPIC.items() for model in kind.types.values()
} | {ChallengeIssued: ("node.registration", RegistrationEvent)}


@dataclass(frozen=True, slots=True)
class Cause:
    """The record that is handled. at: when the broker took it, in microseconds."""

    topic: str
    partition: int
    offset: int
    at: int
    correlation: str = ""

    @classmethod
    def of(cls, record: Record, correlation: str = "") -> Cause:
        at = (record.timestamp or 0) * 1000
        return cls(record.topic, record.partition, record.offset, at, correlation)


@dataclass(frozen=True, slots=True)
class Told:
    """An event with its cause; number: which one of those about its subject it is."""

    data: Strict
    cause: Cause
    number: int


def tell(events: Iterable[Strict], cause: Cause) -> list[Told]:
    """Events of one node or pool that one record has caused, in order."""
    return [Told(data, cause, number) for number, data in enumerate(events)]


@dataclass(frozen=True, slots=True)
class Outlet:
    """Writes what the manager says."""

    producer: Producer
    contract: Contract
    source: str

    def event(self, told: Told) -> tuple[str, NodeTopicEvent]:
        """The event, and the contract's name of its topic."""
        topic, kind = _HOMES[type(told.data)]
        cause, subject = told.cause, subject_of(told.data)
        what = f"{subject}/{type(told.data).__name__}/{told.number}"
        name = f"{cause.topic}/{cause.partition}/{cause.offset}/{what}"
        return topic, kind(
            told.data, self.source, subject, id=str(uuid5(_IDS, name)),
            time=_EPOCH + timedelta(microseconds=cause.at), correlation=cause.correlation,
        )  # fmt: skip

    async def send(self, told: Sequence[Told]) -> None:
        """Write events in order; returns once the broker holds them. Raises Transient."""
        sent = []
        for one in told:
            topic, event = self.event(one)
            place = self.contract.topic(topic).full_name
            sent.append(await self.producer.submit_event(place, event))
        for sending in sent:
            await self.producer.acknowledged(sending)
