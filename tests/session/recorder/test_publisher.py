"""From spool to broker: on disk first, in order, bounded, again after every failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.platform.producer import ConnectionRenewed, Sending, SendRefused
from agents.platform.retry import BrokerUnreachable
from agents.session.recorder.publisher import Publisher
from agents.session.recorder.spool import Spool
from agents.session.recorder.spool_blocks import Spooled
from schemas.frames import from_kafka
from tests.factories import RECORDER
from tests.session.recorder.test_spool import RECORDS, head


class HeldBroker:
    """Takes records and acknowledges each when the test says so; fails when it says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Sending]] = []
        self.now = 0
        self.unreachable = 0
        self.partitions: set[int] = set()

    async def epoch(self) -> int:
        if self.unreachable:
            self.unreachable -= 1
            raise BrokerUnreachable("nobody answers", retry_after=0)
        return self.now

    async def submit(self, topic: str, value: bytes, **more: Any) -> Sending:
        if more["epoch"] != self.now:
            raise ConnectionRenewed("an earlier one failed", retry_after=0)
        self.partitions.add(more["partition"])
        record = from_kafka(more["key"], more["headers"], value)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sending = Sending(topic, len(value), self.now, future)
        self.sent.append((record.seq, sending))
        return sending

    async def acknowledged(self, sending: Sending) -> Any:
        return await sending.future

    @property
    def seqs(self) -> list[int]:
        return [seq for seq, _ in self.sent]

    def acknowledge(self, index: int) -> None:
        self.sent[index][1].future.set_result(SimpleNamespace(offset=100 + index))

    def fail(self, index: int, error: Exception) -> None:
        self.now += 1
        self.sent[index][1].future.set_exception(error)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    found = Spool.create(tmp_path, head(), RECORDER)
    yield found
    found.close()


def put(spool: Spool, first: int, after: int) -> None:
    for record in RECORDS[first:after]:
        spool.append(Spooled(record))


@asynccontextmanager
async def publishing(
    spool: Spool, broker: HeldBroker, limit: int = 10**6
) -> AsyncIterator[Publisher]:
    found = Publisher(broker, "frames", 3, spool, limit=limit, sync_every=0.001)  # type: ignore[arg-type]
    running = asyncio.create_task(found.run())
    try:
        async with asyncio.timeout(20):
            yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def sent(broker: HeldBroker, count: int) -> None:
    while len(broker.sent) < count:
        await asyncio.sleep(0)


async def test_nothing_is_sent_before_it_is_on_disk_nor_released_before_it_is_acknowledged(
    spool: Spool,
) -> None:
    broker, synced = HeldBroker(), asyncio.Event()
    put(spool, 0, 3)
    real = spool.sync

    def sync() -> None:
        assert broker.sent == []
        real()
        loop.call_soon_threadsafe(synced.set)

    loop = asyncio.get_running_loop()
    spool.sync = sync  # type: ignore[method-assign]
    async with publishing(spool, broker) as publisher:
        await synced.wait()
        spool.sync = real  # type: ignore[method-assign]
        await sent(broker, 3)
        assert (spool.first_seq, spool.waiting, broker.partitions) == (0, 3, {3})
        for index in range(3):
            broker.acknowledge(index)
        await publisher.delivered(3)
        assert (spool.waiting, publisher.offset, publisher.unacknowledged) == (0, 100, 0)
        put(spool, 3, 4)
        publisher.changed.tell()
        await sent(broker, 4)
    assert broker.seqs == [0, 1, 2, 3]


async def test_no_more_than_the_limit_is_on_its_way(spool: Spool) -> None:
    broker = HeldBroker()
    spool_size = len(RECORDS[0].payload)
    put(spool, 0, 1)
    async with publishing(spool, broker, limit=spool_size) as publisher:
        await sent(broker, 1)
        put(spool, 1, 3)
        publisher.changed.tell()
        while spool.synced_seq < 3:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert broker.seqs == [0]
        broker.acknowledge(0)
        await sent(broker, 2)


async def test_after_a_failure_everything_unacknowledged_is_sent_again_in_order(
    spool: Spool,
) -> None:
    broker = HeldBroker()
    put(spool, 0, 5)
    async with publishing(spool, broker) as publisher:
        await sent(broker, 5)
        broker.acknowledge(0)
        broker.acknowledge(1)
        await publisher.delivered(2)
        broker.unreachable = 3
        broker.fail(2, BrokerUnreachable("it went away", retry_after=0))
        await publisher.changed.until(lambda: publisher.trouble is not None)
        await sent(broker, 8)
        assert broker.seqs[5:] == [2, 3, 4]
        for index in range(5, 8):
            broker.acknowledge(index)
        await publisher.delivered(5)
        assert (publisher.trouble, publisher.unacknowledged) == (None, 0)


async def test_a_record_that_is_refused_for_good_ends_the_publisher_and_stays(
    spool: Spool,
) -> None:
    broker = HeldBroker()
    put(spool, 0, 2)
    async with publishing(spool, broker) as publisher:
        await sent(broker, 2)
        broker.fail(0, SendRefused("no such topic"))
        with pytest.raises(SendRefused, match="no such topic"):
            await publisher.delivered(1)
        with pytest.raises(SendRefused):
            publisher.check()
    assert spool.read(0, 10**6) == RECORDS[:2]
