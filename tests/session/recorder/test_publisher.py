"""A session's records on their way: bounded while unacknowledged, stopped by the first error."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agents.platform.retry import BrokerUnreachable
from agents.session.recorder.publisher import Publisher
from schemas.errors import LucidError
from schemas.frames import FrameRecord, Kind
from tests.factories import START, make_session

SESSION = make_session(frames=1).session


class HeldBroker:
    """Takes records and acknowledges each when the test says so."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[Any]] = []
        self.partitions: list[int] = []

    async def submit(self, topic: str, value: bytes, **more: Any) -> asyncio.Future[Any]:
        self.partitions.append(more["partition"])
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    async def acknowledged(self, future: asyncio.Future[Any], *_: object) -> Any:
        return await future

    def acknowledge(self, index: int) -> None:
        self.futures[index].set_result(SimpleNamespace(offset=index))


def frame(seq: int, size: int) -> FrameRecord:
    return FrameRecord(SESSION, Kind.FRAMES, seq, START, bytes(32), bytes(size))


def publisher(broker: HeldBroker, limit: int) -> Publisher:
    return Publisher(broker, "frames", 3, limit)  # type: ignore[arg-type]


async def test_a_record_waits_while_too_much_is_unacknowledged() -> None:
    broker = HeldBroker()
    out = publisher(broker, 1000)
    await out.put(frame(0, 600))
    waiting = asyncio.create_task(out.put(frame(1, 600)))
    await asyncio.wait([waiting], timeout=0.05)
    assert (waiting.done(), len(broker.futures), out.unacknowledged) == (False, 1, 600)
    broker.acknowledge(0)
    async with asyncio.timeout(5):
        await waiting
        broker.acknowledge(1)
        await out.flush()
    assert (out.unacknowledged, out.offset, broker.partitions) == (0, 1, [3, 3])


async def test_one_record_over_the_limit_goes_alone() -> None:
    out = publisher(HeldBroker(), 10)
    async with asyncio.timeout(5):
        await out.put(frame(0, 600))
    assert out.unacknowledged == 600


async def test_after_an_error_nothing_more_goes_out() -> None:
    broker = HeldBroker()
    out = publisher(broker, 700)
    await out.put(frame(0, 600))
    waiting = asyncio.create_task(out.put(frame(1, 600)))
    broker.futures[0].set_exception(BrokerUnreachable("the broker went away"))
    async with asyncio.timeout(5):
        for attempt in (waiting, out.put(frame(2, 1)), out.flush()):
            with pytest.raises(LucidError, match="went away"):
                await attempt
    assert len(broker.futures) == 1
