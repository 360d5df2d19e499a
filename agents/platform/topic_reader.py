"""Everything that a topic holds now, for commands that look and end.

async for record in read_topic(settings, "lucid.dead.letters", since_ms=None, seen=None): …
async with read_records(settings, topic) as reader:
    record = await (await reader(partition)).at(offset)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import BrokerProbe, unreachable
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options

FETCH_BYTES = 8 * 1024**2
RECORD_MS = 10_000
NEAR = 100  # records that are read over instead of sought
Record: TypeAlias = "ConsumerRecord[bytes, bytes]"
Seen = Callable[[int, int], None]


@asynccontextmanager
async def _consumer(settings: Settings, *topics: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group; of `topics` it has all partitions."""
    consumer = AIOKafkaConsumer(
        *topics, **kafka_options(settings), group_id=None,
        enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100,
        max_partition_fetch_bytes=FETCH_BYTES, fetch_max_bytes=FETCH_BYTES,
    )  # fmt: skip
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise unreachable(settings, error) from error
    finally:
        await consumer.stop()


async def read_topic(
    settings: Settings, topic: str, *, since_ms: int | None = None, seen: Seen | None = None
) -> AsyncIterator[Record]:
    """All records that are there when the reading begins, by partition in offset order.

    since_ms: only those from the first one on that is not older. seen: called with how many
    offsets are passed, and of how many. Raises BrokerUnreachable, TopicMissing.
    """
    async with BrokerProbe(settings) as probe:
        await probe.require([topic])
    async with _consumer(settings, topic) as consumer:
        places = sorted(consumer.assignment())
        ends = await consumer.end_offsets(places)
        starts = await consumer.beginning_offsets(places)
        if since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(places, since_ms))
            starts = {place: at.offset if at else ends[place] for place, at in found.items()}
        total, passed = sum(ends[place] - starts[place] for place in places), 0
        for place in places:
            consumer.seek(place, starts[place])
            at = starts[place]
            while at < ends[place]:
                batch = (await consumer.getmany(place, timeout_ms=200)).get(place, [])
                for record in batch:
                    if record.offset < ends[place]:
                        yield record
                now = await consumer.position(place)
                passed, at = passed + now - at, now
                if seen is not None:
                    seen(min(passed, total), total)


class RecordReader:
    """Single records of one partition, cheapest when asked for in about their order."""

    def __init__(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> None:
        self._consumer = consumer
        self._place = place
        self._next: int | None = None

    async def at(self, offset: int) -> Record | None:
        """The record at an offset; None if it is not there any more."""
        # A seek throws away what is fetched already.
        if self._next is None or not 0 <= offset - self._next < NEAR:
            start = (await self._consumer.beginning_offsets([self._place]))[self._place]
            end = (await self._consumer.end_offsets([self._place]))[self._place]
            if not start <= offset < end:
                return None
            self._consumer.seek(self._place, offset)
        while True:
            found = await self._consumer.getmany(self._place, timeout_ms=RECORD_MS, max_records=1)
            batch: list[Record] = found.get(self._place, [])
            if not batch or batch[0].offset > offset:
                self._next = None
                return None
            self._next = batch[0].offset + 1
            if batch[0].offset == offset:
                return batch[0]


@asynccontextmanager
async def read_records(
    settings: Settings, topic: str
) -> AsyncIterator[Callable[[int], Awaitable[RecordReader]]]:
    """Readers of single records of a topic, by partition number. Raises BrokerUnreachable."""
    readers: dict[int, RecordReader] = {}
    async with AsyncExitStack() as stack:

        async def reader(partition: int) -> RecordReader:
            if partition not in readers:
                consumer = await stack.enter_async_context(_consumer(settings))
                place = TopicPartition(topic, partition)
                consumer.assign([place])
                readers[partition] = RecordReader(consumer, place)
            return readers[partition]

        yield reader
