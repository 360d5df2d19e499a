"""The baseline: records from one topic to another with aiokafka alone, in a process of its own.

What the broker and the driver cost, without sealing and storing. It runs on uvloop with aiokafka's
C extensions, reads as much at a time as the processor does, is idempotent as Lucid's producer is,
and fills its batches: a batch for each record of 100 KB, as aiokafka's 16 KiB by default make it,
would ask the broker once for each, which no chunk does.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents.platform.group_consumer import FETCH_ROOM

BATCH_BYTES = 8 * 1024**2
FETCH_BYTES = 4 * 1024**2
DEADLINE = 180.0


@dataclass(frozen=True, slots=True)
class Job:
    """From `start` to before `end` of each partition, by its number in text (JSON's keys)."""

    servers: str
    source: str
    target: str
    start: dict[str, int]
    end: dict[str, int]
    batch_bytes: int = BATCH_BYTES


def pass_through(
    servers: str, source: str, target: str, start: Mapping[int, int], end: Mapping[int, int],
    batch_bytes: int = BATCH_BYTES,
) -> tuple[float, float]:  # fmt: skip
    """Seconds from the first request for records to the last acknowledgement; seconds of CPU."""
    by_text = [{str(number): offset for number, offset in one.items()} for one in (start, end)]
    job = Job(servers, source, target, by_text[0], by_text[1], batch_bytes)
    done = subprocess.run(
        [sys.executable, "-m", "bench.passthrough", json.dumps(asdict(job))],
        capture_output=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the baseline failed: {done.stderr.decode()[-2000:]}")
    seconds, cpu = json.loads(done.stdout)
    return float(seconds), float(cpu)


async def relay(job: Job) -> tuple[float, float]:
    """Read and send on, waiting for acknowledgements at last: seconds, seconds of CPU."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=job.servers, enable_auto_commit=False, auto_offset_reset="none",
        max_partition_fetch_bytes=FETCH_BYTES, fetch_max_bytes=FETCH_ROOM * FETCH_BYTES,
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
