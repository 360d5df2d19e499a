"""Records from one topic to another with aiokafka alone: python -m bench.relay JOB

It imports nothing of Lucid, whose modules change how aiokafka receives, checks and sends. It runs
on uvloop with aiokafka's C extensions, reads as much at a time as the processor does, is idempotent
as Lucid's producer is, and fills its batches: a batch for each record of 100 KB, as aiokafka's
16 KiB by default make it, would ask the broker once for each, which no chunk does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition


@dataclass(frozen=True, slots=True)
class Job:
    """From `start` to before `end` of each partition, by its number in text (JSON's keys).

    fetch_room: a fetch is answered with at most this many times `fetch_bytes`.
    """

    servers: str
    source: str
    target: str
    start: dict[str, int]
    end: dict[str, int]
    batch_bytes: int
    fetch_bytes: int
    fetch_room: int


async def relay(job: Job) -> tuple[float, float]:
    """Read and send on, waiting for acknowledgements at last: seconds, seconds of CPU."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=job.servers, enable_auto_commit=False, auto_offset_reset="none",
        max_partition_fetch_bytes=job.fetch_bytes, fetch_max_bytes=job.fetch_room * job.fetch_bytes,
    )  # fmt: skip
    producer = AIOKafkaProducer(
        bootstrap_servers=job.servers, enable_idempotence=True, acks="all", linger_ms=5,
        max_batch_size=job.batch_bytes, max_request_size=2 * job.batch_bytes,
    )  # fmt: skip
    await consumer.start()
    await producer.start()
    await producer.partitions_for(job.target)
    places = {TopicPartition(job.source, int(number)): number for number in job.start}
    wanted = sum(job.end[number] - job.start[number] for number in places.values())
    try:
        consumer.assign(list(places))
        for place, number in places.items():
            consumer.seek(place, job.start[number])
        started, busy, passed = time.monotonic(), time.process_time(), 0
        futures: list[asyncio.Future[object]] = []
        while passed < wanted:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    futures.append(
                        await producer.send(
                            job.target,
                            record.value,
                            key=record.key,
                            headers=list(record.headers),
                            partition=record.partition,
                        )
                    )
                passed += len(batch)
        await asyncio.gather(*futures)
        return time.monotonic() - started, time.process_time() - busy
    finally:
        await consumer.stop()
        await producer.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(relay(Job(**json.loads(sys.argv[1]))))))
