"""One session's records from its spool to its partition: in order, however long it takes.

The order is: 1 on disk, 2 sent, 3 acknowledged, 4 released from the spool. After any failure
everything that is not acknowledged is sent again, over a connection of its own; what the
broker then holds twice is dropped by its sequence number.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from agents.platform.points import async_point
from agents.platform.producer import Header, Producer, Sending
from agents.platform.retry import Backoff, Transient
from agents.session.recorder.signals import Changed
from agents.session.recorder.spool import Spool
from schemas.errors import LucidError
from schemas.frames import FrameRecord, to_kafka

log = structlog.get_logger(__name__)

READ_BYTES = 1024**2
SLOW_SECONDS = 3.0  # without an acknowledgement: the broker is in trouble


class Publisher:
    """Syncs and sends a spool, as long as `run` runs.

    limit: bytes on their way to the broker. sync_every: seconds between syncs, at least.
    offset: of the session's first record, None while it is not known. trouble: why nothing
    is acknowledged now. error: what no other try will mend; `run` has ended with it.
    """

    def __init__(
        self, producer: Producer, topic: str, partition: int, spool: Spool, *, limit: int,
        sync_every: float,
    ) -> None:  # fmt: skip
        self._producer = producer
        self._topic = topic
        self._spool = spool
        self._limit = limit
        self._sync_every = sync_every
        self._backoff = Backoff(most=5.0)
        self.partition = partition
        self.changed = Changed()
        self.unacknowledged = 0
        self.offset: int | None = None
        self.trouble: Transient | None = None
        self.error: LucidError | None = None

    async def run(self) -> None:
        """Until it is cancelled, or until `error`."""
        tasks = [asyncio.create_task(self._sync()), asyncio.create_task(self._send())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LucidError as error:
            log.error("records stay in the spool", session=str(self._spool.session), error=error)
            self.error = error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.changed.tell()

    async def delivered(self, seq: int) -> None:
        """Wait until the broker holds everything before `seq`; raises `error`."""
        await self.changed.until(lambda: self._spool.first_seq >= seq or self.error is not None)
        self.check()

    def check(self) -> None:
        """Raise the error that ended this publisher."""
        if self.error is not None:
            raise self.error

    # -- 1 on disk ---------------------------------------------------------------------------

    async def _sync(self) -> None:
        spool = self._spool
        while True:
            await self.changed.until(lambda: spool.synced_seq < spool.next_seq)
            await asyncio.to_thread(spool.sync)
            await async_point("recorder.synced")
            self.changed.tell()
            await asyncio.sleep(self._sync_every)

    # -- 2 sent ------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            try:
                await self._send_over(await self._producer.epoch())
            except Transient as error:
                self.trouble = error
                self.changed.tell()
                pause = self._backoff.next(error.retry_after)
                log.warning("sending again", session=str(self._spool.session),
                            from_seq=self._spool.first_seq, pause=round(pause, 2),
                            error=str(error))  # fmt: skip
                await asyncio.sleep(pause)

    async def _send_over(self, epoch: int) -> None:
        """Send from the first record that is not released on, until something fails."""
        sent: asyncio.Queue[tuple[int, Sending]] = asyncio.Queue()
        self.unacknowledged, seq = 0, self._spool.first_seq
        acknowledging = asyncio.create_task(self._acknowledge(sent))
        acknowledging.add_done_callback(lambda _: self.changed.tell())
        try:
            while True:
                await self.changed.until(partial(self._may_go_on, acknowledging, seq))
                if acknowledging.done():
                    return acknowledging.result()
                for record in await asyncio.to_thread(self._spool.read, seq, READ_BYTES):
                    sending = await self._submit(record, epoch)
                    self.unacknowledged += sending.size
                    sent.put_nowait((record.seq, sending))
                    seq = record.seq + 1
                await async_point("recorder.sent")
        finally:
            acknowledging.cancel()
            await asyncio.gather(acknowledging, return_exceptions=True)

    def _may_go_on(self, acknowledging: asyncio.Task[None], seq: int) -> bool:
        """There is a record to send and room for it, or a failure."""
        room = self.unacknowledged < self._limit
        return acknowledging.done() or (seq < self._spool.synced_seq and room)

    async def _submit(self, record: FrameRecord, epoch: int) -> Sending:
        key, headers, value = to_kafka(record)
        wide: list[Header] = list(headers)
        return await self._producer.submit(
            self._topic, value, key=key, headers=wide, partition=self.partition,
            timestamp_ms=record.time // 1000, epoch=epoch,
        )  # fmt: skip

    # -- 3 acknowledged, 4 released ------------------------------------------------------------

    async def _acknowledge(self, sent: asyncio.Queue[tuple[int, Sending]]) -> None:
        while True:
            seq, sending = await sent.get()
            while not (await asyncio.wait([sending.future], timeout=SLOW_SECONDS))[0]:
                self.trouble = Transient(f"no record was acknowledged for {SLOW_SECONDS:g} s")
                self.changed.tell()
            metadata = await self._producer.acknowledged(sending)
            await async_point("recorder.acknowledged")
            if seq == 0 and metadata.offset >= 0:
                self.offset = metadata.offset
            self._spool.release(seq + 1)
            self.unacknowledged -= sending.size
            self.trouble = None
            self._backoff.reset()
            self.changed.tell()
