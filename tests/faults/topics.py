"""Reading topics back, all at once and without a group, and copying one record by record."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.canonical import decode
from schemas.controls import Open
from schemas.frames import Kind, from_kafka

FETCH_BYTES = 18 * 1024**2
_WINDOW = 64  # records on their way to the copy


@dataclass
class SessionLog:
    """What the topic of frame records holds of one session.

    records: kind and SHA-256 of the payload by sequence number. ended: `close` or `abandon`.
    """

    session: str
    partition: int
    seed: int = 0
    records: dict[int, tuple[Kind, bytes]] = field(default_factory=dict)
    repeated: int = 0
    ended: str = ""


@asynccontextmanager
async def reader(servers: str, topic: str) -> AsyncIterator[tuple[AIOKafkaConsumer, Any]]:
    """A consumer at the beginning of all partitions, and the end offset of each."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, group_id=None, enable_auto_commit=False,
        auto_offset_reset="earliest", max_partition_fetch_bytes=FETCH_BYTES,
    )  # fmt: skip
    await consumer.start()
    try:
        places: list[TopicPartition] = sorted(consumer.assignment())
        if not places:
            raise LookupError(f"there is no topic {topic}")
        consumer.unsubscribe()
        consumer.assign(places)
        yield consumer, await consumer.end_offsets(places)
    finally:
        await consumer.stop()


async def records(servers: str, topic: str) -> AsyncIterator[Any]:
    """Every record that the topic holds now, in order within its partition."""
    async with reader(servers, topic) as (consumer, ends):
        for place, end in ends.items():
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            while await consumer.position(place) < end:
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    for raw in batch:
                        if raw.offset < end:
                            yield raw


async def read_and_copy(servers: str, source: str, target: str) -> dict[str, SessionLog]:
    """Copy the frame records of `source` to `target`, partition by partition; what they are."""
    logs: dict[str, SessionLog] = {}
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, enable_idempotence=True, acks="all",
        max_request_size=FETCH_BYTES,
    )  # fmt: skip
    await producer.start()
    try:
        waiting: list[asyncio.Future[Any]] = []
        async for raw in records(servers, source):
            _note(logs, raw)
            waiting.append(
                await producer.send(
                    target, raw.value, key=raw.key, partition=raw.partition,
                    timestamp_ms=raw.timestamp, headers=list(raw.headers),
                )
            )  # fmt: skip
            if len(waiting) >= _WINDOW:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
    return logs


def _note(logs: dict[str, SessionLog], raw: Any) -> None:
    record = from_kafka(raw.key, raw.headers, raw.value)
    name = str(record.session)
    log = logs.setdefault(name, SessionLog(name, raw.partition))
    if record.kind is Kind.OPEN:
        log.seed = int(decode(Open, record.payload).source["seed"])
    if record.kind is Kind.ABANDON:
        log.ended = log.ended or "abandon"
        return
    if record.seq in log.records:
        log.repeated += 1
        return
    log.records[record.seq] = (record.kind, hashlib.sha256(record.payload).digest())
    if record.kind is Kind.CLOSE:
        log.ended = log.ended or "close"


async def count(servers: str, topic: str) -> int:
    """How many records a topic has had."""
    async with reader(servers, topic) as (_, ends):
        return sum(ends.values())
