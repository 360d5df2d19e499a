"""A node's agent and a manager: taken in, heard, put out, taken in again; commands as people do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.node.agent.agent import build
from agents.node.agent.registering import Node, RegistrationFailed, register
from agents.node.agent.settings import NodeAgentSettings
from agents.platform import command_topic
from agents.platform.answers import NoAnswer
from agents.platform.audit import AuditFailed, acting_user
from agents.platform.keys import init_keys, load_signer
from agents.platform.service import Service, make_service, serve
from schemas.audit import NodeOrdered
from schemas.canonical import encode
from schemas.errors import LucidError
from schemas.node_events import MetricsTaken, WorkCounted
from schemas.node_heartbeats import SLOT
from tests.audited import FullDisk, orders, sent
from tests.node.conftest import House, managing
from tests.node.factories import signer

pytestmark = pytest.mark.stack


@asynccontextmanager
async def agent(house: House, name: str = "desk7", **section: Any) -> AsyncIterator[Service]:
    """A node's agent in this process."""
    fields = {"port": 0, "id": name, "every": 0.2, "again_after": 0.2, **section}
    service = make_service("node-agent", house.settings, NodeAgentSettings(**fields))
    task = asyncio.create_task(serve(service, build))
    try:
        yield service
    finally:
        service.stop.set()
        status = await asyncio.wait_for(task, 20)
    assert status == 0


async def test_an_agent_registers_beats_and_tells_its_work_once(house: House) -> None:
    init_keys(house.settings, ["node"])
    work = house.settings.home / "node" / "work"
    work.mkdir(parents=True)
    now = time.time_ns() // 1000
    for number in range(3):
        done = {"kind": "signatures", "amount": 2, "time": now}
        (work / f"{number}.json").write_text(json.dumps(done))
    (work / "bad.json").write_text("{}")
    async with managing(house, stale_after=60.0):
        async with agent(house):
            await house.node("desk7", lambda one: one.state == "verified")
            await house.order("approve", node="desk7")
            await house.node("desk7", lambda one: one.counter > 0)
        before = await house.states.node("desk7")
        async with agent(house):  # approved already, and its counter goes on
            await house.node("desk7", lambda one: one.counter > before.counter)
            await house.order("reject", node="desk7")
            await house.node("desk7", lambda one: one.state == "rejected")
            await house.node("desk7", lambda one: one.state == "verified")
            await house.order("approve", node="desk7")
            last = (await house.states.node("desk7")).counter
            await house.node("desk7", lambda one: one.counter > last)
        state = await house.states.node("desk7")
    assert not state.alerts
    assert state.registration is not None
    assert state.registration.key == str(load_signer(house.settings, "node").verifier)
    assert state.registration.hardware.cpus >= 1
    figures = await house.events("node.metrics", MetricsTaken)
    assert all(one.data.figures.memory > 0 for one in figures if isinstance(one.data, MetricsTaken))
    told = [one.data for one in await house.events("node.work", WorkCounted)
            if isinstance(one.data, WorkCounted)]  # fmt: skip
    slots = {(row.slot, row.signatures) for one in told for row in one.work}
    assert slots == {(now // SLOT, 6)}
    assert sorted(path.name for path in work.iterdir()) == ["bad.refused"]


async def test_another_key_cannot_register_an_id_and_no_manager_is_no_answer(house: House) -> None:
    init_keys(house.settings, ["node"])
    section = NodeAgentSettings(port=0, id="desk7")
    node = Node.load(house.settings, section, house.contract, house.producer)
    with pytest.raises(NoAnswer, match="node-management"):
        await register(node, 0.3)
    async with managing(house, stale_after=60.0):
        found = await house.until(lambda: register(node))
        assert found.state == "verified"
        thief = Node(house.settings, section, house.contract, house.producer, signer("thief"))
        with pytest.raises(RegistrationFailed, match="another key"):
            await register(thief)
        async with agent(house, "desk9"):
            await house.node("desk9", lambda one: one.state == "verified")
    assert (await house.states.node("desk7")).state == "verified"


@pytest.fixture
def lucid(house: House, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The commands, against this house's manager; a failure raises its error."""
    settings = house.settings
    for name, value in (
        ("HOME", settings.home), ("KAFKA", settings.kafka), ("DATABASE", settings.database),
        ("MONGO", settings.mongo.get_secret_value() if settings.mongo else ""),
        ("TOPIC_PREFIX", settings.topic_prefix), ("HOST", "Desk7.Example"),
    ):  # fmt: skip
        monkeypatch.setenv(f"LUCID_{name}", str(value))

    async def call(*arguments: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["node", *arguments])
        if result.exception is not None:
            raise result.exception
        return result.output

    return call


async def test_the_commands_from_registering_to_a_payout(house: House, lucid: Any) -> None:
    async with managing(house, stale_after=60.0):
        made = await lucid("register")
        assert "Node desk7-example is verified" in made
        name, key = "desk7-example", str(load_signer(house.settings, "node").verifier)
        assert key in made
        with pytest.raises(Exception, match="another key"):
            await lucid("approve", name, "--key", str(signer("x").verifier))
        assert "is approved" in await lucid("approve", name, "--key", key)
        assert json.loads(await lucid("register", "--json"))["state"] == "approved"
        async with agent(house, name):
            await house.node(name, lambda one: one.counter > 0)
        listed = json.loads(await lucid("list", "--json"))["nodes"]
        assert [(one["node"], one["health"]) for one in listed] == [(name, "healthy")]
        assert name in await lucid("list")
        assert "last_heard" in await lucid("show", name)
        shown = json.loads(await lucid("show", name, "--json"))
        assert "challenge" not in shown["registration"]
        assert "until" in await lucid("maintenance", name, "--until", "10m", "--from", "1m")
        assert "until" in await lucid("maintenance", name, "--until", "10m")
        assert "over" in await lucid("maintenance", name, "--end")
        for arguments in (
            ["pool", "create", "north"], ["pool", "add", "north", name],
            ["pool", "maintenance", "north"], ["pool", "maintenance", "north", "--end"],
        ):  # fmt: skip
            assert json.loads(await lucid(*arguments, "--json"))["done"]
        assert (await house.states.pool("north")).members == [name]
        assert "north" in await lucid("pool", "list")
        assert name in await lucid("pool", "show", "north")
        assert json.loads(await lucid("pool", "show", "north", "--json"))["state"] == "forming"
        assert json.loads(await lucid("pool", "list", "--json"))["pools"][0]["pool"] == "north"
        await lucid("pool", "remove", "north", name)
        assert "disbanded" in await lucid("pool", "disband", "north")
        asked = json.loads(await lucid("payout", "request", name, "0.5", "--json"))["payout"]
        for action in ("process", "fail", "retry", "cancel"):
            await lucid("payout", action, name, asked)
        other = json.loads(await lucid("payout", "request", name, "7", "--json"))["payout"]
        assert "pending" in await lucid("payout", "request", name, "8")
        await lucid("payout", "process", name, other)
        await lucid("payout", "complete", name, other)
        payouts = json.loads(await lucid("payout", "list", name, "--json"))["payouts"]
        assert {one["amount"]: one["state"] for one in payouts} == {
            "0.5": "cancelled", "7": "completed", "8": "pending",
        }  # fmt: skip
        assert "cancelled" in await lucid("payout", "list")
        assert "rejected" in await lucid("reject", name, "--reason", "sold")
    entries = await orders(house.settings)
    # Each command that was sent, and no other one: also the one that was refused.
    written = [encode(one.data.command) for one in entries if isinstance(one.data, NodeOrdered)]
    assert sorted(written) == sorted(await sent(house.settings, "node.commands"))
    assert len(written) == len(entries) == 21
    assert {one.user for one in entries} == {acting_user()}
    assert {one.subject for one in entries} == {name, "north"}
    last = entries[-1].data
    assert isinstance(last, NodeOrdered)
    assert (last.command.action, last.command.reason) == ("reject", "sold")
    later = json.loads(await lucid("credits", name, "--as-of", "2100-01-01T00:00:00Z", "--json"))
    assert [one["credits"] for one in later["credits"]] == ["0"]
    soon = json.loads(await lucid("credits", "--as-of", "5m", "--json"))
    assert [one["beats"] for one in soon["credits"]] in ([1], [2])
    assert name in await lucid("credits")
    assert "0 " in await lucid("credits", "nobody")


async def test_no_command_is_sent_that_is_not_audited(
    house: House, lucid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_topic, "Audit", FullDisk)
    with pytest.raises(AuditFailed):
        await lucid("pool", "create", "north")
    assert await sent(house.settings, "node.commands") == []


async def test_a_command_that_makes_no_sense_says_so(lucid: Any) -> None:
    for arguments, message in (
        (["show", "nobody"], "no node nobody"),
        (["pool", "show", "nothing"], "no pool nothing"),
        (["payout", "request", "desk7", "1.50"], "not valid"),
        (["approve", "Desk 7"], "not valid"),
        (["maintenance", "desk7", "--until", "soon"], "no time"),
        (["maintenance", "desk7", "--until", "2026-11-25T20:00:00"], "no offset"),
    ):
        with pytest.raises(LucidError, match=message):
            await lucid(*arguments)
    for arguments in ([], ["--until", "5m", "--end"]):
        with pytest.raises(SystemExit):
            await lucid("maintenance", "desk7", *arguments)
