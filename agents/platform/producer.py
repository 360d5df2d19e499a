"""Producers: idempotent, every send awaited, every failure a typed error.

LucidError
├── RecordTooLarge        over the largest record that the contract allows; nothing was sent
├── SendRefused           the broker will not take it, however often it is sent
└── Transient
    └── BrokerUnreachable

    create_producer(settings, *, max_record, linger_ms=5) -> AIOKafkaProducer
    async with Producer(settings, contract.limits, metrics=…) as producer:
        metadata = await producer.send(topic, value, key=…, headers=…, partition=…)

After any error of `send` on an idempotent producer it is open whether the broker holds the
record: the caller stops, and its successor does the work again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import RecordMetadata

from agents.platform.broker import unreachable
from agents.platform.metrics import Metrics
from agents.platform.retry import Transient
from agents.platform.settings import Settings
from schemas.errors import LucidError

REQUEST_OVERHEAD = 64 * 1024  # of a produce request around its one record
Header = tuple[str, bytes | None]


class RecordTooLarge(LucidError):
    """A record is over the limit of its topic or of the producer."""


class SendRefused(LucidError):
    """The broker refused a record for good."""


def create_producer(
    settings: Settings, *, max_record: int, linger_ms: int = 5, timeout: float = 30.0
) -> AIOKafkaProducer:
    """A producer for records of up to `max_record` bytes; not started.

    No compression: what Lucid produces in bulk is compressed or encrypted already.
    timeout: seconds after which a record that was not acknowledged has failed.
    """
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_servers(),
        client_id="lucid",
        enable_idempotence=True,
        acks="all",
        compression_type=None,
        max_request_size=max_record + REQUEST_OVERHEAD,
        linger_ms=linger_ms,
        request_timeout_ms=int(timeout * 1000),
    )


class Producer:
    """An idempotent producer whose sends are acknowledged by all in-sync replicas.

    limits: bytes of the largest record batch, by topic; it sends to no other topics. What is
    over its limit is refused here: once a broker has refused a batch, aiokafka's sequence
    numbers no longer match the broker's, and every later record of the partition fails.
    """

    def __init__(
        self,
        settings: Settings,
        limits: Mapping[str, int],
        *,
        metrics: Metrics | None = None,
        linger_ms: int = 5,
        timeout: float = 30.0,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._limits = limits
        self.kafka = create_producer(
            settings, max_record=max(limits.values()), linger_ms=linger_ms, timeout=timeout
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect; raises BrokerUnreachable."""
        try:
            await self.kafka.start()
        except KafkaError as error:
            await self.kafka.stop()
            raise unreachable(self._settings, error) from error

    async def stop(self) -> None:
        await self.kafka.stop()

    async def submit(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Queue a record; its place in the partition is behind all queued before.

        The future must be awaited through `acknowledged`. Raises as `send` does.
        """
        fields = list(headers)
        size = self._fitting(topic, key, value, fields)
        try:
            future: asyncio.Future[RecordMetadata] = await self.kafka.send(
                topic, value, key=key, headers=fields, partition=partition,
                timestamp_ms=timestamp_ms,
            )  # fmt: skip
        except KafkaError as error:
            raise self._typed(topic, size, error) from error
        except AssertionError as error:  # aiokafka's way to say so
            raise SendRefused(f"{topic} has no partition {partition}") from error
        return future

    def _fitting(
        self, topic: str, key: bytes | None, value: bytes | None, headers: list[Header]
    ) -> int:
        """Bytes of a batch of this one record, at most; raises RecordTooLarge, SendRefused."""
        limit = self._limits.get(topic)
        if limit is None:
            raise SendRefused(f"this producer has no topic {topic}")
        size = int(DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, headers))
        if size > limit:
            raise RecordTooLarge(f"a record of {size} bytes for {topic} is over {limit} bytes")
        return size

    async def acknowledged(
        self, future: asyncio.Future[RecordMetadata], topic: str, size: int = 0
    ) -> RecordMetadata:
        """Wait until all in-sync replicas hold the record."""
        try:
            metadata = await future
        except KafkaError as error:
            raise self._typed(topic, size, error) from error
        if self._metrics is not None:
            self._metrics.sent(topic, size)
        return metadata

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Send a record and wait for the acknowledgement of all in-sync replicas.

        Raises RecordTooLarge, SendRefused, BrokerUnreachable or another Transient.
        """
        future = await self.submit(
            topic, value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp_ms
        )
        return await self.acknowledged(future, topic, len(value or b"") + len(key or b""))

    def _typed(self, topic: str, size: int, error: KafkaError) -> LucidError:
        if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
            return RecordTooLarge(
                f"a record of {size} bytes for {topic} is refused as too large",
                hint="The topic's limit stands in topics.yaml; `lucid topics check` compares it",
            )
        if isinstance(error, KafkaConnectionError | KafkaTimeoutError):
            return unreachable(self._settings, repr(error))
        if error.retriable:
            return Transient(f"{topic} does not take a record now: {error!r}")
        return SendRefused(f"{topic} refused a record: {error!r}")
