"""What the broker still holds of an erased session: offsets below which its records are.

Nothing is deleted there before its time: DeleteRecords takes whole ends of partitions, and with
them other sessions' records. Retention takes them; here it is only seen that it has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import unreachable
from agents.platform.contract import Contract
from agents.platform.producer import Producer
from agents.platform.reader import open_reader
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from schemas.erasure import Stage

FRAMES, PROGRESS = "session.frames", "session.progress"
HOLDERS: Mapping[Stage, Sequence[str]] = {
    "content": (FRAMES, "session.chunks", "session.manifests", "dead.letters"),
    "metadata": (FRAMES, "session.manifests", "session.events", "dead.letters"),
}
"""Topics that may hold something of a stage until their retention is over."""
FETCH_BYTES = 4 * 1024**2
Ends = Sequence[Mapping[str, Any]]
"""Of each topic and partition the offset (`end`) behind the last record that may be its own."""


class BrokerView:
    """Looks at the topics that may hold something of a session, and writes its tombstone."""

    def __init__(
        self, settings: Settings, contract: Contract, consumer: AIOKafkaConsumer,
        producer: Producer | None,
    ) -> None:  # fmt: skip
        self._settings, self._contract = settings, contract
        self._consumer, self._producer = consumer, producer
        self._firsts: dict[TopicPartition, int] = {}
        self._keys: dict[int, frozenset[bytes]] = {}

    def _places(self, topic: str, partition: int | None) -> list[TopicPartition]:
        """The session's own partition, all where it is not known."""
        entry = self._contract.topic(topic)
        shared = self._contract.topic(FRAMES).partitions
        placed = entry.same_partitions_as == FRAMES or topic == FRAMES
        if placed and partition is not None and partition < shared:
            return [TopicPartition(entry.full_name, partition)]
        return [TopicPartition(entry.full_name, one) for one in range(entry.partitions)]

    async def ends(self, stage: Stage, partition: int | None) -> list[dict[str, Any]]:
        """Where the topics end now: everything of the session is before that."""
        found: list[dict[str, Any]] = []
        for topic in HOLDERS[stage]:
            places = self._places(topic, partition)
            ends = await self._consumer.end_offsets(places)
            found += [
                {"topic": topic, "partition": place.partition, "end": ends[place]}
                for place in places
            ]
        return found

    async def holds(self, ends: Ends, since: int) -> list[str]:
        """One sentence for each topic that still holds records before `ends`.

        since: microseconds at which they were taken down.
        """
        waiting = []
        for one in ends:
            topic, partition, end = str(one["topic"]), int(one["partition"]), int(one["end"])
            entry = self._contract.topic(topic)
            place = TopicPartition(entry.full_name, partition)
            if place not in self._firsts:
                self._firsts.update(await self._consumer.beginning_offsets([place]))
            if self._firsts[place] < end:
                until = datetime.fromtimestamp(since / 1e6 + entry.retention_ms / 1e3, UTC)
                waiting.append(
                    f"{topic}/{partition} holds records before {end}, until about {until:%Y-%m-%d}"
                )
        return waiting

    async def has_progress(self, session: str, partition: int | None) -> bool:
        """Whether the compacted topic has anything but a tombstone of the session."""
        for place in self._places(PROGRESS, partition):
            if place.partition not in self._keys:
                self._keys[place.partition] = await self._read_keys(place.partition)
            if session.encode() in self._keys[place.partition]:
                return True
        return False

    async def _read_keys(self, partition: int) -> frozenset[bytes]:
        """The keys that have a value in a partition of the progress topic."""
        found = set()
        async with open_reader(self._settings, self._contract, PROGRESS, FETCH_BYTES) as reader:
            first, _ = reader.bounds[partition]
            async with aclosing(reader.records({partition: first})) as records:
                async for raw in records:
                    if raw.value is not None and raw.key is not None:
                        found.add(raw.key)
        return frozenset(found)

    async def entomb(self, session: str, partition: int | None) -> None:
        """Write the session's tombstone, so that compaction takes its wrapped key."""
        assert self._producer is not None
        topic = self._contract.topic(PROGRESS).full_name
        for place in self._places(PROGRESS, partition):
            await self._producer.send(topic, None, key=session.encode(), partition=place.partition)


@asynccontextmanager
async def open_broker(
    settings: Settings, contract: Contract, producer: Producer | None
) -> AsyncIterator[BrokerView]:
    """A view of the broker as it is now; producer: None for one that only looks."""
    consumer = AIOKafkaConsumer(**kafka_options(settings), group_id=None, enable_auto_commit=False)
    try:
        await consumer.start()
        yield BrokerView(settings, contract, consumer, producer)
    except KafkaError as error:
        raise unreachable(settings, error) from error
    finally:
        await consumer.stop()
