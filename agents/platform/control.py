"""The control plane: events one by one, in order, each acked after its effect.

    control = ControlPlane(settings, "pipeline", letters=letters, metrics=metrics)
    control.consume("session.events", parse, handle)
        parse(record) -> model          raises FormatError: the record becomes a dead letter
        await handle(model, record)     Transient: again, later; Permanent: a dead letter
    control.consume_many("audit.events", handle)
        await handle(records) -> {offset: error}    those are dead letters
    service.health.add("control", control.healthy)
    yield [control]                     a part of a service: control.run(stop)

Each partition is a lane of its own: its records are handled one after the other, in offset
order; a record that is tried again and again holds up its own lane. A record is finished
when its effect, or its dead letter, is on stable storage. Offsets are committed over the
finished prefix only, in the generation that read them. Any other error of `handle` is a
bug: nothing is acked, the plane stops with that error, and the record comes again.
`handle` must be idempotent, for the records of the last second may come twice.

LucidError
├── SkippedRecords    records are on the broker that Faust did not hand over
├── ControlCrashed    Faust stopped by itself
├── TooManyLetters    the plane stops at a record that may not be refused any more
└── Permanent, Transient, FormatError    what parse and handle may raise
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from faust.types import TP, EventT

from agents.platform.broker import BrokerProbe
from agents.platform.deadletters import DeadLetters
from agents.platform.expiry import Expired
from agents.platform.faust_app import create_app
from agents.platform.gaps import missed_before
from agents.platform.lanes import (
    Item,
    Lane,
    Model,
    Record,
    Route,
    context_of,
    one_by_one,
    record_of,
)
from agents.platform.logging import bound
from agents.platform.metrics import Metrics
from agents.platform.retry import Backoff, Transient, retry, within
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from schemas.errors import LucidError

__all__ = ["ControlPlane", "Record"]

log = structlog.get_logger(__name__)

HELD_BYTES = 32 * 1024**2
REVOKE_SECONDS = 5.0  # for the record that runs; well under the rebalance timeout of 60 s
STOP_RESERVE = 5.0  # seconds of a stop that the last commit and leaving the group get
COMMIT_SECONDS = 2.0
LEAVE_SECONDS = 5.0
LOG_START_EVERY = 15.0  # seconds between looks at where the broker's logs begin


class SkippedRecords(LucidError):
    """Records between two that were handed over are on the broker, but did not come."""


class ControlCrashed(LucidError):
    """Faust stopped by itself."""


class ControlPlane:
    """The event topics of one service: a part of it."""

    name = "control"

    def __init__(
        self,
        settings: Settings,
        service: str,
        *,
        letters: DeadLetters,
        metrics: Metrics,
        group: str = "",
        backoff: Callable[[], Backoff] = Backoff,
        expired: Callable[[Expired], Awaitable[None]] | None = None,
    ) -> None:
        self._expired = expired
        self._settings = settings
        self._letters = letters
        self._metrics = metrics
        self._backoff = backoff
        self._routes: list[Route] = []
        self._lanes: dict[TP, Lane] = {}
        self._held = 0
        self._room = asyncio.Event()
        self._failed: asyncio.Future[None] | None = None
        self.app = create_app(settings, group or settings.topic_prefix + service, self)

    def consume(
        self,
        topic: str,
        parse: Callable[[Record], Model],
        handle: Callable[[Model, Record], Awaitable[None]],
    ) -> None:
        """Hand the records of a topic, by its name on the broker, to `handle`."""
        self._consume(Route(topic, one_by_one(parse, handle)))

    def consume_many(
        self,
        topic: str,
        handle: Callable[[Sequence[Record]], Awaitable[Mapping[int, LucidError]]],
        most: int = 500,
        gather: float = 0.0,
    ) -> None:
        """Hand the records of a topic to `handle`, up to `most` of a partition at a time.

        What it returns, an error by offset, becomes a dead letter. It raises Transient. gather:
        seconds for which the first of them waits for others, where a call costs more than a record.
        """
        self._consume(Route(topic, handle, most, gather))

    def _consume(self, route: Route) -> None:
        topic = route.topic
        self._routes.append(route)
        channel = self.app.topic(
            topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )

        async def take_all(stream: Any) -> None:
            events: AsyncIterator[EventT[bytes]] = stream.noack().events()
            async for event in events:
                try:
                    await self._take(event, stream, route)
                except Exception as error:
                    self._fail(error)
                    raise

        self.app.agent(channel, name=f"{self.app.conf.id}.{topic}", concurrency=1)(take_all)

    # -- the part --------------------------------------------------------------------------

    async def run(self, stop: StopSignal, /) -> None:
        """Work until `stop` is set; raises what stopped it otherwise."""
        async with BrokerProbe(self._settings) as probe:
            await probe.require(route.topic for route in self._routes)
        self._failed = asyncio.get_running_loop().create_future()
        stopped = asyncio.create_task(stop.wait())
        waiting: list[asyncio.Future[Any]] = [
            stopped, asyncio.create_task(self.app._crashed.wait())
        ]  # fmt: skip
        try:
            await self._start_app(stopped)
            waiting.append(asyncio.create_task(self._look_at_log_starts()))
            await asyncio.wait([*waiting, self._failed], return_when=asyncio.FIRST_COMPLETED)
            seconds = stop.deadline.remaining() - STOP_RESERVE
            await self._leave(list(self._lanes), min(seconds, REVOKE_SECONDS))
        finally:
            for future in waiting:
                future.cancel()
            await self._stop_app(stop)
        if self._failed.done():
            self._failed.result()
        if not stop.is_set():
            reason = self.app.crash_reason
            raise ControlCrashed(f"Faust stopped by itself: {reason!r}") from reason

    async def _start_app(self, stopped: asyncio.Future[Any]) -> None:
        """Start Faust, unless the stop comes first: a broker that is away holds it up."""
        starting = asyncio.create_task(self.app.start())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        else:
            starting.cancel()

    async def _stop_app(self, stop: StopSignal) -> None:
        """Commit and leave the group, as far as the broker answers in time.

        What could not be committed is read again, and handled once more.
        """
        try:
            if not await within(COMMIT_SECONDS, self.app.last_commit()):
                log.warning("the last commit got no answer")
        except (ConsumerNotStarted, RuntimeError) as error:
            log.warning("the last commit failed", error=error)  # Faust's thread is not there
        finally:
            if not await within(min(stop.deadline.remaining(), LEAVE_SECONDS), self.app.stop()):
                log.warning("Faust does not stop, leaving it behind")
            self.revoked(set(self._lanes))

    async def healthy(self) -> None:
        """Raise ControlCrashed unless the plane works."""
        failed = self._failed
        if failed is None or failed.done() or self.app.crashed or self.app.should_stop:
            raise ControlCrashed("the control plane does not run")

    def _fail(self, error: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    # -- from Faust to the lanes -----------------------------------------------------------

    async def _take(self, event: EventT[bytes], stream: Any, route: Route) -> None:
        message = event.message
        tp, generation = message.tp, message.generation_id
        lane = self._lanes.get(tp)
        if generation != self.app.generation:
            return
        if lane is None or lane.generation != generation:
            lane = await self._new_lane(tp, generation)
        if lane.closing.is_set() or message.offset < lane.next_offset:
            return  # being revoked, or handed over a second time after a seek
        if message.offset > lane.next_offset:
            await self._explain_gap(lane, message.offset)
        record = record_of(message)
        await self._wait_for_room(record.size)
        if lane.closing.is_set():
            return
        lane.next_offset = message.offset + 1
        lane.tracker.add(message.offset)
        lane.events[message.offset] = event
        self._hold(record.size)
        lane.queue.put_nowait(Item(event, stream, record, route))

    async def _new_lane(self, tp: TP, generation: int) -> Lane:
        """Begin where the group's commit is: an earlier record may not be missing."""
        if tp in self._lanes:
            self.revoked({tp})
        consumer: Any = self.app.consumer
        start = consumer._committed_offset.get(tp)
        if start is None:
            start = (await consumer.earliest_offsets(tp))[tp]
        lane = Lane(tp, generation, start)
        lane.task = asyncio.create_task(self._work(lane), name=f"lane {tp.topic}-{tp.partition}")
        self._lanes[tp] = lane
        return lane

    async def _explain_gap(self, lane: Lane, offset: int) -> None:
        """A gap in the offsets is nothing unless records expired there, or did not come."""
        begin, missed = await retry(
            lambda: missed_before(self._settings, lane.tp, lane.next_offset, offset),
            stop=lane.closing,
        )
        if begin > lane.next_offset:
            await self._report(lane, min(begin, offset))
        if missed is not None:
            raise SkippedRecords(
                f"record {missed} of {lane.tp.topic}-{lane.tp.partition} was not handed over",
                hint="Start the service again: it goes on behind its last commit",
            )

    async def _report(self, lane: Lane, next_offset: int) -> None:
        """Report records that retention took, then go on behind them."""
        lost = Expired(lane.tp.topic, lane.tp.partition, lane.next_offset, next_offset)
        log.error("records expired before they were read", topic=lost.topic,
                  partition=lost.partition, first=lost.first, next=lost.next_offset)  # fmt: skip
        self._metrics.expired(lost.topic, lost.partition, lost.count)
        if self._expired is not None:
            await self._expired(lost)
        lane.next_offset = max(lane.next_offset, next_offset)
        lane.tracker.jump(next_offset)

    async def _look_at_log_starts(self) -> None:
        """Find what expired where no record comes any more that would show the gap."""
        while True:
            await asyncio.sleep(LOG_START_EVERY)
            try:
                await self._compare_log_starts()
            except (KafkaError, Transient, TimeoutError, ConsumerNotStarted) as error:
                log.warning("cannot see where topics begin", error=repr(error))

    async def _compare_log_starts(self) -> None:
        consumer: Any = self.app.consumer
        places = set(consumer.assignment())
        async with asyncio.timeout(COMMIT_SECONDS):
            begins = await consumer.earliest_offsets(*places) if places else {}
        for tp, begin in begins.items():
            generation = self.app.generation
            lane = self._lanes.get(tp)
            if tp not in consumer.assignment() or consumer._committed_offset.get(tp) is None:
                continue
            if lane is None or lane.generation != generation:
                lane = await self._new_lane(tp, generation)
            if begin > lane.next_offset:
                await self._report(lane, begin)
            position = lane.tracker.position()
            self._metrics.log_start(
                tp.topic, tp.partition, begin, lane.next_offset if position is None else position
            )

    async def _wait_for_room(self, size: int) -> None:
        while self._held and self._held + size > HELD_BYTES:
            self._room.clear()
            await self._room.wait()

    def _hold(self, size: int) -> None:
        self._held += size
        self._metrics.held(self._held)
        if size < 0:
            self._room.set()

    # -- in a lane -------------------------------------------------------------------------

    async def _work(self, lane: Lane) -> None:
        closing = asyncio.create_task(lane.closing.wait())
        try:
            while not lane.closing.is_set():
                getting = asyncio.create_task(lane.queue.get())
                await asyncio.wait([getting, closing], return_when=asyncio.FIRST_COMPLETED)
                if lane.closing.is_set():
                    getting.cancel()
                    return
                first = getting.result()
                if lane.queue.qsize() < first.route.most and first.route.gather:
                    await asyncio.wait([closing], timeout=first.route.gather)
                    if lane.closing.is_set():
                        return
                await self._finish(lane, lane.rest(first))
        except Transient as error:
            # Only when the lane closes: the next owner tries again.
            log.info("left for the next owner", error=error)
        except Exception as error:  # noqa: BLE001 - handed on to run()
            self._fail(error)
        finally:
            closing.cancel()

    async def _finish(self, lane: Lane, items: Sequence[Item]) -> None:
        """The order: 1 effect or dead letter, 2 finished, 3 ack. Never in a `finally`."""
        route, records = items[0].route, [item.record for item in items]
        first = records[0]
        with bound(**context_of(first)), self._metrics.handling(first.topic):
            await retry(
                lambda: self._effect(route, records),
                backoff=self._backoff(),
                stop=lane.closing,
                on_retry=lambda error, pause: self._retrying(first, error, pause),
            )
        for item in items:
            lane.tracker.done(item.record.offset)
            del lane.events[item.record.offset]
            self._hold(-item.record.size)
            self._metrics.took(item.record.topic, item.record.size)
            if self._lanes.get(lane.tp) is lane:
                await item.stream.ack(item.event)

    async def _effect(self, route: Route, records: Sequence[Record]) -> None:
        refused = await route.handle(records)
        for record in records:
            if record.offset in refused:
                await self._letters.refuse(record, refused[record.offset])

    def _retrying(self, record: Record, error: Transient, pause: float) -> None:
        self._metrics.retried(record.topic, error.code)
        log.warning("trying again", error=error, seconds=round(pause, 3))

    # -- Positions, for Faust's consumer -----------------------------------------------------

    def owned(self) -> Iterable[TP]:
        return list(self._lanes)

    def position(self, tp: TP) -> int | None:
        lane = self._lanes.get(tp)
        if lane is None or lane.generation != self.app.generation:
            return None
        return lane.tracker.position()

    async def revoking(self, revoked: set[TP]) -> None:
        await self._leave(revoked, REVOKE_SECONDS)

    async def _leave(self, partitions: Iterable[TP], seconds: float) -> None:
        lanes = [self._lanes[tp] for tp in partitions if tp in self._lanes]
        await asyncio.gather(*(lane.leave(seconds) for lane in lanes))

    def revoked(self, revoked: set[TP]) -> None:
        for tp in revoked & set(self._lanes):
            lane = self._lanes.pop(tp)
            lane.closing.set()
            if lane.task is not None:
                lane.task.cancel()
            held = [record_of(event.message).size for event in lane.events.values()]
            self._hold(-sum(held))
            lane.events.clear()
            self._metrics.revoked(tp.topic, tp.partition)

    def committed(self, offsets: Mapping[TP, int]) -> None:
        for tp, offset in offsets.items():
            end = None
            with contextlib.suppress(Exception):
                end = self.app.consumer.highwater(tp)
            self._metrics.committed(tp.topic, tp.partition, offset, end)
