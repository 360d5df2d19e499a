"""A record that is taken at once needs no task; one that waits is waited for as Faust does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mode.services import Service, WaitResults

from agents.platform.faust_app import InOrderConsumer


class Consumer(InOrderConsumer):
    """A consumer of nothing: only what waiting needs."""

    def __init__(self) -> None:
        Service.__init__(self)


@pytest.fixture
async def consumer() -> Consumer:
    return Consumer()


async def never() -> None:
    await asyncio.Event().wait()


async def test_what_is_done_at_once_is_returned_without_a_task(
    consumer: Consumer, recwarn: pytest.WarningsRecorder
) -> None:
    async def take() -> str:
        return "taken"

    before, first = len(asyncio.all_tasks()), take()
    assert await consumer.wait_first(first, never()) == WaitResults([first], ["taken"], False)
    assert len(asyncio.all_tasks()) == before
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


async def test_what_waits_goes_on_where_it_was(consumer: Consumer) -> None:
    steps: list[str] = []
    room = asyncio.Event()

    async def take() -> str:
        steps.append("begun")
        await asyncio.sleep(0)
        await room.wait()
        try:
            await asyncio.wait_for(never(), 0.01)
        except TimeoutError:
            steps.append("caught")
        return "taken"

    waiting = asyncio.create_task(consumer.wait_first(take(), never()))
    await asyncio.sleep(0.01)
    assert steps == ["begun"]
    room.set()
    found = await asyncio.wait_for(waiting, 5)
    assert (found.results, found.stopped, steps) == (["taken"], False, ["begun", "caught"])


@pytest.mark.parametrize("late", [False, True])
async def test_an_error_is_raised(consumer: Consumer, late: bool) -> None:
    async def take() -> None:
        if late:
            await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await consumer.wait_first(take(), never())


@pytest.mark.parametrize("how", ["suspended", "stopped"])
async def test_whoever_waits_is_cancelled_when_the_flow_is_suspended_or_the_consumer_stops(
    consumer: Consumer, how: str
) -> None:
    ended: list[str] = []
    suspended = asyncio.Event()

    async def take() -> None:
        try:
            await never()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    waiting = asyncio.create_task(consumer.wait_first(take(), suspended.wait()))
    await asyncio.sleep(0.01)
    suspended.set() if how == "suspended" else consumer._stopped.set()
    found = await asyncio.wait_for(waiting, 5)
    assert found.stopped is (how == "stopped")
    async with asyncio.timeout(5):
        while ended != ["cancelled"]:
            await asyncio.sleep(0.01)


async def test_a_deadline_is_left_to_faust(consumer: Consumer) -> None:
    assert (await consumer.wait_first(never(), timeout=0.01)).results == []


async def test_other_things_than_coroutines_are_left_to_faust(consumer: Consumer) -> None:
    event: Any = asyncio.Event()
    event.set()
    assert (await consumer.wait_first(event)).done == [event]
