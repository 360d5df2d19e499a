"""`lucid retention apply` killed at each step goes on; a hold wins until the key is destroyed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.platform.points import POINTS
from schemas.events import SessionErased, SessionErasing, SessionShredded, SessionSpared
from schemas.verdicts import Severity
from tests.conftest import Stack
from tests.session.storage.yard import Yard, open_yard

STEPS = [name for name in POINTS if name.startswith("retention.")]
BEFORE_THE_KEY = STEPS[: STEPS.index("retention.key-destroyed")]
LEFT = {"manifest.json", "checkpoint.txt", "leaves.txt", "headers.bin", "erasure-content.txt"}


@pytest.fixture
async def yard(stack: Stack, tmp_path: Path) -> AsyncIterator[Yard]:
    async with open_yard(stack, tmp_path) as yard:
        yard.policies = yard.policies.model_copy(update={"sessions": "forever"})
        yield yard


async def lucid(
    yard: Yard, *arguments: str, points: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    settings = yard.settings
    env = {name: value for name, value in os.environ.items() if not name.startswith("LUCID_")}
    env.update(
        LUCID_HOME=str(settings.home), LUCID_KAFKA=settings.kafka_servers(),
        LUCID_MONGO=settings.mongo_url(), LUCID_DATABASE=settings.database,
        LUCID_TOPIC_PREFIX=settings.topic_prefix, LUCID_HOST="store",
        LUCID_RETENTION_SESSIONS="forever",
    )  # fmt: skip
    if points:
        env["LUCID_TEST_POINTS"] = points
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "agents.cli", *arguments], env=env,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


async def killed(yard: Yard, session: str, point: str) -> None:
    done = await lucid(
        yard, "retention", "apply", "--yes", "--session", session, points=f"{point}:kill"
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", STEPS)
async def test_what_is_killed_there_goes_on(yard: Yard, point: str) -> None:
    session = await yard.add(seed=1)
    yard.later(40)
    await killed(yard, session, point)
    (done,) = await yard.apply()
    assert done.outcome in ("shredded", "waiting", "erased"), done
    assert yard.files(session) == LEFT
    report = await yard.verify(session)
    assert (report.outcome, report.exit_status) == (Severity.ERASED, 0)
    assert await yard.told(SessionErasing)
    assert await yard.told(SessionShredded)
    assert await yard.told(SessionSpared) == []
    latest = dict(await yard.topic_values("session.progress"))
    assert latest[session.encode()] is None
    async with yard.house() as house:
        assert (await house.register.state()).claims == {}
    told = [one for one in await yard.told() if not isinstance(one, SessionErased)]
    await yard.apply()
    assert [one for one in await yard.told() if not isinstance(one, SessionErased)] == told
    raw = await yard.raw()
    assert not any(form in raw for form in yard.key_forms(session).values())


@pytest.mark.parametrize("point", [*BEFORE_THE_KEY, "retention.key-destroyed"])
async def test_a_hold_wins_until_the_key_is_destroyed(yard: Yard, point: str) -> None:
    session = await yard.add(seed=2)
    whole = yard.files(session)
    yard.later(40)
    await killed(yard, session, point)
    assert await yard.hold(1, session=session) == [session], "an erasure had claimed it"
    done = await yard.apply()
    report = await yard.verify(session)
    if point not in BEFORE_THE_KEY:
        assert [one.outcome in ("shredded", "erased") for one in done] == [True]
        assert report.outcome is Severity.ERASED
        return
    assert [one.outcome for one in done] in ([], ["spared"])
    assert report.outcome is Severity.OK
    assert whole <= yard.files(session) <= whole | {"leaves.txt", "headers.bin"}
    assert len(await yard.told(SessionSpared)) == (point != "retention.claimed")
    async with yard.house() as house:
        await house.register.release("hold-000000000001")
    assert [one.outcome in ("shredded", "erased") for one in await yard.apply()] == [True]
    assert (await yard.verify(session)).outcome is Severity.ERASED
    async with yard.house() as house:
        assert (await house.register.state()).claims == {}


async def test_a_hold_wins_for_a_damaged_session_too(yard: Yard) -> None:
    session = await yard.add(seed=3)
    yard.later(40)
    yard.blobs.remove(session, "00000001.chunk")
    whole = yard.files(session)
    await yard.change(session, conflicts=1)
    done = await lucid(
        yard, "retention", "apply", "--yes", "--damaged", points="retention.told:kill"
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    await yard.hold(1)
    assert [one.outcome for one in await yard.apply()] == ["spared"]
    assert whole <= yard.files(session)
