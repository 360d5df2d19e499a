"""Back-off, deadlines and trying again."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from agents.platform.retry import (
    Backoff,
    Deadline,
    Transient,
    retry,
    unless_stopped,
    within,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_never_has_less_than_nothing_left() -> None:
    clock = Clock()
    deadline = Deadline(10, clock=clock)
    clock.now += 4
    assert deadline.remaining() == 6
    assert not deadline.expired
    clock.now += 60
    assert deadline.remaining() == 0
    assert deadline.expired


def test_pauses_double_up_to_the_most_and_start_over_after_a_success() -> None:
    backoff = Backoff(1, 5, random_share=lambda: 0.0)
    assert [backoff.next() for _ in range(4)] == [1, 2, 4, 5]
    backoff.reset()
    assert backoff.next() == 1
    assert Backoff(1, random_share=lambda: 1.0).next() == 0.5
    assert Backoff(1).next(at_least=7) == 7


async def test_trouble_that_passes_is_tried_again() -> None:
    tries: list[int] = []
    heard: list[str] = []

    async def work() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise Transient("busy", retry_after=0.001)
        return "done"

    result = await retry(work, backoff=Backoff(0.001), on_retry=lambda e, _: heard.append(str(e)))
    assert (result, len(tries), heard) == ("done", 3, ["busy", "busy"])


async def test_stop_ends_the_tries_at_once() -> None:
    stop = asyncio.Event()

    async def work() -> None:
        raise Transient("busy")

    async with asyncio.timeout(5):
        waiting = asyncio.create_task(retry(work, backoff=Backoff(60), stop=stop))
        await asyncio.sleep(0)
        stop.set()
        with pytest.raises(Transient):
            await waiting


async def test_no_pause_goes_past_the_deadline() -> None:
    async def work() -> None:
        raise Transient("busy", retry_after=60)

    async with asyncio.timeout(5):
        with pytest.raises(Transient, match="busy"):
            await retry(work, deadline=Deadline(10))


async def test_other_errors_are_not_tried_again() -> None:
    tries: list[int] = []

    async def work() -> None:
        tries.append(1)
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        await retry(work)
    assert len(tries) == 1


class Obstinate:
    """Work that goes on where it is cancelled, as Faust's does."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def work(self) -> None:
        while not self.end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.end.wait()


async def fail() -> None:
    raise ValueError("no")


async def test_what_swallows_its_cancellation_is_not_waited_for() -> None:
    one = Obstinate()
    async with asyncio.timeout(5):
        assert not await within(0.01, one.work())
    one.end.set()
    assert await within(5, one.work())
    with pytest.raises(ValueError, match="no"):
        await within(5, fail())


async def test_work_under_way_has_a_little_time_once_it_has_to_stop() -> None:
    stop, ended = asyncio.Event(), []

    async def work(until: asyncio.Event) -> None:
        try:
            await until.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("done")

    asyncio.get_running_loop().call_soon(stop.set)
    assert await unless_stopped(stop, work(stop), grace=5)
    assert not await unless_stopped(stop, work(asyncio.Event()), grace=0.01)
    await asyncio.sleep(0)
    assert ended == ["done", "cancelled"]
    with pytest.raises(ValueError, match="no"):
        await unless_stopped(stop, fail())
