"""Follows `session.events`: keeps the index up to date, and hands events to live streams.

    follower = Follower(settings, contract, catalog, index)
    yield [follower]                         a part of the service: follower.run(stop)
    with follower.subscribe(limit) as feed:  what comes from now on

Every API process follows all partitions, without a group. An event makes a session *dirty*:
its document is read again, soon and then at growing intervals, until the pipeline has
committed the event, so that the document surely has it. The view's place is looked at, too:
a rebuilt view is loaded anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from agents.platform.catalog import Catalog
from agents.platform.contract import Contract
from agents.platform.hearing import Commits
from agents.platform.listening import assigned
from agents.platform.retry import Backoff, Transient, retry, wait_stopped
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.session.api.index import SessionIndex
from schemas.errors import FormatError
from schemas.events import RecordsExpired, SessionEvent, event_from_kafka
from schemas.sessions import InvalidSessionId, parse_session_id

log = structlog.get_logger(__name__)

RING_EVENTS = 20_000
FIRST_LOOK = 0.05  # seconds after an event; the pipeline needs some milliseconds
LONGEST_WAIT = 5.0
COMMITS_EVERY = 1.0
LOOK_AT_VIEW_EVERY = 5.0
AT_ONCE = 16
POLL_MS = 250
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Placed:
    """An event and its place on the topic."""

    partition: int
    offset: int
    event: SessionEvent


@dataclass(slots=True)
class _Dirty:
    """A session whose document may not have an event yet; due: on the monotonic clock."""

    partition: int
    offset: int
    due: float
    pause: float = FIRST_LOOK


class Overrun(Exception):
    """A reader is too far behind; it goes on from the last event that it has."""


@dataclass(slots=True, eq=False)
class Feed:
    """What one stream has not read yet, at most `limit` events."""

    limit: int
    waiting: deque[Placed] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    overrun: bool = False

    def put(self, placed: Placed) -> None:
        # Behind the first event that is left out nothing may follow.
        if self.overrun or len(self.waiting) >= self.limit:
            self.overrun = True
        else:
            self.waiting.append(placed)
        self.changed.set()

    async def next(self) -> Placed:
        """The next event; raises Overrun behind the last one that was kept."""
        while not self.waiting:
            if self.overrun:
                raise Overrun
            self.changed.clear()
            await self.changed.wait()
        return self.waiting.popleft()


class Follower:
    """The index's and the streams' source of news."""

    name = "follower"

    def __init__(
        self, settings: Settings, contract: Contract, catalog: Catalog, index: SessionIndex
    ) -> None:
        self._settings, self._catalog, self.index = settings, catalog, index
        topic = contract.topic("session.events")
        self.topic = topic.full_name
        self._places = [TopicPartition(self.topic, number) for number in range(topic.partitions)]
        self._commits = Commits(settings, group=f"{settings.topic_prefix}pipeline", topic=topic)
        self._dirty: dict[str, _Dirty] = {}
        self._feeds: set[Feed] = set()
        self._ring: deque[Placed] = deque()
        self._held_from: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._committed_at = 0.0
        self._view = ""
        self._loaded = False
        self._troubles: dict[str, Transient] = {}

    # -- what others ask ---------------------------------------------------------------------

    async def healthy(self) -> None:
        """Raise the trouble that keeps the index from the news."""
        if not self._loaded:
            raise Transient("the sessions are being loaded")
        for trouble in self._troubles.values():
            raise trouble

    @property
    def loaded(self) -> bool:
        return self._loaded

    @property
    def positions(self) -> dict[int, int]:
        """Of each partition the offset that comes next."""
        return dict(self._next)

    def since(self, positions: Mapping[int, int]) -> list[Placed] | None:
        """The events from `positions` on; None when some are no longer in memory."""
        if any(positions.get(part, 0) < first for part, first in self._held_from.items()):
            return None
        return [one for one in self._ring if one.offset >= positions.get(one.partition, 0)]

    @contextlib.contextmanager
    def subscribe(self, limit: int) -> Iterator[Feed]:
        """A feed of what comes from now on."""
        feed = Feed(limit)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)

    # -- the part ----------------------------------------------------------------------------

    async def run(self, stop: StopSignal, /) -> None:
        """Follow until `stop` is set."""
        tasks = [
            asyncio.create_task(self._follow(stop)), asyncio.create_task(self._refresh(stop)),
        ]  # fmt: skip
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._commits.close()

    async def _follow(self, stop: StopSignal) -> None:
        """Read the topic from its end on, behind what is loaded from the catalog afterwards."""
        while not stop.is_set():
            with contextlib.suppress(Transient):  # only when the service stops
                await retry(
                    lambda: self._follow_once(stop), backoff=Backoff(most=5.0), stop=stop,
                    on_retry=lambda error, _: self._note("topic", error),
                )  # fmt: skip

    async def _follow_once(self, stop: StopSignal) -> None:
        async with assigned(
            self._settings, self._places, reset="latest", poll_ms=POLL_MS
        ) as consumer:
            await self._position(consumer)
            self._troubles.pop("topic", None)
            while not stop.is_set():
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                for records in batches.values():
                    for raw in records:
                        self._take(raw)

    async def _position(self, consumer: AIOKafkaConsumer) -> None:
        """Go on where the last connection ended; the first one begins at the end."""
        async with asyncio.timeout(ANSWER_SECONDS):
            ends = await consumer.end_offsets(self._places)
            begins = await consumer.beginning_offsets(self._places)
        for place in self._places:
            wanted = self._next.get(place.partition, ends[place])
            start = min(max(wanted, begins[place]), ends[place])
            if start != wanted:
                self._loaded = False  # events were missed: what they changed is read anew
            if start != self._next.get(place.partition):
                self._held_from[place.partition] = start
            self._next[place.partition] = start
            consumer.seek(place, start)

    def _take(self, raw: ConsumerRecord[bytes, bytes]) -> None:
        self._next[raw.partition] = raw.offset + 1
        try:
            event = event_from_kafka(raw.key, raw.headers, raw.value)
        except FormatError:
            return  # a dead letter of the pipeline's
        placed = Placed(raw.partition, raw.offset, event)
        self._ring.append(placed)
        if len(self._ring) > RING_EVENTS:
            oldest = self._ring.popleft()
            self._held_from[oldest.partition] = oldest.offset + 1
        for feed in self._feeds:
            feed.put(placed)
        self._mark(placed)

    def _mark(self, placed: Placed) -> None:
        if isinstance(placed.event.data, RecordsExpired) and placed.event.data.session is None:
            self._loaded = False  # it may concern any session of the partition
            return
        try:
            session = str(parse_session_id(placed.event.subject))
        except InvalidSessionId:
            return
        self._dirty[session] = _Dirty(
            placed.partition, placed.offset, time.monotonic() + FIRST_LOOK
        )

    # -- the index ---------------------------------------------------------------------------

    async def _refresh(self, stop: StopSignal) -> None:
        next_look = 0.0
        while not await wait_stopped(stop, FIRST_LOOK):
            try:
                if not self._loaded or time.monotonic() >= next_look:
                    await self._look_at_view()
                    next_look = time.monotonic() + LOOK_AT_VIEW_EVERY
                await self._read_dirty()
                self._troubles.pop("catalog", None)
            except Transient as error:
                self._note("catalog", error)
                await wait_stopped(stop, 1.0)

    async def _look_at_view(self) -> None:
        """Load everything if that was never done, or the view has another place now."""
        if not self._next:
            return  # events from before the first position would be missed
        place = await self._catalog.where("sessions")
        if self._loaded and place == self._view:
            return
        self._loaded = True  # unset again by what comes meanwhile
        started = time.monotonic()
        try:
            documents = [document async for document in self._catalog.scan("sessions")]
        except BaseException:
            self._loaded = False
            raise
        self.index.replace(documents)
        self._view = place
        log.info("sessions loaded", sessions=len(documents), collection=place,
                 seconds=round(time.monotonic() - started, 3))  # fmt: skip

    async def _read_dirty(self) -> None:
        now = time.monotonic()
        due = [session for session, dirty in self._dirty.items() if dirty.due <= now][:AT_ONCE]
        if not due:
            return
        await self._ask_for_commits()
        marks = {session: self._dirty[session] for session in due}
        found = await asyncio.gather(*(self._catalog.get("sessions", key) for key in due))
        self.index.put([document for document in found if document is not None])
        for session, mark in marks.items():
            if self._dirty.get(session) is not mark:
                continue  # news meanwhile
            if mark.offset < self._committed.get(mark.partition, 0):
                del self._dirty[session]
            else:
                mark.pause = min(mark.pause * 2, LONGEST_WAIT)
                mark.due = time.monotonic() + mark.pause

    async def _ask_for_commits(self) -> None:
        """How far the pipeline has come, asked before its documents are read."""
        if time.monotonic() - self._committed_at >= COMMITS_EVERY:
            self._committed = await self._commits.offsets()
            self._committed_at = time.monotonic()

    def _note(self, what: str, error: Transient) -> None:
        self._troubles[what] = error
        log.warning("cannot follow the sessions now", what=what, error=error)
