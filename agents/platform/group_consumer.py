"""The consumer of a data-plane group: how it reads, how it is held back, how it leaves.

consumer = AIOKafkaConsumer(**group_options(kafka_options(settings), group, fetch_bytes))
valve = Valve(busy_limit, gate)
await valve.balance(consumer, workers)      each turn
await leave_group(consumer)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.platform.partition import PartitionWorker

log = structlog.get_logger(__name__)

FETCH_ROOM = 4
"""A broker answers one fetch with at most this many times `fetch_bytes`, over all partitions."""
FETCH_COPIES = 3
"""Of one such answer: the records of the last one, and this one as received and as parsed."""
CLOSE_SECONDS = 2.0
# A killed member's partitions go to others after this long; brokers allow no less than 6 s.
SESSION_MS = 6_000
HEARTBEAT_MS = 1_500
# More than a revoke takes: whoever drains its partitions is not thrown out meanwhile.
REBALANCE_MS = 20_000
METADATA_MS = 10_000
"""How old what a client knows of the topics may be.

A broker that has just started may not name a topic yet. The member that hands out the
partitions then hands out none of it, and notices no sooner than it asks again.
"""

Gate = Callable[[int], Awaitable[bool]]
"""Whether more records may be taken, given the bytes in flight."""


def group_options(kafka: Mapping[str, Any], group: str, fetch_bytes: int) -> dict[str, Any]:
    """What an AIOKafkaConsumer of the data plane is made with."""
    return {
        **kafka,
        "group_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # a reset by the driver would be a silent loss
        "max_partition_fetch_bytes": fetch_bytes,
        "fetch_max_bytes": FETCH_ROOM * fetch_bytes,
        "fetch_max_wait_ms": 100,
        "session_timeout_ms": SESSION_MS,
        "heartbeat_interval_ms": HEARTBEAT_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "metadata_max_age_ms": METADATA_MS,
    }


class Valve:
    """Pauses all partitions above a limit of bytes in flight; under half of it they go on.

    The same while the gate is closed. paused: the partitions that are held back.
    """

    def __init__(self, busy_limit: int, gate: Gate | None = None) -> None:
        self._busy_limit, self._gate = busy_limit, gate
        self.paused: set[TopicPartition] = set()

    async def is_open(self, busy: int) -> bool:
        """Whether more may be taken with so many bytes in flight."""
        if self._gate is not None and not await self._gate(busy):
            return False
        return busy <= (self._busy_limit // 2 if self.paused else self._busy_limit)

    async def balance(
        self, consumer: AIOKafkaConsumer, workers: Mapping[TopicPartition, PartitionWorker]
    ) -> None:
        """Pause the partitions that are worked on, or let them go on."""
        is_open = await self.is_open(sum(worker.busy() for worker in workers.values()))
        held = set(workers)
        if not is_open:
            self.paused = held
            consumer.pause(*held)
        elif self.paused:
            consumer.resume(*(self.paused & held))
            self.paused = set()


async def leave_group(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer within two seconds, whether a broker answers or not."""
    # While no broker answers, aiokafka swallows a cancellation, or cancels itself.
    leaving = asyncio.create_task(consumer.stop())
    await asyncio.wait([leaving], timeout=CLOSE_SECONDS)
    if leaving.done() and not leaving.cancelled() and leaving.exception() is None:
        return
    log.warning("the consumer could not leave its group")
    leaving.cancel()
    consumer._coordinator._coordination_task.cancel()
    await consumer._client.close()
