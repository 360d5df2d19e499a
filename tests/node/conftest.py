"""A manager on the real servers, with topics and a database of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.node.management.agent import Ticker, build
from agents.node.management.keeper import States
from agents.node.management.settings import NodeManagementSettings
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.producer import Producer
from agents.platform.retry import Unreachable
from agents.platform.service import Service, make_service, serve
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.canonical import Strict, encode
from schemas.node_base import NodeTopicEvent, subject_of
from schemas.node_commands import NodeCommand
from schemas.node_events import BY_TOPIC
from schemas.node_heartbeats import HeartbeatEvent, HeartbeatSent
from schemas.node_registration import ChallengeIssued, RegistrationEvent, answer
from schemas.node_states import NodeState
from tests.conftest import Stack
from tests.node.factories import command, heartbeat, request, signer
from tests.waiting import until

QUICK = {"tick_every": 0.1, "interval": 1.0, "stale_after": 1.5, "misses": 2, "cooldown": 0.0}
KINDS: dict[str, type[NodeTopicEvent]] = {
    "node.registration": RegistrationEvent, "node.heartbeats": HeartbeatEvent, **BY_TOPIC,
}  # fmt: skip


@dataclass
class House:
    """The servers' side: what is sent as a node or operator, and what is there to be read."""

    settings: Settings
    contract: Contract
    states: States
    producer: Producer

    async def send(self, data: Strict) -> tuple[str, int]:
        """An event as a node sends it; its id and offset."""
        topic = "node.heartbeats" if isinstance(data, HeartbeatSent) else "node.registration"
        event = KINDS[topic](data, "lucid/test/h", subject_of(data))
        sent = await self.producer.send_event(self.contract.topic(topic).full_name, event)
        return event.id, sent.offset

    async def raw(self, topic: str, key: bytes, value: bytes) -> None:
        await self.producer.send(self.contract.topic(topic).full_name, value, key=key)

    async def order(self, action: str, **fields: Any) -> NodeCommand:
        made = command(action, uuid4().int >> 70, **fields)
        await self.command(made)
        return made

    async def command(self, made: NodeCommand) -> None:
        await self.raw("node.commands", made.about.encode(), encode(made))

    async def tick(self) -> None:
        await Ticker(self.producer, self.contract, "h", 1.0).tick()

    async def events(self, topic: str, *kinds: type[Strict]) -> list[NodeTopicEvent]:
        """All events of a topic, of these types if any are given; each id once.

        What has one id has to say one thing, however often it was written.
        """
        found: dict[str, NodeTopicEvent] = {}
        async for raw in read_topic(self.settings, self.contract.topic(topic).full_name):
            event = KINDS[topic].from_kafka(raw.key, raw.headers, raw.value)
            assert found.setdefault(event.id, event) == event
        return [one for one in found.values() if not kinds or isinstance(one.data, kinds)]

    async def until(
        self, check: Callable[[], Awaitable[Any]], seconds: float = 40, every: float = 0.05
    ) -> Any:
        """The first true result; a server that is busy is asked again."""

        async def look() -> Any:
            with contextlib.suppress(Unreachable):
                return await check()

        return await until(look, seconds=seconds, every=every)

    async def node(self, name: str, check: Callable[[NodeState], Any]) -> NodeState:
        """A node's state, once it is so."""

        async def look() -> NodeState | None:
            state = await self.states.node(name)
            return state if check(state) else None

        return await self.until(look)

    async def answered(self, made: NodeCommand) -> Any:
        """The answer to a command."""

        async def look() -> Any:
            return [
                one.data for one in await self.events("node.lifecycle")
                if one.correlation == made.id and hasattr(one.data, "action")
            ]  # fmt: skip

        return (await self.until(look, every=0.3))[0]

    async def take_in(self, name: str) -> None:
        """A node from its request to its approval."""
        registration, _ = await self.send(request(name, signer(name)))

        state = await self.node(
            name, lambda one: one.registration and one.registration.id == registration
        )
        known = state.registration
        assert known is not None
        issued = ChallengeIssued(
            node=name, registration=registration, challenge=known.challenge,
            answer_by=known.answer_by, decide_by=known.decide_by,
        )  # fmt: skip
        await self.send(answer(signer(name), issued))
        await self.node(name, lambda state: state.state == "verified")
        await self.order("approve", node=name)
        await self.node(name, lambda state: state.state == "approved")

    async def beat(self, name: str, counter: int, **more: Any) -> HeartbeatSent:
        sent = heartbeat(counter, time.time_ns() // 1000, name, **more)
        await self.send(sent)
        return sent


def manager_of(house: House, **section: Any) -> Service:
    return make_service(
        "node-management", house.settings, NodeManagementSettings(port=0, **{**QUICK, **section})
    )


@asynccontextmanager
async def managing(house: House, **section: Any) -> AsyncIterator[Service]:
    """A manager in this process, from ready to stopped."""
    service = manager_of(house, **section)
    task = asyncio.create_task(serve(service, build))
    try:
        async with asyncio.timeout(30):
            while not service.started and not task.done():
                await asyncio.sleep(0.02)
        yield service
    finally:
        service.stop.set()
        status = await asyncio.wait_for(task, 20)
    assert status == 0


@asynccontextmanager
async def a_house(stack: Stack, home: Path) -> AsyncIterator[House]:
    name = f"node{uuid4().hex[:8]}"
    settings = Settings.load(
        home=home, kafka=stack.kafka, mongo=stack.mongo, redis=stack.redis, database=name,
        topic_prefix=f"{name}.", host="h",
    )  # fmt: skip
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        yield House(settings, contract, States(catalog), producer)


@pytest.fixture
async def house(stack: Stack, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(stack, tmp_path) as found:
        yield found
