"""Metrics of the platform, one registry for each service.

Names begin with `lucid_`, units are base units, each service's own metrics are registered
in the same registry (`Metrics.registry`) by its room. Two services in one process (a test,
say) have two registries and do not meet.

    metrics = Metrics("storage", version="0.1.0")
    metrics.took(topic, size)            .sent(topic, size)        .refused(topic, code)
    metrics.limited(topic, partition, counted, limit)
    metrics.retried(topic, code)         .committed(topic, partition, offset, end)
    metrics.expired(topic, partition, n) .log_start(topic, partition, begin, finished)
    metrics.held(bytes)                  .handling(topic) -> context manager that times
    metrics.read(topic, partition, next_offset)
    metrics.checked(name, ok)            what a health check found
    metrics.exposition() -> bytes        what /metrics answers
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)


class Metrics:
    """What every service counts; all of it carries the label `service`."""

    def __init__(self, service: str, *, version: str) -> None:
        self.service = service
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("lucid_build", "What is running", registry=registry).info(
            {"service": service, "version": version}
        )
        # Looking labels up takes longer than counting.
        self._of_topic: Callable[[Counter, str], Counter] = cache(
            lambda counter, topic: counter.labels(service, topic)
        )
        self._consumed = self._counter("records_consumed", "Records taken", "topic")
        self._consumed_bytes = self._counter("consumed_bytes", "Bytes of values taken", "topic")
        self._produced = self._counter("records_produced", "Records acknowledged", "topic")
        self._produced_bytes = self._counter("produced_bytes", "Bytes acknowledged", "topic")
        self._dead = self._counter("records_dead_lettered", "Records refused", "topic", "code")
        self._letters = self._gauge(
            "dead_letters_counted", "Refusals that count towards the limit now",
            "topic", "partition",
        )  # fmt: skip
        self._letter_limit = self._gauge(
            "dead_letter_limit", "Refusals of a partition in an hour that are too many"
        )
        self._retries = self._counter("record_retries", "Tries beyond the first", "topic", "code")
        self._position = self._gauge(
            "commit_position", "Offset before which all records are finished", "topic", "partition"
        )
        self._read = self._gauge(
            "read_position", "Offset before which all records are taken, finished or not",
            "topic", "partition",
        )  # fmt: skip
        self._lag = self._gauge(
            "lag_records", "Records behind the commit position", "topic", "partition"
        )
        self._expired = self._counter(
            "offsets_expired", "Offsets that retention took before they were read",
            "topic", "partition",
        )  # fmt: skip
        self._expirations = self._counter(
            "expirations", "Times that retention overtook this service", "topic", "partition"
        )
        self._begin = self._gauge(
            "log_start_offset", "First offset that the broker has", "topic", "partition"
        )
        self._overtaken = self._gauge(
            "overtaken_offsets", "How far the broker's first offset is past the finished one",
            "topic", "partition",
        )  # fmt: skip
        self._held = self._gauge("held_bytes", "Bytes of records in memory").labels(service)
        self._checks = self._gauge(
            "check_ok", "Whether a health check passed when it was last made", "check"
        )
        self._seconds = Histogram(
            "lucid_record_seconds", "Handling of a record, or a batch of them, retries included",
            ["service", "topic"], registry=registry,
        )  # fmt: skip

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"lucid_{name}", text, ["service", *labels], registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"lucid_{name}", text, ["service", *labels], registry=self.registry)

    def took(self, topic: str, size: int) -> None:
        """Count one consumed record."""
        self._of_topic(self._consumed, topic).inc()
        self._of_topic(self._consumed_bytes, topic).inc(size)

    def sent(self, topic: str, size: int) -> None:
        """Count one record that the broker acknowledged."""
        self._of_topic(self._produced, topic).inc()
        self._of_topic(self._produced_bytes, topic).inc(size)

    def refused(self, topic: str, code: str) -> None:
        """Count one dead letter by its origin and reason."""
        self._dead.labels(self.service, topic, code).inc()

    def limited(self, topic: str, partition: int, counted: Callable[[], float], limit: int) -> None:
        """Show how near a partition is to its limit of dead letters."""
        self._letters.labels(self.service, topic, partition).set_function(counted)
        self._letter_limit.labels(self.service).set(limit)

    def retried(self, topic: str, code: str) -> None:
        """Count one more try of the same record."""
        self._retries.labels(self.service, topic, code).inc()

    def committed(self, topic: str, partition: int, offset: int, end: int | None = None) -> None:
        """Show a commit position and, if the partition's end is known, the lag."""
        self._position.labels(self.service, topic, partition).set(offset)
        if end is not None:
            self._lag.labels(self.service, topic, partition).set(max(0, end - offset))

    def read(self, topic: str, partition: int, offset: int) -> None:
        """Show the offset of a partition's next record."""
        self._read.labels(self.service, topic, partition).set(offset)

    def expired(self, topic: str, partition: int, count: int) -> None:
        """Count offsets that were gone before they were read."""
        self._expired.labels(self.service, topic, partition).inc(count)
        self._expirations.labels(self.service, topic, partition).inc()
        self._overtaken.labels(self.service, topic, partition).set(count)

    def log_start(self, topic: str, partition: int, begin: int, finished: int) -> None:
        """Show where a partition begins on the broker; `finished`: all before it is done."""
        self._begin.labels(self.service, topic, partition).set(begin)
        self._overtaken.labels(self.service, topic, partition).set(max(0, begin - finished))

    def revoked(self, topic: str, partition: int) -> None:
        """Forget a partition that somebody else owns now."""
        for gauge in (self._position, self._read, self._lag, self._begin, self._overtaken):
            gauge.remove_by_labels(
                {"service": self.service, "topic": topic, "partition": str(partition)}
            )

    def held(self, size: int) -> None:
        """Show how many bytes of records are in memory."""
        self._held.set(size)

    def checked(self, name: str, ok: bool) -> None:
        """Show what a health check found."""
        self._checks.labels(self.service, name).set(int(ok))

    def handling(self, topic: str) -> AbstractContextManager[object]:
        """Times the handling of one record."""
        return self._seconds.labels(self.service, topic).time()

    def exposition(self) -> bytes:
        """All metrics of this service in the Prometheus text format."""
        return generate_latest(self.registry)
