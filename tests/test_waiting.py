"""What tests wait with: the first true answer, and a failure that says what did not come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.waiting import until, wait_for


def counted() -> Iterator[int]:
    yield from (0, 0, 7)


def test_the_first_true_answer_is_returned() -> None:
    answers = counted()
    assert wait_for(lambda: next(answers), "number", 10) == 7


def test_what_does_not_come_is_named_and_was_asked_for_once() -> None:
    asked: list[int] = []
    with pytest.raises(AssertionError, match=r"^no settled session within 0 s$"):
        wait_for(lambda: asked.append(1), "settled session", 0)
    assert asked == [1]


def test_without_a_name_the_condition_is_shown() -> None:
    with pytest.raises(AssertionError, match=r"^not within 0\.05 s: .*len\(\[\]\) == 3"):
        wait_for(lambda: len([]) == 3, seconds=0.05)


async def test_beside_other_tasks_both_kinds_of_conditions_are_asked() -> None:
    answers = counted()

    async def look() -> int:
        await asyncio.sleep(0)
        return next(answers)

    assert await until(look, "number", 10) == 7
    later = counted()
    assert await until(lambda: next(later), "number", 10) == 7


async def test_an_answer_that_does_not_come_is_given_up() -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match=r"^no answer within 0\.05 s$"):
        await until(hangs, "answer", 0.05)


async def test_a_time_limit_of_the_condition_itself_is_not_taken_for_the_deadline() -> None:
    async def fails() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await until(fails, "answer", 10)
