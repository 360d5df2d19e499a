"""Where a processor's results go, each with its acknowledgement, and where progress is read.

All records of a session go to the partition number that its frame records are on, so a
member that takes a partition over finds the progress of just its sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from agents.platform.contract import Contract
from agents.platform.deadletters import DeadLetters, Refusable
from agents.platform.eventbus import EventBus
from agents.platform.points import async_point
from agents.platform.producer import Header, Producer
from agents.platform.retry import Backoff, BrokerUnreachable, Transient, retry
from schemas.canonical import Strict, encode
from schemas.chunks import Chunk
from schemas.errors import FormatError, LucidError, UnknownVersion
from schemas.manifests import Manifest, checkpoint_of
from schemas.notes import Signer
from schemas.progress import SessionProgress, read_progress
from schemas.stored import ChunkRecord, ManifestRecord

log = structlog.get_logger(__name__)

READ_SECONDS = 10.0  # without an answer, then the broker counts as away


class Outlet:
    """Publishes chunks, manifests, progress, events and dead letters of one processor.

    Trouble that passes is waited out, so that a broker's restart costs nothing but time.
    """

    def __init__(
        self,
        producer: Producer,
        letters: DeadLetters,
        events: EventBus,
        contract: Contract,
        kafka: Mapping[str, Any],
        signer: Signer,
    ) -> None:
        self._producer = producer
        self._letters = letters
        self._events = events
        self._kafka = dict(kafka)
        self._signer = signer
        self._chunks = contract.topic("session.chunks").full_name
        self._manifests = contract.topic("session.manifests").full_name
        self._progress = contract.topic("session.progress").full_name
        self._stop = asyncio.Event()

    def close(self) -> None:
        """Wait out no more trouble."""
        self._stop.set()

    async def publish_chunk(self, progress: SessionProgress, chunk: Chunk) -> None:
        """Send a chunk; returns when the broker holds it."""
        record = ChunkRecord(chunk, progress.opened.wrapped_key)
        await self._send(self._chunks, progress.partition, *record.to_kafka())
        await async_point("processor.chunk-sent")

    async def publish_manifest(self, progress: SessionProgress, manifest: Manifest) -> None:
        """Sign and send a manifest."""
        data = encode(manifest)
        checkpoint = self._signer.sign(checkpoint_of(manifest, data).to_text())
        record = ManifestRecord(data, checkpoint, progress.opened.wrapped_key)
        await self._send(self._manifests, progress.partition, *record.to_kafka(manifest.session))
        await async_point("processor.manifest-sent")

    async def publish_progress(self, progress: SessionProgress) -> None:
        """Send a session's progress."""
        await async_point("processor.before-progress")
        key = progress.opened.session.encode()
        await self._send(self._progress, progress.partition, key, [], encode(progress))
        await async_point("processor.progress-sent")

    async def forget(self, progress: SessionProgress) -> None:
        """Send the tombstone of a session of which nothing will be read again."""
        key = progress.opened.session.encode()
        await self._send(self._progress, progress.partition, key, [], None)

    async def tell(self, data: Strict, subject: str) -> None:
        """Send an event."""
        await self._events.emit(data, subject)

    async def refuse(self, raw: Refusable, error: LucidError) -> None:
        """Put a record aside as a dead letter."""

        def note(trouble: Transient, pause: float) -> None:
            log.warning("sending a dead letter again", topic=raw.topic, partition=raw.partition,
                        offset=raw.offset, pause=round(pause, 2), error=str(trouble))  # fmt: skip

        await retry(
            lambda: self._letters.refuse(raw, error), backoff=Backoff(most=5.0), stop=self._stop,
            on_retry=note,
        )  # fmt: skip

    async def _send(
        self,
        topic: str,
        partition: int,
        key: bytes,
        headers: list[tuple[str, bytes]],
        value: bytes | None,
    ) -> None:
        wide: list[Header] = list(headers)

        async def attempt() -> RecordMetadata:
            return await self._producer.send(
                topic, value, key=key, headers=wide, partition=partition
            )

        def note(error: Transient, pause: float) -> None:
            log.warning("sending again", topic=topic, partition=partition, pause=round(pause, 2),
                        error=str(error))  # fmt: skip

        await retry(attempt, backoff=Backoff(most=5.0), stop=self._stop, on_retry=note)

    async def read_progress(self, partition: int) -> list[SessionProgress]:
        """The progress of all sessions of a partition, from the compacted topic.

        Of several records of a session the furthest counts, and nothing after a tombstone:
        a member that lost the partition may still have written an older one behind it.
        What is no progress record becomes a dead letter; raises UnknownVersion for a later one,
        and BrokerUnreachable when the broker says nothing for 10 s.
        """
        found: dict[bytes, SessionProgress | None] = {}
        place = TopicPartition(self._progress, partition)
        consumer = AIOKafkaConsumer(
            **self._kafka, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        try:
            async with asyncio.timeout(READ_SECONDS) as patience:
                await consumer.start()
                consumer.assign([place])
                end = (await consumer.end_offsets([place]))[place]
                await consumer.seek_to_beginning(place)
                while await consumer.position(place) < end:
                    batches = await consumer.getmany(place, timeout_ms=200)
                    for raw in batches.get(place, []):
                        await self._merge_or_refuse(found, raw)
                    if batches:
                        patience.reschedule(asyncio.get_running_loop().time() + READ_SECONDS)
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnreachable(
                f"the progress of partition {partition} cannot be read ({error!r})"
            ) from error
        finally:
            await consumer.stop()
        return [progress for progress in found.values() if progress is not None]

    async def _merge_or_refuse(
        self, found: dict[bytes, SessionProgress | None], raw: ConsumerRecord[bytes, bytes]
    ) -> None:
        try:
            self._merge(found, raw.key or b"", raw.value)
        except UnknownVersion:
            raise
        except FormatError as error:
            await self.refuse(raw, error)

    @staticmethod
    def _merge(found: dict[bytes, SessionProgress | None], key: bytes, value: bytes | None) -> None:
        if value is None:
            found[key] = None
            return
        progress = read_progress(value)
        held = found.get(key)
        if key in found and (held is None or held.next_index > progress.next_index):
            return
        found[key] = progress
