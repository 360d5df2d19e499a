"""A hold wins over every policy and plan, and claims and holds are one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.session.storage.retention_holds import NoSuchHold
from schemas.verdicts import Severity
from tests.conftest import Stack
from tests.session.storage.yard import Yard, open_yard


@pytest.fixture
async def yard(stack: Stack, tmp_path: Path) -> AsyncIterator[Yard]:
    async with open_yard(stack, tmp_path) as yard:
        yield yard


async def test_a_hold_wins_over_every_policy(yard: Yard) -> None:
    sessions = [await yard.add(seed=seed) for seed in (5, 6)]
    yard.later(200)
    scopes: list[dict[str, str]] = [{"session": sessions[0]}, {"project": "lovelace"}, {}]
    for number, scope in enumerate(scopes, start=1):
        assert await yard.hold(number, **scope) == []
        async with yard.house() as house:
            plan = await house.plan(sessions[0])
            assert {row.action for row in plan.rows} == {"held"}
            assert plan.rows[0].held_by == [f"hold-{number:012x}"]
        assert await yard.apply(sessions[0]) == []
        assert (await yard.verify(sessions[0])).outcome is Severity.OK
        async with yard.house() as house:
            assert (await house.register.release(f"hold-{number:012x}")).reason == "case 7"
            with pytest.raises(NoSuchHold):
                await house.register.release(f"hold-{number:012x}")
    done = await yard.apply(sessions[0])
    assert [one.stage for one in done] == ["content", "metadata"]
    assert (await yard.verify(sessions[1])).outcome is Severity.OK


async def test_a_hold_that_comes_after_the_plan_wins(yard: Yard) -> None:
    first, second = sorted([await yard.add(seed=7), await yard.add(seed=8)])
    yard.later(40)
    async with yard.house() as house:
        plan = await house.plan()
        assert len(plan.of("erase")) == 2
        outcomes = {}
        async for one in house.apply(plan):
            outcomes[one.session] = one.outcome
            await yard.hold(1, session=second)
    assert outcomes == {first: "shredded", second: "held"}
    assert (await yard.verify(second)).outcome is Severity.OK


async def test_a_lost_catalog_loses_no_hold_and_a_lost_topic_gets_them_back(yard: Yard) -> None:
    session = await yard.add(seed=9)
    yard.later(40)
    await yard.hold(1, session=session)
    await yard.catalog.drop("retention")
    async with yard.house() as house:
        assert [one.action for one in (await house.plan()).rows] == ["held"]
        await yard.catalog.drop("retention")
        assert [one.id for one in await house.register.claim(session, "x")] == ["hold-000000000001"]
        # Another hold does not hide those that an empty catalog has not read yet.
        await yard.catalog.drop("retention")
        await yard.hold(2)
        assert len((await house.register.state()).holds) == 2
    # As if the topic had been made anew: it ends before what the catalog has seen.
    async with yard.house() as house:
        state = await house.register.state()
    for hold in state.holds:
        await yard.producer.send(
            yard.topic("session.holds"), None, key=hold.id.encode(), partition=0
        )
    ahead = replace(state, version=state.version + 1, offset=1000)
    assert await yard.catalog.insert("retention", ahead.document())
    async with yard.house() as house:
        assert len((await house.register.sync()).holds) == 2
        assert len((await house.register.sync()).holds) == 2
    assert await yard.apply() == []


async def test_a_hold_that_comes_behind_a_claim_is_told(yard: Yard) -> None:
    session = await yard.add(seed=10)
    async with yard.house() as house:
        assert await house.register.claim(session, "lovelace") == []
        assert await yard.hold(1, session=session) == [session]
        assert [one.id for one in await house.register.claim(session, "lovelace")]
        await house.register.free(session)
        assert (await house.register.state()).claims == {}


async def test_holds_and_claims_at_once_are_one_after_the_other(yard: Yard) -> None:
    sessions = [await yard.add(seed=seed, frames=2) for seed in (11, 12)]
    async with yard.house() as house:
        await house.register.sync()
        results = await asyncio.gather(
            *(yard.hold(number, session=sessions[number % 2]) for number in range(1, 5)),
            *(house.register.claim(session, "lovelace") for session in sessions),
        )
        state = await house.register.state()
    assert len(state.holds) == 4
    assert len(results) == 6
    for session, forbidding in zip(sessions, results[4:], strict=True):
        late = [begun for begun in results[:4] if session in begun]
        assert bool(forbidding) or late, "either the hold or the claim was first, and says so"
