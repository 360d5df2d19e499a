"""The manager on the real servers: registration, heartbeats, pools, bad input, two of them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from agents.platform.topic_reader import read_topic
from schemas.deadletters import from_kafka
from schemas.node_events import (
    AlertChanged,
    HealthChanged,
    NodeCommandDone,
    NodeCommandRefused,
    PayoutChanged,
    PoolChanged,
    RegistrationChanged,
    RegistrationRefused,
    ScalingHinted,
    WorkCounted,
)
from tests.node.conftest import House, managing
from tests.node.factories import heartbeat, request, signer

pytestmark = pytest.mark.stack


def now() -> int:
    return time.time_ns() // 1000


async def test_a_node_registers_beats_falls_silent_and_comes_back(house: House) -> None:
    async with managing(house):
        await house.take_in("desk7")
        await house.beat("desk7", 1)
        await house.node("desk7", lambda one: one.health == "healthy")
        await house.node("desk7", lambda one: one.health == "stale")
        await house.node("desk7", lambda one: one.health == "offline")
        await house.beat("desk7", 2)
        await house.node("desk7", lambda one: one.health == "healthy" and not one.alerts)
    told = await house.events("node.lifecycle")
    states = [one.data.state for one in told if isinstance(one.data, RegistrationChanged)]
    assert states == ["challenged", "verified", "approved"]
    health = [one.data.health for one in told if isinstance(one.data, HealthChanged)]
    assert health == ["healthy", "stale", "offline", "healthy"]
    alerts = [(one.data.alert, one.data.state)
              for one in await house.events("node.alerts", AlertChanged)
              if isinstance(one.data, AlertChanged)]  # fmt: skip
    assert alerts == [
        ("node_stale", "raised"), ("node_offline", "raised"), ("node_stale", "resolved"),
        ("node_offline", "resolved"),
    ]  # fmt: skip
    work = await house.events("node.work", WorkCounted)
    assert len(work) == 2
    assert len({one.id for one in told}) == len(told)


async def test_bad_heartbeats_and_another_key_are_told_and_change_nothing(house: House) -> None:
    async with managing(house, stale_after=60.0):
        await house.take_in("desk7")
        await house.take_in("desk8")
        first = await house.beat("desk7", 5)
        await house.beat("desk7", 6)
        await house.node("desk7", lambda one: one.counter == 6)
        await house.send(first)
        await house.node("desk7", lambda one: "heartbeat_refused" in one.alerts)
        await house.send(heartbeat(9, now(), "desk7", signer("desk8")))
        await house.send(heartbeat(9, now() - 3600 * 10**6, "desk7"))
        await house.send(heartbeat(1, now(), "stranger"))
        registration, _ = await house.send(request("desk7", signer("thief")))
        await house.node("desk7", lambda one: "identity_claimed" in one.alerts)
        await house.raw("node.heartbeats", b"desk7", b"{}")
        await house.raw("node.commands", b"desk7", b"\xff")
        await house.raw("node.registration", b"", b"")
        await house.beat("desk7", 7)
        state = await house.node("desk7", lambda one: one.counter == 7)
    assert state.registration is not None
    assert state.registration.key == str(signer("desk7").verifier)
    refused = await house.events("node.lifecycle", RegistrationRefused)
    told = [(one.correlation, one.data.code) for one in refused
            if isinstance(one.data, RegistrationRefused)]  # fmt: skip
    assert told == [(registration, "IdTaken")]
    assert (await house.states.node("stranger")).state is None
    letters = house.contract.topic("dead.letters").full_name
    found = {
        from_kafka(raw.key, raw.headers, raw.value).topic.removeprefix(house.settings.topic_prefix)
        async for raw in read_topic(house.settings, letters)
    }
    assert found == {"node.heartbeats", "node.commands", "node.registration"}


async def test_a_pool_is_active_and_loses_its_members_at_once(house: House) -> None:
    names = ["a", "b", "c"]

    async def pool(state: str, active: int) -> Any:
        async def look() -> Any:
            found = await house.states.pool("p")
            same = found is not None and (found.state, len(found.active)) == (state, active)
            return found if same else None

        return await house.until(look)

    async with managing(house, stale_after=4.0):
        for name in names:
            await house.take_in(name)
        await house.order("pool_create", pool="p")
        for name in names:
            added = await house.order("pool_add", pool="p", node=name)
            assert isinstance(await house.answered(added), NodeCommandDone)
        assert (await pool("forming", 0)).members == names
        for name in names:
            await house.beat(name, 1, cpu=900)
        assert (await pool("active", 3)).active == names
        assert (await pool("degraded", 0)).members == names
        other = await house.order("pool_create", pool="q")
        taken = await house.order("pool_add", pool="q", node="a")
        answer = await house.answered(taken)
        assert isinstance(answer, NodeCommandRefused)
        assert answer.code == "InAnotherPool"
        again = await house.order("pool_create", pool="q")
        assert (await house.answered(again)).code == "PoolExists"
        await house.command(other)  # the same command again is done again
        assert isinstance(await house.answered(other), NodeCommandDone)
        await house.order("pool_disband", pool="p")
        await pool("disbanded", 0)
    events = await house.events("node.pools")
    states = [one.data.state for one in events if isinstance(one.data, PoolChanged)
              and one.data.pool == "p"]  # fmt: skip
    assert states[:5] == ["forming"] * 4 + ["active"]
    assert set(states[5:-1]) <= {"active", "degraded"}
    assert states[-1] == "disbanded"
    hints = [one.data for one in events if isinstance(one.data, ScalingHinted)]
    assert hints
    assert {(one.direction, one.load) for one in hints} == {("up", 900)}


async def test_maintenance_and_payouts_are_events(house: House) -> None:
    async with managing(house, stale_after=60.0):
        await house.take_in("desk7")
        await house.order("maintain", node="desk7", ends=now() + 3600 * 10**6)
        await house.node("desk7", lambda one: one.in_maintenance)
        await house.order("end_maintenance", node="desk7")
        await house.node("desk7", lambda one: not one.in_maintenance)
        await house.order("maintain", node="desk7", ends=now() + 700_000)
        await house.node("desk7", lambda one: one.in_maintenance)
        await house.node("desk7", lambda one: not one.in_maintenance)
        asked = await house.order("payout_request", node="desk7", amount="0.25")
        await house.answered(asked)
        for action in ("process", "fail", "retry", "process", "complete", "cancel"):
            moved = await house.order(f"payout_{action}", node="desk7", payout=asked.id)
            answer = await house.answered(moved)
        assert answer.code == "BadTransition"
        refused = await house.order("payout_request", node="nobody", amount="1")
        assert (await house.answered(refused)).code == "NotApproved"
        wrong = await house.order("approve", node="nobody")
        assert (await house.answered(wrong)).code == "NotVerified"
        out = await house.order("reject", node="desk7", reason="sold")
        assert isinstance(await house.answered(out), NodeCommandDone)
        await house.beat("desk7", 1)
        await house.tick()
    (payout,) = await house.states.payouts()
    assert (payout.state, payout.amount, payout.retries) == ("completed", "0.25", 1)
    events = await house.events("node.work", PayoutChanged)
    assert [one.data.state for one in events if isinstance(one.data, PayoutChanged)] == [
        "pending", "processing", "failed", "pending", "processing", "completed",
    ]  # fmt: skip
    assert (await house.states.node("desk7")).counter == -1


async def test_two_managers_at_once_lose_and_repeat_nothing(house: House) -> None:
    async with managing(house, stale_after=60.0), managing(house, stale_after=60.0):
        await asyncio.gather(*(house.take_in(f"n{number}") for number in range(4)))
        for counter in range(1, 6):
            for number in range(4):
                await house.beat(f"n{number}", counter)
        for number in range(4):
            await house.node(f"n{number}", lambda one: one.counter == 5)
    work = [(one.data.node, one.data.counter)
            for one in await house.events("node.work", WorkCounted)
            if isinstance(one.data, WorkCounted)]  # fmt: skip
    assert sorted(work) == sorted((f"n{n}", c) for n in range(4) for c in range(1, 6))
