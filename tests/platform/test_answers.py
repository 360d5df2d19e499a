"""Commands that wait for their answers, and events that wait for a broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import uuid4

import pytest

from agents.platform.answers import Answers, NoAnswer
from agents.platform.contract import Contract, load_contract
from agents.platform.emitter import LATEST, Emitter
from agents.platform.producer import Producer
from agents.platform.retry import BrokerUnreachable, Transient
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from schemas.envelope import Event
from schemas.rdp_servers import ServerCommandDone, ServerCommandRefused, ServerEvent
from schemas.sessions import new_session_id
from tests.conftest import Stack
from tests.platform.topics import create_topic

TOPIC = "rdp.server.events"
SERVER = str(new_session_id())


@pytest.fixture
async def settings(stack: Stack) -> Settings:
    found = stack.settings.model_copy(update={"topic_prefix": f"a{uuid4().hex[:8]}."})
    await create_topic(found, load_contract(found).topic(TOPIC).full_name, 1)
    return found


def done(correlation: str) -> ServerEvent:
    data = ServerCommandDone(action="start", server=SERVER, state="running", port=13389)
    return ServerEvent(data, "lucid/test", SERVER, correlation=correlation)


async def test_an_answer_is_found_among_others(settings: Settings) -> None:
    contract = load_contract(settings)
    topic = contract.topic(TOPIC).full_name
    async with Producer(settings, contract.limits) as producer:
        emitter, stop = Emitter(producer, contract, TOPIC), StopSignal()
        emitting = asyncio.create_task(emitter.run(stop))
        emitter.put(done("mine"))  # before anybody listens
        while emitter.waiting:
            await asyncio.sleep(0.01)
        await producer.send(topic, b"nonsense")
        async with Answers(settings, contract, TOPIC, ServerEvent) as answers:
            emitter.put(done("another's"))
            await producer.send(topic, b"nonsense", key=b"x")
            emitter.put(done("mine"))
            event = await answers.wait("mine", 20, types=(ServerCommandDone,))
            assert event.data == done("x").data
            with pytest.raises(NoAnswer, match="nobody answered command mine within"):
                await answers.wait("mine", 0.3, types=(ServerCommandRefused,))
        stop.set()
        await emitting


async def test_without_a_broker_nobody_listens(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"kafka": "127.0.0.1:1"})
    with pytest.raises(BrokerUnreachable):
        async with Answers(nowhere, load_contract(nowhere), TOPIC, ServerEvent):
            pass


@dataclass
class Moody:
    """A producer that a broker answers every other time."""

    sent: list[Event]
    tries: int = 0

    async def send_event(self, topic: str, event: Event) -> None:
        self.tries += 1
        if self.tries % 2:
            raise Transient("no broker")
        self.sent.append(event)


async def test_events_keep_their_order_while_a_broker_comes_and_goes() -> None:
    contract: Contract = load_contract(Settings.load())
    producer = Moody([])
    emitter, stop = Emitter(producer, contract, TOPIC), StopSignal()  # type: ignore[arg-type]
    events = [done(str(number)) for number in range(5)]
    for event in events:
        emitter.put(event)
    emitting = asyncio.create_task(emitter.run(stop))
    async with asyncio.timeout(20):
        while len(producer.sent) < 5:
            await asyncio.sleep(0.01)
    stop.set()
    await emitting
    assert producer.sent == events


async def test_an_emitter_leaves_in_time_and_holds_a_bounded_number() -> None:
    class Dead:
        async def send_event(self, topic: str, event: Event) -> None:
            raise Transient("no broker")

    contract = load_contract(Settings.load())
    emitter, stop = Emitter(Dead(), contract, TOPIC), StopSignal()  # type: ignore[arg-type]
    for number in range(LATEST + 5):
        emitter.put(done(str(number)))
    assert emitter.waiting == LATEST
    emitting = asyncio.create_task(emitter.run(stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(5):
        await emitting
