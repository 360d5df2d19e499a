"""Producers: idempotent, every send awaited, every failure a typed error.

LucidError
├── RecordTooLarge        over the largest record that the contract allows; nothing was sent
├── SendRefused           the broker will not take it, however often it is sent
└── Transient
    ├── ConnectionRenewed a record before it failed: send again from that one on
    └── BrokerUnreachable

    create_producer(settings, *, max_record, linger_ms=5) -> AIOKafkaProducer
    async with Producer(settings, contract.limits, metrics=…) as producer:
        metadata = await producer.send(topic, value, key=…, headers=…, partition=…)
        metadata = await producer.send_event(topic, event)

A broker that is away fails nothing: an idempotent aiokafka producer tries for as long as it
lives. After any error of `send` it is open whether the broker holds the record, and aiokafka
counts a batch that failed in its sequence numbers, so that every later one of the partition
would be refused: the next send goes over a new connection with a new producer id. A caller
that has several records on their way passes the connection's `epoch` with each, so that none
of them overtakes one that failed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    DuplicateSequenceNumber,
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    RecordListTooLargeError,
    UnknownProducerId,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import RecordMetadata

from agents.platform.broker import explain, unreachable
from agents.platform.metrics import Metrics
from agents.platform.retry import Transient
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from schemas.envelope import Event
from schemas.errors import LucidError

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 30.0  # for what a replaced connection still has on its way
CLOSE_SECONDS = 1.0  # the same at the end, when nobody waits for a record any more
_BY_CONNECTION = (
    DuplicateSequenceNumber, InvalidProducerEpoch, OutOfOrderSequenceNumber, ProducerClosed,
    ProducerFenced, UnknownProducerId,
)  # fmt: skip
BATCH_BYTES = 16 * 1024
_PARTITIONER = DefaultPartitioner()
REQUEST_OVERHEAD = 64 * 1024  # of a produce request around its one record
Header = tuple[str, bytes | None]


class RecordTooLarge(LucidError):
    """A record is over the limit of its topic or of the producer."""


class SendRefused(LucidError):
    """The broker refused a record for good."""


class ConnectionRenewed(Transient):
    """A record that was sent before this one failed."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A record on its way. size: bytes of key and value. epoch: of its connection."""

    topic: str
    size: int
    epoch: int
    future: asyncio.Future[RecordMetadata]


def create_producer(
    settings: Settings, *, max_record: int, linger_ms: int = 5, timeout: float = 30.0,
    batch_bytes: int = BATCH_BYTES,
) -> AIOKafkaProducer:  # fmt: skip
    """A producer for records of up to `max_record` bytes; not started.

    No compression: what Lucid produces in bulk is compressed or encrypted already.
    timeout: seconds after which a request is sent again. batch_bytes: of small records that go
    together; the broker takes a batch only up to the topic's limit.
    """
    return AIOKafkaProducer(
        **kafka_options(settings),
        client_id="lucid",
        enable_idempotence=True,
        acks="all",
        compression_type=None,
        max_request_size=max_record + REQUEST_OVERHEAD,
        max_batch_size=batch_bytes,
        linger_ms=linger_ms,
        request_timeout_ms=int(timeout * 1000),
    )


@lru_cache(4096)  # the hash is written in Python, and keys come again
def _place_of(key: bytes, count: int) -> int:
    return int(_PARTITIONER(key, range(count), []))


async def _close(kafka: AIOKafkaProducer, seconds: float) -> None:
    """Let a connection deliver what is on its way, as long as that may take; then drop it."""
    try:
        async with asyncio.timeout(seconds):
            await kafka.stop()
    except TimeoutError:
        log.warning("records on their way were dropped with their connection")
    finally:
        # stop() returns early, or is cut off, while a broker does not answer.
        if kafka._sender is not None and kafka._sender.sender_task is not None:
            kafka._sender.sender_task.cancel()
        await kafka.client.close()


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
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self.settings = settings
        self._metrics = metrics
        self._limits = limits
        self._linger_ms, self._timeout = linger_ms, timeout
        self._batch_bytes = min(batch_bytes, *limits.values())
        self._renewing = asyncio.Lock()
        # aiokafka wakes all who wait for room in a partition's batch for each batch that leaves,
        # and all but one wait again: a cost that grows with the square of their number. Here one
        # of them waits there, and the others in line.
        self._turns: defaultdict[tuple[str, int | None], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._leaving: set[asyncio.Task[None]] = set()
        self._broken = False
        self._epoch = 0
        self.kafka = self._create()

    def _create(self) -> AIOKafkaProducer:
        return create_producer(
            self.settings, max_record=max(self._limits.values()), linger_ms=self._linger_ms,
            timeout=self._timeout, batch_bytes=self._batch_bytes,
        )  # fmt: skip

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
            raise await explain(self.settings, error) from error

    async def stop(self) -> None:
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await _close(self.kafka, CLOSE_SECONDS)

    async def epoch(self) -> int:
        """The number of a connection that works; after a failure a new one is made.

        Raises BrokerUnreachable.
        """
        async with self._renewing:
            if self._broken:
                fresh = self._create()
                try:
                    await fresh.start()
                except KafkaError as error:
                    await fresh.stop()
                    raise unreachable(self.settings, error) from error
                old, self.kafka = self.kafka, fresh
                self._broken, self._epoch = False, self._epoch + 1
                task = asyncio.create_task(_close(old, LEAVE_SECONDS))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
                log.info("connection renewed", epoch=self._epoch)
        return self._epoch

    async def submit(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
        epoch: int | None = None,
    ) -> Sending:
        """Queue a record; its place in the partition is behind all queued before.

        What comes back must be awaited through `acknowledged`. Raises as `send` does, and
        ConnectionRenewed when `epoch` is given and over.
        """
        fields = list(headers)
        size = self._fitting(topic, key, value, fields)
        if partition is None and key is not None:
            partition = await self._partition_of(topic, key, size)
        async with self._turns[topic, partition]:
            now = await self.epoch() if epoch is None else self._epoch
            if epoch is not None and (epoch != now or self._broken):
                raise ConnectionRenewed(
                    f"a record for {topic} before this one failed", retry_after=0
                )
            try:
                future: asyncio.Future[RecordMetadata] = await self.kafka.send(
                    topic, value, key=key, headers=fields, partition=partition,
                    timestamp_ms=timestamp_ms,
                )  # fmt: skip
            except KafkaError as error:
                raise self._failed(topic, size, now, error) from error
            except AssertionError as error:  # aiokafka's way to say so
                raise SendRefused(f"{topic} has no partition {partition}") from error
        # Whoever gives up waiting leaves no "exception was never retrieved" behind.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return Sending(topic, len(value or b"") + len(key or b""), now, future)

    async def _partition_of(self, topic: str, key: bytes, size: int) -> int:
        """Where aiokafka itself puts a record with this key; raises as `submit` does."""
        now = await self.epoch()
        try:
            partitions = await self.kafka.partitions_for(topic)
        except KafkaError as error:
            raise self._failed(topic, size, now, error) from error
        found: list[int] = sorted(partitions)
        return found[_place_of(key, len(found))]

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

    async def acknowledged(self, sending: Sending) -> RecordMetadata:
        """Wait until all in-sync replicas hold the record."""
        try:
            metadata = await sending.future
        except KafkaError as error:
            raise self._failed(sending.topic, sending.size, sending.epoch, error) from error
        if self._metrics is not None:
            self._metrics.sent(sending.topic, sending.size)
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
        sending = await self.submit(
            topic, value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp_ms
        )
        return await self.acknowledged(sending)

    async def submit_event(self, topic: str, event: Event) -> Sending:
        """Queue an event under its own key and headers, as `submit` does."""
        key, headers, value = event.to_kafka()
        return await self.submit(topic, value, key=key, headers=headers)

    async def send_event(self, topic: str, event: Event) -> RecordMetadata:
        """Send an event and wait for its acknowledgement; raises as `send` does."""
        return await self.acknowledged(await self.submit_event(topic, event))

    def _failed(self, topic: str, size: int, epoch: int, error: KafkaError) -> LucidError:
        if epoch == self._epoch:
            self._broken = True
        return self._typed(topic, size, error)

    def _typed(self, topic: str, size: int, error: KafkaError) -> LucidError:
        if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
            return RecordTooLarge(
                f"a record of {size} bytes for {topic} is refused as too large",
                hint="The topic's limit stands in topics.yaml; `lucid topics check` compares it",
            )
        if isinstance(error, KafkaConnectionError | KafkaTimeoutError):
            return unreachable(self.settings, repr(error))
        if error.retriable or isinstance(error, _BY_CONNECTION):
            return Transient(f"{topic} does not take a record now: {error!r}")
        return SendRefused(f"{topic} refused a record: {error!r}")
