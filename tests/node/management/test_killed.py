"""The manager killed while it works: what it says stays true, once each, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process

import pytest

from agents.node.management.commands import count
from schemas.node_events import RegistrationChanged, WorkCounted
from schemas.node_pools import PoolState
from tests.node.conftest import House

pytestmark = pytest.mark.stack
NODES = [f"n{number}" for number in range(4)]
BEATS = 24


async def start(house: House) -> Process:
    settings = house.settings
    assert settings.mongo is not None
    own = {
        "HOME": settings.home, "KAFKA": settings.kafka, "DATABASE": settings.database,
        "MONGO": settings.mongo.get_secret_value(), "TOPIC_PREFIX": settings.topic_prefix,
        "NODE_MANAGEMENT_PORT": 0, "NODE_MANAGEMENT_TICK_EVERY": 0.1,
    }  # fmt: skip
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents.cli", "run", "node-management",
        env={**os.environ, **{f"LUCID_{name}": str(value) for name, value in own.items()}},
        stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip


async def kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_a_manager_that_is_killed_in_the_middle_loses_and_repeats_nothing(
    house: House,
) -> None:
    process = await start(house)
    try:
        old, new = NODES[:2], NODES[2:]
        await asyncio.gather(*(house.take_in(name) for name in old))
        await house.order("pool_create", pool="p")
        taking = asyncio.gather(*(house.take_in(name) for name in new))
        for counter in range(1, BEATS + 1):
            for name in old:
                await house.beat(name, counter)
            if counter == BEATS // 2:
                await house.node("n2", lambda one: one.state is not None)
                await kill(process)
                process = await start(house)
        await taking
        for name in NODES:
            await house.order("pool_add", pool="p", node=name)
        for name in new:
            await asyncio.gather(*(house.beat(name, one) for one in range(1, BEATS + 1)))
        for name in NODES:
            await house.node(name, lambda one: one.counter == BEATS and not one.alerts)

        async def active() -> PoolState | None:
            pool = await house.states.pool("p")
            whole = pool is not None and (pool.state, pool.members) == ("active", NODES)
            return pool if whole else None

        await house.until(active)
    finally:
        await kill(process)
    # House.events checks that what was told twice was told in the same words.
    work = await house.events("node.work", WorkCounted)
    told = [(one.data.node, one.data.counter) for one in work
            if isinstance(one.data, WorkCounted)]  # fmt: skip
    assert sorted(set(told)) == sorted(
        (name, counter) for name in NODES for counter in range(1, BEATS + 1)
    )
    changes = await house.events("node.lifecycle", RegistrationChanged)
    for name in NODES:
        ways = [one.data.state for one in changes
                if isinstance(one.data, RegistrationChanged) and one.data.node == name]  # fmt: skip
        assert ways == ["challenged", "verified", "approved"]
    as_of = work[-1].micros + 300 * 10**6
    first = await count(house.settings, as_of, None)
    assert [one.node for one in first] == NODES
    assert first == await count(house.settings, as_of, None)
