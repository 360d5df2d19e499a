"""FastStream: a subscriber that gets batches, and acknowledges them once they are in files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import uvloop
from aiokafka import ConsumerRebalanceListener
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage

from bench.plain.job import Job


class Assigned(ConsumerRebalanceListener):
    """Starts the job's clock."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._job.begin()

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Nothing is done then: what is open will be read again."""


def main() -> None:
    job = Job.from_arguments()
    order = job.order
    broker = KafkaBroker(order.servers, logger=None, allow_auto_create_topics=False)

    @broker.subscriber(
        order.topic,
        group_id=order.group,
        batch=True,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 * 1024**2,
        ack_policy=AckPolicy.MANUAL,
        listener=Assigned(job),
    )
    async def collect(message: KafkaMessage) -> None:
        for record in message.raw_message:
            chunk = job.add(record.key, record.value)
            if chunk is not None:
                await asyncio.to_thread(job.write, chunk)
        if job.due():
            for chunk in job.rest():
                await asyncio.to_thread(job.write, chunk)
            await message.ack()
            job.tell()

    uvloop.run(FastStream(broker, logger=None).run())


if __name__ == "__main__":
    main()
