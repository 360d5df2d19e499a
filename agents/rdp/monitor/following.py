"""Topics read whole from their beginning, then followed, without a consumer group.

    following = Following(settings, contract, ["xrdp.process.events"], take)
    yield [following]                      a part of the service
    await following.caught_up.wait()       everything that was there at the start is taken

Each host's monitor needs all that is told of its servers, now and before it began, and a
group would share the records among hosts. Nothing is committed: after a restart it is read
again. What cannot be read is counted and passed over, for it is a dead letter already: the
API takes the same topics (rdp_views.py) and refuses it there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.platform.contract import Contract
from agents.platform.listening import Record, assigned
from agents.platform.retry import Backoff, Transient, retry
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from schemas.errors import FormatError

log = structlog.get_logger(__name__)

POLL_MS = 250
ANSWER_SECONDS = 5.0
Take = Callable[[str, Record], None]


class Following:
    """Hands every record of some topics to `take`, with the topic's name in the contract."""

    name = "following"

    def __init__(
        self, settings: Settings, contract: Contract, topics: Sequence[str], take: Take,
        unread: Callable[[str], None] = lambda topic: None,
    ) -> None:  # fmt: skip
        self._settings, self._take, self._unread = settings, take, unread
        found = {name: contract.topic(name) for name in topics}
        self._names: Mapping[str, str] = {one.full_name: name for name, one in found.items()}
        self._places = [
            TopicPartition(one.full_name, number)
            for one in found.values() for number in range(one.partitions)
        ]  # fmt: skip
        self._next: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] | None = None
        self._trouble: Transient | None = None
        self.caught_up = asyncio.Event()

    async def healthy(self) -> None:
        """Raise what keeps the monitor from the news."""
        if self._trouble is not None:
            raise self._trouble
        if not self.caught_up.is_set():
            raise Transient("what is known of the servers is being read")

    async def run(self, stop: StopSignal, /) -> None:
        """Follow until `stop` is set."""
        while not stop.is_set():
            with contextlib.suppress(Transient):  # only when the service stops
                await retry(
                    lambda: self._follow(stop), backoff=Backoff(most=5.0), stop=stop,
                    on_retry=self._note,
                )  # fmt: skip

    async def _follow(self, stop: StopSignal) -> None:
        async with assigned(
            self._settings, self._places, reset="earliest", poll_ms=POLL_MS
        ) as consumer:
            await self._position(consumer)
            self._trouble = None
            while not stop.is_set():
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                for place, records in batches.items():
                    for record in records:
                        self._hand_over(record)
                    self._next[place] = await consumer.position(place)
                await self._look_at_ends(consumer)

    async def _position(self, consumer: AIOKafkaConsumer) -> None:
        """Go on behind what was taken; the first time from the beginning to today's end."""
        async with asyncio.timeout(ANSWER_SECONDS):
            begins = await consumer.beginning_offsets(self._places)
            ends = await consumer.end_offsets(self._places)
        for place in self._places:
            # A topic that was made anew begins before what was taken of the old one.
            wanted = self._next.get(place, 0)
            start = max(wanted, begins[place]) if wanted <= ends[place] else begins[place]
            self._next[place] = start
            consumer.seek(place, start)
        if self._ends is None:
            self._ends = ends

    async def _look_at_ends(self, consumer: AIOKafkaConsumer) -> None:
        if self.caught_up.is_set() or self._ends is None:
            return
        # The last offsets of a compacted topic may be none that a record comes with.
        for place in self._places:
            self._next[place] = await consumer.position(place)
        if all(self._next[place] >= end for place, end in self._ends.items()):
            self.caught_up.set()
            log.info("servers and sessions are known")

    def _hand_over(self, record: Record) -> None:
        name = self._names[record.topic]
        try:
            self._take(name, record)
        except FormatError as error:
            self._unread(name)
            log.warning("a record is passed over", topic=name, partition=record.partition,
                        offset=record.offset, error=error)  # fmt: skip

    def _note(self, error: Transient, _: float) -> None:
        if self._trouble is None:
            log.warning("cannot follow the servers now", error=error)
        self._trouble = error
