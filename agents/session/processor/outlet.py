"""Where a processor's results go, each with its acknowledgement, and where progress is read.

All records of a session go to the partition number that its frame records are on, so a
member that takes a partition over finds the progress of just its sessions.
"""

from __future__ import annotations

import asyncio

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import RecordMetadata

from agents.platform.contract import Contract
from agents.platform.deadletters import DeadLetters, Refusable
from agents.platform.points import async_point
from agents.platform.producer import Header, Producer
from agents.platform.retry import Backoff, Transient, retry
from schemas.canonical import encode
from schemas.chunks import Chunk
from schemas.errors import FormatError, LucidError
from schemas.manifests import Manifest, checkpoint_of
from schemas.notes import Signer
from schemas.progress import SessionProgress, read_progress
from schemas.stored import ChunkRecord, ManifestRecord

log = structlog.get_logger(__name__)


class Outlet:
    """Publishes chunks, manifests, progress and dead letters of one processor.

    Trouble that passes is waited out, so that a broker's restart costs nothing but time.
    """

    def __init__(
        self,
        producer: Producer,
        letters: DeadLetters,
        contract: Contract,
        servers: str,
        signer: Signer,
    ) -> None:
        self._producer = producer
        self._letters = letters
        self._servers = servers
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
        checkpoint = self._signer.sign(checkpoint_of(manifest).to_text())
        record = ManifestRecord(encode(manifest), checkpoint, progress.opened.wrapped_key)
        await self._send(self._manifests, progress.partition, *record.to_kafka())
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

    async def refuse(self, raw: Refusable, error: LucidError) -> None:
        """Put a record aside as a dead letter."""
        await retry(lambda: self._letters.refuse(raw, error), stop=self._stop)

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
        """
        found: dict[bytes, SessionProgress | None] = {}
        place = TopicPartition(self._progress, partition)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            consumer.assign([place])
            end = (await consumer.end_offsets([place]))[place]
            await consumer.seek_to_beginning(place)
            while await consumer.position(place) < end:
                batches = await consumer.getmany(place, timeout_ms=200)
                for raw in batches.get(place, []):
                    self._merge(found, raw.key or b"", raw.value)
        finally:
            await consumer.stop()
        return [progress for progress in found.values() if progress is not None]

    @staticmethod
    def _merge(found: dict[bytes, SessionProgress | None], key: bytes, value: bytes | None) -> None:
        if value is None:
            found[key] = None
            return
        try:
            progress = read_progress(value)
        except FormatError as error:
            log.error("progress cannot be read", key=key[:64].decode(errors="replace"),
                      code=error.code, error=str(error))  # fmt: skip
            return
        held = found.get(key)
        if key in found and (held is None or held.next_index > progress.next_index):
            return
        found[key] = progress
