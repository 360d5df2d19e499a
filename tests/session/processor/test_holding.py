"""Held records when the disk does not take what memory should not keep."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.session.processor.holding import CannotSpill, Held, HoldingBudget
from schemas.frames import FrameRecord, Kind
from schemas.sessions import new_session_id

SESSION = new_session_id()


class Holder:
    """An open chunk of some records."""

    def __init__(self, count: int) -> None:
        self.held = Held()
        for seq in range(count):
            self.held.append(FrameRecord(SESSION, Kind.FRAMES, seq, seq, bytes(32), bytes(1000)))


async def test_without_disk_nothing_more_is_taken_until_there_is_some(tmp_path: Path) -> None:
    room = [False]
    budget = HoldingBudget(6000, tmp_path, lambda _: room[0])
    budget.watch(Holder(4))
    assert await budget.gate(0) is True
    budget.watch(Holder(4))
    assert await budget.gate(0) is False
    with pytest.raises(CannotSpill, match="no more records are taken"):
        await budget.check()
    assert budget.spilled == 0
    room[0] = True
    assert await budget.gate(0) is True
    await budget.check()
    assert 0 < budget.memory() <= 6000


async def test_a_disk_that_fails_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    budget = HoldingBudget(3000, file / "scratch")
    holder = Holder(4)
    budget.watch(holder)
    assert await budget.gate(0) is False
    assert holder.held.memory > 3000, "the records are still there"
    file.unlink()
    assert await budget.gate(0) is False
    monkeypatch.setattr(budget, "_again", float("-inf"))
    assert await budget.gate(0) is True
    assert len(holder.held.take()) == 4


async def test_what_cannot_be_spilled_never_closes_the_gate(tmp_path: Path) -> None:
    budget = HoldingBudget(1000, tmp_path)
    for _ in range(4):
        budget.watch(Holder(1))
    assert budget.memory() > 1000
    async with asyncio.timeout(5):
        assert await budget.gate(0) is True
    await budget.check()


def test_the_sum_follows_what_is_held() -> None:
    budget = HoldingBudget(10**6, Path())
    first, second = Holder(2), Holder(3)
    for holder in (first, second):
        budget.watch(holder)
    assert budget.memory() == first.held.memory + second.held.memory
    first.held = Held()
    budget.changed(first)
    assert budget.memory() == second.held.memory
    budget.changed(Holder(5))
    assert budget.memory() == second.held.memory, "what is not watched does not count"
    budget.forget(second)
    budget.forget(second)
    assert budget.memory() == 0
