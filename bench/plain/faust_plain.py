"""Faust alone: an agent that acknowledges events once they are in files.

Settings are what is known to be fast with large records: fetches of 8 MiB, and a short buffer.
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import faust
import uvloop

from bench.plain.job import Job


def main() -> None:
    job = Job.from_arguments()
    order = job.order
    app = faust.App(
        order.group,
        broker=f"kafka://{order.servers}",
        datadir=tempfile.mkdtemp(dir=order.folder, prefix="."),
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=8 * 1024**2,
        stream_buffer_maxsize=64,
        broker_commit_interval=1.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
    )
    frames = app.topic(
        order.topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )

    @app.on_partitions_assigned.connect
    async def begin(*_: Any, **__: Any) -> None:
        job.begin()

    @app.agent(frames)
    async def collect(stream: Any) -> None:
        waiting = []
        async for event in stream.noack().events():
            waiting.append(event)
            chunk = job.add(event.key, event.value)
            if chunk is not None:
                await asyncio.to_thread(job.write, chunk)
            if job.due():
                for chunk in job.rest():
                    await asyncio.to_thread(job.write, chunk)
                for event in waiting:
                    event.ack()
                waiting.clear()
                job.tell()

    faust.Worker(
        app, loglevel="WARN", loop=uvloop.new_event_loop(), quiet=True, redirect_stdouts=False
    ).execute_from_commandline()


if __name__ == "__main__":
    main()
