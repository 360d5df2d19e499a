"""A topic read from any offset, without a group: what replays and rebuilds read from.

async with open_reader(settings, contract, "session.frames", fetch_bytes) as reader:
    reader.bounds                       {partition: (first offset, offset behind the last)}
    async for record in reader.records({3: 125_000}): …

LucidError
└── RecordsGone       what was to be read next has gone from the broker
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from agents.platform.broker import TopicMissing, unreachable
from agents.platform.contract import Contract, read_broker
from agents.platform.retry import Deadline
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from schemas.errors import LucidError

Record: TypeAlias = "ConsumerRecord[bytes, bytes]"
POLL_MS = 200
ANSWER_SECONDS = 15.0


class RecordsGone(LucidError):
    """Retention, or somebody, removed records that were still to be read."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class TopicReader:
    """The partitions of one topic. `consumer` belongs to whoever reads at the moment."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, topic: str, partitions: int
    ) -> None:
        self._settings = settings
        self.consumer = consumer
        self.topic = topic
        self.places = [TopicPartition(topic, number) for number in range(partitions)]
        self.bounds: dict[int, tuple[int, int]] = {}

    async def look(self) -> None:
        """Take down the first offset of each partition and the one behind its last."""
        first = await self.consumer.beginning_offsets(self.places)
        ends = await self.consumer.end_offsets(self.places)
        self.bounds = {one.partition: (first[one], ends[one]) for one in self.places}

    async def at_time(self, when: datetime) -> dict[int, int]:
        """Of each partition the first offset of that record time or later, else its end."""
        asked = dict.fromkeys(self.places, max(0, round(when.timestamp() * 1000)))
        found = await self.consumer.offsets_for_times(asked)
        return {
            one.partition: hit.offset if (hit := found.get(one)) else self.bounds[one.partition][1]
            for one in self.places
        }

    async def records(self, starts: Mapping[int, int]) -> AsyncGenerator[Record, None]:
        """Records from the given offsets to the ends that `look` found.

        Raises BrokerUnreachable when none comes for 15 s.
        """
        live = {self.places[p] for p, start in starts.items() if start < self.bounds[p][1]}
        self.consumer.assign(sorted(live))
        for place in live:
            self.consumer.seek(place, starts[place.partition])
        deadline = Deadline(ANSWER_SECONDS)
        while live:
            if deadline.expired:
                raise unreachable(self._settings, f"no answer for {ANSWER_SECONDS:g} s")
            batches = await self.consumer.getmany(timeout_ms=POLL_MS)
            for records in batches.values():
                deadline = Deadline(ANSWER_SECONDS)
                for raw in records:
                    if raw.offset < self.bounds[raw.partition][1]:
                        yield raw
            for place in list(live):
                if await self.consumer.position(place) >= self.bounds[place.partition][1]:
                    live.discard(place)
                    self.consumer.pause(place)

    async def record_at(self, partition: int, offset: int) -> Record | None:
        """The record of an offset that `bounds` has."""
        async with contextlib.aclosing(self.records({partition: offset})) as found:
            async for raw in found:
                return raw if raw.offset == offset else None
        return None


@asynccontextmanager
async def open_reader(
    settings: Settings, contract: Contract, name: str, fetch_bytes: int
) -> AsyncIterator[TopicReader]:
    """A reader of the contract's topic `name`; raises BrokerUnreachable and TopicMissing.

    Offsets that are no longer there are an error, never skipped.
    """
    topic = contract.topic(name).full_name
    state = (await read_broker(settings, contract)).topics.get(topic)
    if state is None:
        raise TopicMissing(f"the broker has no topic {topic}", hint="Run `lucid topics apply`")
    consumer = AIOKafkaConsumer(
        **kafka_options(settings), enable_auto_commit=False,
        auto_offset_reset="none", max_partition_fetch_bytes=fetch_bytes,
        fetch_max_bytes=4 * fetch_bytes, fetch_max_wait_ms=100,
    )  # fmt: skip
    with _typed(settings):
        await consumer.start()
    try:
        reader = TopicReader(settings, consumer, topic, state.partitions)
        with _typed(settings):
            await reader.look()
            yield reader
    finally:
        await consumer.stop()


@contextlib.contextmanager
def _typed(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OffsetOutOfRangeError as error:
        raise RecordsGone(
            f"records were removed while they were read: {error.args[0]}",
            hint="Look at the topic's retention, and start again",
        ) from error
    except KafkaError as error:
        raise unreachable(settings, error) from error
