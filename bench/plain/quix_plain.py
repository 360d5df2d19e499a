"""Quix Streams: a sink, which the framework flushes before each of its commits."""

from __future__ import annotations

from typing import Any

from quixstreams import Application
from quixstreams.sinks import BaseSink

from bench.plain.job import COMMIT_SECONDS, Job


class Files(BaseSink):
    """Chunks as files."""

    def __init__(self, job: Job) -> None:
        super().__init__(on_client_connect_success=lambda: None)
        self._job = job

    def add(self, value: bytes, key: bytes, *_: Any, **__: Any) -> None:
        chunk = self._job.add(key, value)
        if chunk is not None:
            self._job.write(chunk)

    def flush(self) -> None:
        for chunk in self._job.rest():
            self._job.write(chunk)
        self._job.tell()


class Timed(Application):
    """Says when partitions are assigned, which nothing public does."""

    job: Job

    def _on_assign(self, *arguments: Any) -> None:
        self.job.begin()
        super()._on_assign(*arguments)


def main() -> None:
    job = Job.from_arguments()
    order = job.order
    app = Timed(
        broker_address=order.servers,
        consumer_group=order.group,
        auto_offset_reset="earliest",
        commit_interval=COMMIT_SECONDS,
        consumer_extra_config={"fetch.message.max.bytes": 8 * 1024**2},
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="WARNING",
    )
    app.job = job
    topic = app.topic(order.topic, key_deserializer="bytes", value_deserializer="bytes")
    app.dataframe(topic).sink(Files(job))
    # It flushes and commits when so many records were processed.
    app.run(count=order.records)


if __name__ == "__main__":
    main()
