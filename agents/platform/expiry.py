"""Retention that overtakes a consumer: where it goes on, and which offsets it never saw.

    begin, end = await bounds(consumer, partition)                  raises BrokerUnreachable
    start, expired = where_to_start(committed, expected, begin, end)

An offset is lost when it is behind what was finished and before the first one that the
broker still has. A group without a commit starts at the beginning, wherever that is: it
never promised to read what was there before. Only the worker's own account of what it
had begun (`expected`) makes that a loss.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.retry import BrokerUnreachable

ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Expired:
    """Offsets first to next_offset - 1 of a partition, gone before they were read.

    topic: full name on the broker.
    """

    topic: str
    partition: int
    first: int
    next_offset: int

    @property
    def count(self) -> int:
        return self.next_offset - self.first


def where_to_start(
    committed: int | None, expected: int | None, begin: int, end: int
) -> tuple[int, tuple[int, int] | None]:
    """The offset to start at, and the range [first, next) that expired before it was read.

    committed: of the group; expected: where the worker would go on by its own account, used
    when there is no commit. A position past the end speaks of another log (its topic was
    made anew, or lost its end): everything there is is read.
    """
    wanted = committed if committed is not None else expected
    if wanted is not None and wanted < begin:
        return begin, (wanted, begin)
    if committed is None or committed > end:
        return begin, None
    return committed, None


async def bounds(consumer: AIOKafkaConsumer, partition: TopicPartition) -> tuple[int, int]:
    """The first offset that the broker has, and the one that its next record will get."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            begin = await consumer.beginning_offsets([partition])
            end = await consumer.end_offsets([partition])
    except (KafkaError, TimeoutError) as error:
        raise BrokerUnreachable(
            f"the broker does not say where {partition.topic}-{partition.partition} begins "
            f"({error!r})"
        ) from error
    return int(begin[partition]), int(end[partition])
