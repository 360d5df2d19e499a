"""A session's log on this host: numbered, chained, on disk, on its way, announced.

track = await asyncio.to_thread(Track.begin, info, capture, order, outlet)
track.start()                          or Track.again(leftover, order, outlet)
await track.opened()                   the broker holds the `open` record
await track.frame(payload, time_us)    waits, or raises SpoolFull, when the spool is full
await track.put(lambda made: made.keepalive(now()))
await track.delivered()                the broker holds every record and event
await track.remove()                   or await track.leave(), which keeps the spool
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

import structlog

from agents.platform.broker import unreachable
from agents.platform.points import async_point
from agents.platform.retry import wait_stopped
from agents.session.recorder.announcer import Announcer
from agents.session.recorder.leftover import Leftover, held_by_broker
from agents.session.recorder.order import Order, Outlet
from agents.session.recorder.publisher import Publisher
from agents.session.recorder.sequencer import Sequencer
from agents.session.recorder.sources.base import SourceInfo, now
from agents.session.recorder.sources.capture import Capture
from agents.session.recorder.spool import Spool, SpoolHead
from agents.session.recorder.spool_blocks import Spooled
from agents.session.recorder.spool_folder import SpoolFull
from schemas.canonical import Strict
from schemas.controls import Open
from schemas.datakey import derive, new_data_key, wrap
from schemas.errors import LucidError
from schemas.events import SessionOpened
from schemas.frames import FrameRecord, Kind
from schemas.manifests import wrapped_key_text
from schemas.sessions import new_session_id

log = structlog.get_logger(__name__)

OPEN_SECONDS = 30.0  # for the broker to take the `open` record
FULL_SECONDS = 1.0  # between tries on a disk that is full
Make = Callable[[Sequencer], FrameRecord]


class Track:
    """One session's records from the recorder's hands to the broker's.

    frames, raw_bytes: the recorder's own count, and the bytes of their payloads.
    """

    def __init__(
        self, spool: Spool, head: SpoolHead, sequencer: Sequencer, order: Order, outlet: Outlet
    ) -> None:
        self.spool, self.head, self.sequencer = spool, head, sequencer
        self.frames = self.raw_bytes = 0
        self.ending = asyncio.Event()
        self._order, self._outlet = order, outlet
        self._turn = asyncio.Lock()
        self._offset = spool.state.offset
        self.publisher = Publisher(
            outlet.producer, outlet.frames, head.partition, spool,
            limit=order.spool.unacknowledged, sync_every=order.spool.sync_every,
        )  # fmt: skip
        self.announcer = Announcer(outlet.events, head.opened.session)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def begin(
        cls, info: SourceInfo, capture: Capture | None, order: Order, outlet: Outlet
    ) -> Self:
        """A new session with its spool and its `open` record; raises SpoolFull, SpoolFailed."""
        session, data_key = new_session_id(), new_data_key()
        started, chain_key = now(), derive(data_key, session).chain
        opened = Open(
            session=str(session),
            recorder=str(order.signer.verifier),
            key=wrapped_key_text(wrap(data_key, order.recipients)),
            recipients=list(order.recipients),
            codec=info.codec,
            source={"type": info.type, **info.details},
            host=order.host,
            owner=order.owner,
            project=order.project,
            sealing=order.sealing,
        )
        head = SpoolHead(
            opened=opened,
            partition=session.int % outlet.partitions,
            started=started,
            chain_key=chain_key.hex(),
            capture=capture if capture is not None and capture.again else None,
        )
        spool = await asyncio.to_thread(Spool.create, order.spool.folder, head, order.signer)
        track = cls(spool, head, Sequencer(session, chain_key, order.signer), order, outlet)
        try:
            await track.put(lambda made: made.open(opened, started))
        except BaseException:
            spool.remove()
            raise
        return track

    @classmethod
    def again(cls, leftover: Leftover, order: Order, outlet: Outlet) -> Self:
        """The session that a spool was left of."""
        track = cls(leftover.spool, leftover.head, leftover.sequencer, order, outlet)
        track.frames, track.raw_bytes = leftover.frames, leftover.raw_bytes
        track._offset = leftover.offset
        return track

    def start(self) -> None:
        """Begin to deliver records and events."""
        for work in (self.publisher.run(), self.announcer.run()):
            self._tasks.append(asyncio.create_task(work))

    # -- records -----------------------------------------------------------------------------

    async def frame(self, payload: bytes, time_us: int) -> bool:
        """One more payload; whether it had to wait for room.

        Raises SpoolFull when the order says not to wait, or the session ends meanwhile.
        """
        waited = not self._has_room()
        if waited:
            await self._wait_for_room()
        await self.put(lambda made: made.make(Kind.FRAMES, payload, time_us), len(payload))
        return waited

    def _has_room(self) -> bool:
        return self.spool.size <= self._order.spool.limit or not self.spool.waiting

    async def _wait_for_room(self) -> None:
        trouble = self.publisher.trouble
        full = SpoolFull(
            f"the spool is full: {self.spool.size} bytes of session {self.spool.session} wait for "
            "the broker" + (f" ({trouble.what})" if trouble else ""),
            hint="Look at the broker, or raise LUCID_RECORDER_SPOOL_LIMIT",
        )
        if self._order.spool.when_full == "stop":
            raise full
        log.warning("waiting for room in the spool", error=full)
        ending = asyncio.create_task(self.ending.wait())
        try:
            # Keepalives may take the room before a frame does.
            while not self._has_room():
                self.publisher.check()
                if ending.done():
                    raise full
                await self._room_or(ending)
        finally:
            ending.cancel()

    async def _room_or(self, ending: asyncio.Task[bool]) -> None:
        publisher = self.publisher
        room = asyncio.create_task(publisher.changed.until(
            lambda: self._has_room() or publisher.error is not None
        ))  # fmt: skip
        try:
            await asyncio.wait([room, ending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()

    async def put(self, make: Make, raw_bytes: int = -1) -> FrameRecord:
        """Number, chain and spool a record as one step; raises SpoolFull or SpoolFailed.

        raw_bytes: payload of a frame, which is counted. A record that the disk does not take
        leaves its number to the next one.
        """
        # A caller that is cancelled must not leave a record on disk that was not counted.
        return await asyncio.shield(asyncio.create_task(self._put(make, raw_bytes)))

    async def _put(self, make: Make, raw_bytes: int) -> FrameRecord:
        async with self._turn:
            self.publisher.check()
            position = self.sequencer.position
            record = make(self.sequencer)
            counted = (0, 0) if raw_bytes < 0 else (1, raw_bytes)
            frames, total = self.frames + counted[0], self.raw_bytes + counted[1]
            try:
                await self._append(Spooled(record, frames, total))
                await async_point("recorder.appended")
            except BaseException:
                self.sequencer.position = position
                raise
            self.frames, self.raw_bytes = frames, total
        self.publisher.changed.tell()
        return record

    async def _append(self, spooled: Spooled) -> None:
        while True:
            try:
                return await asyncio.to_thread(self.spool.append, spooled)
            except SpoolFull as error:
                if self._order.spool.when_full == "stop" or not self._tasks:
                    raise
                log.warning("waiting for room on disk", error=error)
                if await wait_stopped(self.ending, FULL_SECONDS):
                    raise

    # -- delivery ----------------------------------------------------------------------------

    async def opened(self) -> None:
        """Wait until the broker holds the `open` record, then announce the session.

        Raises BrokerUnreachable after 30 s, or what the broker refuses it with.
        """
        if self._offset is None:
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await self.publisher.delivered(1)
            except TimeoutError:
                trouble = self.publisher.trouble
                raise trouble or unreachable(self._outlet.settings, "no answer") from None
            self._offset = await self._offset_of_open()
            await asyncio.to_thread(self.spool.note, offset=self._offset)
        head = self.head
        self.announcer.put(
            SessionOpened.of(head.opened, head.partition, self._offset, head.started)
        )

    async def _offset_of_open(self) -> int:
        """What the broker acknowledged; if it only said "I have it", where it stands."""
        if self.publisher.offset is not None:
            return self.publisher.offset
        found = await held_by_broker(
            self._outlet, self.spool.session, self.head.partition, self.head.started
        )
        return found.opened or 0

    def announce(self, data: Strict) -> None:
        """Send an event behind all others."""
        self.announcer.put(data)

    async def delivered(self) -> None:
        """Wait until the broker holds everything; raises what it refuses a record with."""
        await self.publisher.delivered(self.sequencer.next_seq)
        await self.announcer.delivered()

    async def stop(self) -> None:
        """Deliver nothing more; the spool is on disk and stays open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def remove(self) -> None:
        """The session is over and delivered."""
        await self.stop()
        await asyncio.to_thread(self.spool.remove)

    async def leave(self) -> None:
        """Leave the rest to the next recorder."""
        await self.stop()
        try:
            await asyncio.to_thread(self.spool.sync)
        except LucidError as error:
            log.error("the newest records may not be on disk", error=error)
        self.spool.close()
