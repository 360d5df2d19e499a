"""Commits of a data-plane group: over finished records alone, and only by who is in the group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from agents.platform.metrics import Metrics
from agents.platform.partition import PartitionWorker
from agents.platform.points import async_point

log = structlog.get_logger(__name__)

COMMIT_SECONDS = 3.0


class OffsetCommits:
    """What one consumer has committed, and goes on to commit."""

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics
        self._committed: dict[TopicPartition, int] = {}

    def forget(self, partition: TopicPartition) -> None:
        """The partition is another member's from now on."""
        self._committed.pop(partition, None)

    def clear(self) -> None:
        """The consumer is another one from now on."""
        self._committed.clear()

    async def commit(
        self, consumer: AIOKafkaConsumer, workers: Mapping[TopicPartition, PartitionWorker]
    ) -> None:
        """Commit each worker's position, and tell it; what fails is left for the next time."""
        await async_point("runner.before-commit")
        offsets = {}
        for partition, worker in workers.items():
            position = worker.position()
            if position is not None and position != self._committed.get(partition):
                offsets[partition] = position
        if not offsets or not await self._taken(consumer, offsets):
            return
        await async_point("runner.after-commit")
        self._committed.update(offsets)
        for partition, offset in offsets.items():
            if self._metrics is not None:
                end = None
                with contextlib.suppress(AssertionError, KafkaError):
                    end = consumer.highwater(partition)
                self._metrics.committed(partition.topic, partition.partition, offset, end)
            await workers[partition].committed(offset)

    async def _taken(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]
    ) -> bool:
        """Whether the broker has them now."""
        if consumer._coordinator.generation < 0:
            # Thrown out of the group. A commit without a generation would be taken while the
            # group is empty, and could set back what its last member had committed.
            log.warning("not committed: this member is not in its group")
            return False
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await consumer.commit(offsets)
        except TimeoutError:
            log.warning("commit got no answer, trying again")
        except (CommitFailedError, IllegalStateError) as error:
            # The group moved on without us; the next owner redoes the work, with equal bytes.
            log.warning("commit refused", error=str(error))
        except KafkaError as error:
            log.warning("commit failed, trying again", error=repr(error))
        else:
            return True
        return False
