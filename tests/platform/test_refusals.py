"""Producers, dead letters and gaps on a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.platform.deadletters import DeadLetters
from agents.platform.gaps import missed_before
from agents.platform.producer import Producer, RecordTooLarge, SendRefused
from agents.platform.retry import BrokerUnreachable
from agents.platform.settings import Settings
from schemas.deadletters import from_kafka
from schemas.frames import InvalidFrameRecord
from tests.conftest import Stack
from tests.platform.topics import create_topic, expire

LIMIT = 20_000


class Topics:
    """A topic with small records, and its partition 0."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = f"small-{uuid4().hex[:8]}"

    async def read(self, count: int) -> list[Any]:
        where = TopicPartition(self.name, 0)
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka_servers())
        await consumer.start()
        try:
            consumer.assign([where])
            await consumer.seek_to_beginning(where)
            async with asyncio.timeout(20):
                return [await consumer.getone() for _ in range(count)]
        finally:
            await consumer.stop()


@pytest.fixture
async def topics(stack: Stack, tmp_path: Path) -> Topics:
    found = Topics(Settings.load(home=tmp_path, kafka=stack.kafka))
    await create_topic(found.settings, found.name, 1, {"max.message.bytes": str(LIMIT)})
    return found


async def test_a_record_over_the_limit_is_refused_and_its_neighbours_go_on(topics: Topics) -> None:
    async with Producer(topics.settings, {topics.name: LIMIT, "large": 300_000}) as producer:
        await producer.send(topics.name, b"before", partition=0)
        for size in (LIMIT - 50, LIMIT, 10 * LIMIT):
            with pytest.raises(RecordTooLarge, match=str(LIMIT)):
                await producer.send(topics.name, bytes(size), partition=0)
        with pytest.raises(SendRefused, match="no topic other"):
            await producer.send("other", b"")
        await producer.send(topics.name, b"after", partition=0, timestamp_ms=1234)
    found = await topics.read(2)
    assert [one.value for one in found] == [b"before", b"after"]
    assert found[1].timestamp == 1234


async def test_no_broker_is_a_typed_error(tmp_path: Path) -> None:
    nowhere = Settings.load(home=tmp_path, kafka="127.0.0.1:1")
    with pytest.raises(BrokerUnreachable, match="LUCID_KAFKA") as caught:
        await Producer(nowhere, {"t": 1000}).start()
    assert caught.value.exit_status == 69


async def test_a_dead_letter_names_its_origin_and_drops_only_a_value_that_does_not_fit(
    topics: Topics,
) -> None:
    async with Producer(topics.settings, {topics.name: LIMIT, "large": 300_000}) as producer:
        letters = DeadLetters(producer, topic=topics.name, service="storage")
        await producer.send(topics.name, b"poison", key=b"k", headers=[("h", b"1")], partition=0)
        (origin,) = await topics.read(1)
        error = InvalidFrameRecord("it has no chain", hint="Look at its producer")
        await letters.refuse(origin, error)
        origin.value = bytes(30_000)
        await letters.refuse(origin, error)
    _, whole, shortened = await topics.read(3)
    letter = from_kafka(whole.key, whole.headers, whole.value)
    assert (letter.topic, letter.partition, letter.offset) == (topics.name, 0, 0)
    assert (letter.value, letter.key, list(letter.headers)) == (b"poison", b"k", [("h", b"1")])
    assert (letter.code, letter.service) == ("InvalidFrameRecord", "storage")
    assert "it has no chain" in letter.reason
    letter = from_kafka(shortened.key, shortened.headers, shortened.value)
    assert (letter.offset, letter.value) == (0, None)
    assert letter.value_size == 30_000


async def test_a_gap_is_told_from_a_lost_record(topics: Topics) -> None:
    place = (topics.name, 0)
    async with Producer(topics.settings, {topics.name: LIMIT}) as producer:
        for number in range(6):
            await producer.send(topics.name, b"%d" % number, partition=0)
    assert await missed_before(topics.settings, place, 2, 5) == (0, 2)
    await expire(topics.settings, *place, 4)
    assert await missed_before(topics.settings, place, 1, 4) == (4, None)
    assert await missed_before(topics.settings, place, 1, 6) == (4, 4)
    nowhere = Settings.load(home=topics.settings.home, kafka="127.0.0.1:1")
    with pytest.raises(BrokerUnreachable):
        await missed_before(nowhere, place, 1, 4)
