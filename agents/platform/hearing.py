"""Whether a group keeps up with its topic: silence on a topic that nobody reads means nothing.

    async with Hearing(settings, group="pipeline", topic=topic, patience=5.0) as hearing:
        await hearing.hears()       False once what was there a while ago is not committed

A group may have members and still read nothing: whoever hands out its partitions may not
know the topic for a moment after the broker has started.
"""

from __future__ import annotations

import asyncio
import time
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.broker import unreachable
from agents.platform.settings import Settings
from schemas.topics import Topic

ANSWER_SECONDS = 2.0


class Hearing:
    """Looks at a group from outside. patience: seconds that a commit may stay behind."""

    def __init__(self, settings: Settings, *, group: str, topic: Topic, patience: float) -> None:
        self._settings = settings
        self._group = group
        self._places = [TopicPartition(topic.full_name, n) for n in range(topic.partitions)]
        self._patience = patience
        self._consumer: AIOKafkaConsumer | None = None
        self._wanted: dict[TopicPartition, int] = {}
        self._asked = time.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the next question opens another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def hears(self) -> bool:
        """Whether the group has committed all that was there `patience` ago.

        Raises BrokerUnreachable unless the broker answers within 2 s.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._look()
        except (KafkaError, TimeoutError, OSError) as error:
            await self.close()
            raise unreachable(self._settings, error) from error

    async def _look(self) -> bool:
        consumer = await self._open()
        ends = await self._ends(consumer)
        if await self._reached(consumer):
            self._wanted, self._asked = ends, time.monotonic()
        return time.monotonic() - self._asked <= self._patience

    async def _open(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            # Without a subscription it is no member of the group, and only asks for commits.
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._settings.kafka_servers(), group_id=self._group,
                enable_auto_commit=False, client_id="lucid-hearing",
            )  # fmt: skip
            self._consumer = consumer
            await consumer.start()
        return self._consumer

    async def _ends(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(self._places)
        begins = await consumer.beginning_offsets(self._places)
        return {place: end for place, end in ends.items() if end > begins[place]}

    async def _reached(self, consumer: AIOKafkaConsumer) -> bool:
        for place, wanted in self._wanted.items():
            if (await consumer.committed(place) or 0) < wanted:
                return False
        return True
