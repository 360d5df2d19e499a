"""One session's records on their way to its partition: in order, and bounded in bytes."""

from __future__ import annotations

import asyncio

from aiokafka.structs import RecordMetadata

from agents.platform.producer import Header, Producer
from schemas.errors import LucidError
from schemas.frames import FrameRecord, to_kafka


class Publisher:
    """Queues records and keeps account of their acknowledgements.

    limit: bytes that may be unacknowledged; `put` waits above it. After an error it is open
    which records the broker holds, so every later call raises it again.
    """

    def __init__(self, producer: Producer, topic: str, partition: int, limit: int) -> None:
        self._producer = producer
        self._topic = topic
        self._limit = limit
        self._waiting: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._error: LucidError | None = None
        self.partition = partition
        self.unacknowledged = 0
        self.offset = -1

    async def put(self, record: FrameRecord) -> None:
        """Queue a record behind all others; waits while too much is unacknowledged."""
        key, headers, value = to_kafka(record)
        await self._room(len(value))
        wide: list[Header] = list(headers)
        future = await self._producer.submit(
            self._topic, value, key=key, headers=wide, partition=self.partition,
            timestamp_ms=record.time // 1000,
        )  # fmt: skip
        self.unacknowledged += len(value)
        task = asyncio.create_task(self._acknowledge(future, len(value)))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _acknowledge(self, future: asyncio.Future[RecordMetadata], size: int) -> None:
        try:
            metadata = await self._producer.acknowledged(future, self._topic, size)
            self.offset = max(self.offset, metadata.offset)
        except LucidError as error:
            self._error = self._error or error
        finally:
            self.unacknowledged -= size
            self._changed.set()

    async def _room(self, size: int) -> None:
        while True:
            self.check()
            if not self.unacknowledged or self.unacknowledged + size <= self._limit:
                return
            self._changed.clear()
            await self._changed.wait()

    async def flush(self) -> None:
        """Wait until the broker holds every record; raises what kept it from that."""
        while self._waiting:
            await asyncio.wait(set(self._waiting))
        self.check()

    def check(self) -> None:
        """Raise the error that ended this publisher."""
        if self._error is not None:
            raise self._error
