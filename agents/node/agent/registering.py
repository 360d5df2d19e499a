"""Registering a node: the request, the answer to its challenge, and what becomes of it.

LucidError
├── RegistrationFailed   the manager refused the id or the answer
└── NoAnswer             no manager spoke within the time (agents.platform)
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from agents.node.agent.figures import hardware
from agents.node.agent.settings import NodeAgentSettings
from agents.platform.answers import NoAnswer
from agents.platform.contract import Contract
from agents.platform.keys import load_signer
from agents.platform.listening import Poll, listening
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.canonical import Strict
from schemas.errors import FormatError, LucidError
from schemas.node_base import NodeTopicEvent
from schemas.node_events import LifecycleEvent, RegistrationChanged, RegistrationRefused
from schemas.node_registration import (
    ChallengeIssued,
    RegistrationEvent,
    RegistrationRequested,
    answer,
)
from schemas.notes import Signer

log = structlog.get_logger(__name__)
POLL = 0.5
TOPICS: dict[str, type[NodeTopicEvent]] = {
    "node.registration": RegistrationEvent, "node.lifecycle": LifecycleEvent,
}  # fmt: skip


class RegistrationFailed(LucidError):
    """The manager did not take the node."""

    exit_status = 77  # EX_NOPERM of sysexits.h


@dataclass(frozen=True)
class Node:
    """A node as it registers itself."""

    settings: Settings
    section: NodeAgentSettings
    contract: Contract
    producer: Producer
    signer: Signer

    @classmethod
    def load(
        cls, settings: Settings, section: NodeAgentSettings, contract: Contract, producer: Producer
    ) -> Node:
        """With the key of the keys folder; raises KeyProblem."""
        return cls(settings, section, contract, producer, load_signer(settings, "node"))

    @property
    def id(self) -> str:
        return self.section.node_id(self.settings)

    async def send(self, kind: type[NodeTopicEvent], topic: str, data: Strict) -> NodeTopicEvent:
        """Write an event of this node; raises Transient."""
        event = kind(data, f"lucid/node-agent/{self.settings.host}", self.id)
        await self.producer.send_event(self.contract.topic(topic).full_name, event)
        return event

    async def request(self) -> str:
        """Ask to be taken in; the registration's id."""
        data = RegistrationRequested(
            node=self.id, key=str(self.signer.verifier), kind=self.section.kind,
            host=self.settings.host, hardware=hardware(self.settings.home),
            max_sessions=self.section.max_sessions,
        )  # fmt: skip
        return (await self.send(RegistrationEvent, "node.registration", data)).id

    @asynccontextmanager
    async def hearing(self) -> AsyncIterator[Hearing]:
        """What is said of this node from now on."""
        async with listening(self.settings, self.contract, *TOPICS) as poll:
            yield Hearing(self, poll)


@dataclass(frozen=True)
class Hearing:
    """What is said of one node, in order."""

    node: Node
    poll: Poll

    async def said(self, seconds: float = POLL) -> list[NodeTopicEvent]:
        """What came; records of others, and those that are no events, are passed over."""
        found: list[NodeTopicEvent] = []
        kinds = {self.node.contract.topic(name).full_name: kind for name, kind in TOPICS.items()}
        for record in await self.poll(seconds):
            if record.key != self.node.id.encode():
                continue
            try:
                found.append(kinds[record.topic].from_kafka(
                    record.key, record.headers, record.value
                ))  # fmt: skip
            except FormatError as error:
                log.warning("passed over a record", topic=record.topic, error=error)
        return found

    async def step(self, event: NodeTopicEvent, registration: str) -> RegistrationChanged | None:
        """Answer the challenge of this registration, or return how far it is.

        Raises RegistrationFailed.
        """
        data = event.data
        if isinstance(data, ChallengeIssued) and data.registration == registration:
            await self.node.send(
                RegistrationEvent, "node.registration", answer(self.node.signer, data)
            )
        if isinstance(data, RegistrationRefused) and event.correlation == registration:
            raise RegistrationFailed(
                f"node {self.node.id} was not taken: {data.reason}",
                hint="Choose another id with LUCID_NODE_AGENT_ID, or have the operator reject it",
            )
        if isinstance(data, RegistrationChanged) and data.key == str(self.node.signer.verifier):
            return data
        return None


async def register(node: Node, seconds: float = 30.0) -> RegistrationChanged:
    """Register once; until the key was shown, or the node is approved already.

    Raises RegistrationFailed, NoAnswer, Transient.
    """
    async with node.hearing() as hearing:
        registration = await node.request()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for event in await hearing.said():
                found = await hearing.step(event, registration)
                if found is not None and found.state in ("verified", "approved"):
                    return found
    raise NoAnswer(
        f"no manager answered the request of node {node.id} within {seconds:g} s",
        hint="Start one with `lucid run node-management`",
    )
