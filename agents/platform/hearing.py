"""A consumer group looked at from outside: how far it has come, and whether it keeps up.

    async with Commits(settings, group="pipeline", topic=topic) as commits:
        await commits.offsets()     {partition: the offset before which all is handled}
    async with Hearing(settings, group="pipeline", topic=topic, patience=5.0) as hearing:
        await hearing.hears()       False once what was there a while ago is not committed

A group may have members and still read nothing: whoever hands out its partitions may not
know the topic for a moment after the broker has started. Silence on a topic that nobody
reads means nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import unreachable
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from schemas.topics import Topic

ANSWER_SECONDS = 2.0


class Commits:
    """What a group has committed of a topic. Methods raise BrokerUnreachable within 2 s."""

    def __init__(self, settings: Settings, *, group: str, topic: Topic) -> None:
        self._settings = settings
        self._group = group
        self._places = [TopicPartition(topic.full_name, n) for n in range(topic.partitions)]
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the next question opens another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def offsets(self) -> dict[int, int]:
        """The committed offset of each partition; 0 where nothing is committed."""
        async with self._asking() as consumer:
            return {place.partition: await consumer.committed(place) or 0 for place in self._places}

    async def ends(self) -> dict[int, int]:
        """The offset behind the last record of each partition that has records."""
        async with self._asking() as consumer:
            ends = await consumer.end_offsets(self._places)
            begins = await consumer.beginning_offsets(self._places)
        return {place.partition: end for place, end in ends.items() if end > begins[place]}

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[AIOKafkaConsumer]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                yield await self._open()
        except (KafkaError, TimeoutError, OSError) as error:
            await self.close()
            raise unreachable(self._settings, error) from error

    async def _open(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            # Without a subscription it is no member of the group, and only asks for commits.
            consumer = AIOKafkaConsumer(
                **kafka_options(self._settings), group_id=self._group,
                enable_auto_commit=False, client_id="lucid-hearing",
            )  # fmt: skip
            self._consumer = consumer
            await consumer.start()
        return self._consumer


class Hearing:
    """Whether a group keeps up. patience: seconds that a commit may stay behind."""

    def __init__(self, settings: Settings, *, group: str, topic: Topic, patience: float) -> None:
        self._commits = Commits(settings, group=group, topic=topic)
        self._patience = patience
        self._wanted: dict[int, int] = {}
        self._asked = time.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._commits.close()

    async def hears(self) -> bool:
        """Whether the group has committed all that was there `patience` ago.

        Raises BrokerUnreachable.
        """
        ends, committed = await self._commits.ends(), await self._commits.offsets()
        if all(committed[place] >= wanted for place, wanted in self._wanted.items()):
            self._wanted, self._asked = ends, time.monotonic()
        return time.monotonic() - self._asked <= self._patience
