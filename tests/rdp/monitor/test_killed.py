"""A monitor that is killed while an alert is raised: it goes on, and nothing is told twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agents.platform.contract import apply_contract
from schemas.rdp_metrics import AlertRaised, AlertResolved
from tests.conftest import Stack
from tests.rdp.monitor.test_monitor import HOST, House, house, new_id
from tests.rdp.monitor.trees import a_tree
from tests.waiting import until

__all__ = ["house"]  # a fixture
pytestmark = pytest.mark.stack


@asynccontextmanager
async def process(stack: Stack, house: House) -> AsyncIterator[asyncio.subprocess.Process]:
    """`lucid run rdp-monitor`; it is gone afterwards."""
    mine = {
        "LUCID_HOME": str(house.settings.home), "LUCID_KAFKA": stack.kafka,
        "LUCID_MONGO": stack.mongo, "LUCID_TOPIC_PREFIX": house.settings.topic_prefix,
        "LUCID_HOST": HOST, "LUCID_MONITOR_PORT": "0", "LUCID_MONITOR_EVERY": "0.2",
        "LUCID_MONITOR_RAISE_AFTER": "0.2", "LUCID_MONITOR_RESOLVE_AFTER": "0.2",
        "LUCID_MONITOR_MEMORY_OVER": "5", "LUCID_MONITOR_HYSTERESIS": "1",
    }  # fmt: skip
    found = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents.cli", "run", "rdp-monitor",
        env={**os.environ, **mine}, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield found
    finally:
        if found.returncode is None:
            found.kill()
            await found.wait()


async def test_an_alert_outlives_its_monitor(stack: Stack, house: House) -> None:
    server = new_id()
    await apply_contract(house.settings, house.contract)
    with a_tree() as tree:
        tree.tell(f"hold {64 * 1024**2}")
        await house.configure(server, memory_mb=512)
        await house.change(server, tree.ref)
        async with process(stack, house) as first:
            (raised,) = await until(house.alerts)
            first.send_signal(signal.SIGKILL)
            await first.wait()
        assert isinstance(raised, AlertRaised)
        before = len(await house.samples())
        async with process(stack, house) as second:

            async def more() -> bool:
                return len(await house.samples()) >= before + 5

            await until(more)
            assert await house.alerts() == [raised]
            await house.change(server, state="stopped")

            async def resolved() -> Any:
                found = await house.alerts()
                return found[1:]

            (over,) = await until(resolved)
            assert isinstance(over, AlertResolved)
            assert (over.id, over.resolution) == (raised.id, "ended")
            second.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(second.wait(), 15) == 0
