"""Topics without a group.

For whoever asks over a topic and waits for the answer, from now on:

async with listening(settings, contract, "node.lifecycle") as poll:
    … send the question …
    records = await poll(1.0)           what came within a second, often nothing

For whoever keeps places of its own:

async with assigned(settings, places, reset="latest", poll_ms=500) as consumer:
    consumer.seek(…)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import BrokerProbe, unreachable
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from schemas.topics import Contract

Record: TypeAlias = "ConsumerRecord[bytes, bytes]"
Poll = Callable[[float], Awaitable[list[Record]]]


@asynccontextmanager
async def listening(settings: Settings, contract: Contract, *names: str) -> AsyncIterator[Poll]:
    """Hears all that is written from here on; raises BrokerUnreachable, TopicMissing.

    What the topics held before is not read, so an answer is missed only if it came before
    the question.
    """
    topics = [contract.topic(name) for name in names]
    async with BrokerProbe(settings) as probe:
        await probe.require([topic.full_name for topic in topics])
    consumer = AIOKafkaConsumer(
        **kafka_options(settings), group_id=None, enable_auto_commit=False, fetch_max_wait_ms=100
    )

    async def poll(seconds: float) -> list[Record]:
        try:
            batches = await consumer.getmany(timeout_ms=max(0, round(seconds * 1000)))
        except KafkaError as error:
            raise unreachable(settings, error) from error
        return [record for records in batches.values() for record in records]

    try:
        await consumer.start()
        places = [
            TopicPartition(topic.full_name, number)
            for topic in topics
            for number in range(topic.partitions)
        ]
        consumer.assign(places)
        for place, end in (await consumer.end_offsets(places)).items():
            consumer.seek(place, end)
        yield poll
    except KafkaError as error:
        raise unreachable(settings, error) from error
    finally:
        await consumer.stop()


@asynccontextmanager
async def assigned(
    settings: Settings, places: Sequence[TopicPartition], *, reset: str, poll_ms: int
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of these partitions; whoever gets it says where each begins.

    reset: earliest or latest, where it goes on when what it would read is gone.
    Raises BrokerUnreachable, also when the work with it does not get on.
    """
    consumer = AIOKafkaConsumer(
        **kafka_options(settings), group_id=None, enable_auto_commit=False,
        auto_offset_reset=reset, fetch_max_wait_ms=poll_ms,
    )  # fmt: skip
    try:
        await consumer.start()
        consumer.assign(places)
        yield consumer
    except (KafkaError, TimeoutError, OSError) as error:
        raise unreachable(settings, error) from error
    finally:
        await consumer.stop()
