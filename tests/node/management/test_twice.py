"""Records that come twice, as after a kill at any moment: one state, the same bytes told."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agents.node.management import orders, registrations
from agents.node.management.agent import challenge_secret
from agents.node.management.asking import ask
from agents.node.management.heartbeats import Heartbeats
from agents.node.management.keeper import Keeper, Overtaken, Shelves
from agents.node.management.metrics import ManagementMetrics
from agents.node.management.outlet import Outlet, Told
from agents.node.management.settings import NodeManagementSettings
from agents.platform.answers import NoAnswer
from agents.platform.keys import KeyUnreadable
from agents.platform.lanes import Record
from agents.platform.settings import SettingsError
from schemas.canonical import Strict, encode
from schemas.node_base import CLOCK, SECOND, ClockTicked, subject_of
from schemas.node_commands import NodeCommand
from schemas.node_health import LogClock, Rules
from schemas.node_heartbeats import HeartbeatEvent, HeartbeatSent
from schemas.node_pools import Scaling
from schemas.node_registration import ChallengeIssued, RegistrationEvent, answer
from schemas.node_states import NodeState
from tests.node.conftest import House
from tests.node.factories import BEGIN, SECRET, approved, command, heartbeat, request, signer

pytestmark = pytest.mark.stack


class Heard(Outlet):
    """Keeps what is told instead of sending it."""

    told: list[tuple[str, Any]]

    async def send(self, told: Sequence[Told]) -> None:
        for one in told:
            topic, event = self.event(one)
            self.told.append((topic, event.to_kafka()))


class Desk:
    """The handlers over a real catalog, given records by hand."""

    def __init__(self, house: House) -> None:
        self.outlet = Heard(house.producer, house.contract, "lucid/node-management/h")
        object.__setattr__(self.outlet, "told", [])
        self.keeper = Keeper(house.states.catalog, self.outlet)
        self.requests = registrations.Registrations(self.keeper, SECRET)
        self.orders = orders.Orders(self.keeper, Scaling())
        metrics = ManagementMetrics(CollectorRegistry())
        self.beats = Heartbeats(self.keeper, Rules(), Scaling(), metrics)
        self.offset = 0

    def record(self, data: Strict, at: int = BEGIN) -> Record:
        """The next record of its topic."""
        self.offset += 1
        if isinstance(data, NodeCommand):
            key, headers, value = data.about.encode(), [], encode(data)
        else:
            kind = HeartbeatEvent if isinstance(data, HeartbeatSent) else RegistrationEvent
            key, found, value = kind(data, "lucid/t/h", subject_of(data)).to_kafka()
            headers = [*found]
        return Record(
            topic="t", partition=0, offset=self.offset, timestamp=at // 1000, key=key,
            headers=tuple(headers), value=value, replay=None,
        )  # fmt: skip

    async def take(self, record: Record, kind: str) -> None:
        if kind == "registration":
            await self.requests.handle(registrations.parse(record), record)
        elif kind == "commands":
            await self.orders.handle(orders.parse(record), record)
        else:
            assert await self.beats.take([record]) == {}

    async def twice(self, data: Strict, kind: str, at: int = BEGIN) -> list[tuple[str, Any]]:
        """Handle a record; killed before it is kept, and again after; what was told at first."""
        record, start = self.record(data, at), len(self.outlet.told)
        with pytest.MonkeyPatch.context() as patch:

            async def overtaken(*_: Any) -> None:
                raise Overtaken("killed here")

            for name in ("write_nodes", "write"):
                patch.setattr(Keeper, name, overtaken)
            with contextlib.suppress(Overtaken):
                await self.take(record, kind)
        first = self.outlet.told[start:]
        await self.take(record, kind)
        second = self.outlet.told[start + len(first) :]
        assert second == first, "what is told again is told in the same bytes"
        kept = await self.states()
        again = len(self.outlet.told)
        await self.take(record, kind)
        assert await self.states() == kept
        assert set(map(repr, self.outlet.told[again:])) <= set(map(repr, first))
        return first

    async def states(self) -> Any:
        keeper = self.keeper
        pools = {name: pool.model_copy(update={"version": 0})
                 for name, pool in (await keeper.pools()).items()}  # fmt: skip
        payouts = [one.model_copy(update={"version": 0}) for one in await keeper.payouts()]
        return await keeper.nodes(), pools, payouts


async def test_every_kind_of_record_may_come_twice(house: House) -> None:
    desk = Desk(house)
    told = await desk.twice(request(), "registration")
    assert [topic for topic, _ in told] == ["node.registration", "node.lifecycle"]
    issued = RegistrationEvent.from_kafka(*told[0][1]).data
    assert isinstance(issued, ChallengeIssued)
    assert len(await desk.twice(answer(signer(), issued), "registration", BEGIN + SECOND)) == 1
    at = BEGIN + 2 * SECOND
    for number, (action, fields) in enumerate([
        ("approve", {"node": "desk7"}), ("maintain", {"node": "desk7", "ends": at + SECOND}),
        ("end_maintenance", {"node": "desk7"}), ("pool_create", {"pool": "p"}),
        ("pool_add", {"pool": "p", "node": "desk7"}), ("pool_maintain", {"pool": "p"}),
        ("pool_resume", {"pool": "p"}), ("pool_remove", {"pool": "p", "node": "desk7"}),
        ("pool_disband", {"pool": "p"}), ("payout_request", {"node": "desk7", "amount": "1"}),
        ("payout_complete", {"node": "desk7", "payout": "0" * 8 + "-0000-4000-8000-000000000001"}),
    ]):  # fmt: skip
        made = command(action, 200 + number, **fields)
        told = await desk.twice(made, "commands", at)
        assert told[-1][0] == "node.lifecycle", action
    told = await desk.twice(heartbeat(1, at), "heartbeats", at)
    assert sorted(topic for topic, _ in told) == ["node.lifecycle", "node.metrics", "node.work"]
    assert len(await desk.twice(heartbeat(1, at + 1), "heartbeats", at)) == 1
    await desk.twice(command("reject", 300, node="desk7"), "commands", at)
    state = await desk.keeper.node("desk7")
    assert (state.state, state.counter) == ("rejected", 1)


async def test_ticks_may_come_twice_and_late_ones_age_nobody(house: House) -> None:
    desk = Desk(house)
    await desk.keeper.write_nodes(Shelves([]), [approved(name) for name in ("a", "b", "desk7")])
    first = [desk.record(heartbeat(1, BEGIN, name)) for name in ("a", "b", "desk7")]
    old = desk.record(heartbeat(9, BEGIN + SECOND, "a"), BEGIN)
    ticks = [tick(desk, BEGIN + minutes * 60 * SECOND) for minutes in range(1, 11)]
    assert await desk.beats.take([*first, *ticks]) == {}
    health = {name: one.health for name, one in (await desk.keeper.nodes()).items()}
    assert health == {"a": "offline", "b": "offline", "desk7": "offline"}
    told, kept = [*desk.outlet.told], await desk.states()
    assert await desk.beats.take([*first, *ticks]) == {}
    assert (desk.outlet.told, await desk.states()) == (told, kept)
    late = desk.record(heartbeat(10, BEGIN + 600 * SECOND, "b"), BEGIN + 600 * SECOND)
    assert await desk.beats.take([old, *ticks, late, *ticks]) == {}
    assert (await desk.keeper.node("b")).health == "healthy"


def tick(desk: Desk, at: int) -> Record:
    desk.offset += 1
    key, headers, value = HeartbeatEvent(ClockTicked(host="h"), "lucid/t/h", CLOCK).to_kafka()
    return Record(
        topic="t", partition=0, offset=desk.offset, timestamp=at // 1000, key=key,
        headers=tuple(headers), value=value, replay=None,
    )  # fmt: skip


async def test_registrations_expire_by_ticks_of_their_own_log(house: House) -> None:
    desk = Desk(house)
    await desk.take(desk.record(request()), "registration")
    for seconds, state in ((120, "challenged"), (121, "expired"), (122, "expired")):
        made = desk.record(ClockTicked(host="h"), BEGIN + seconds * SECOND)
        await desk.take(made, "registration")
        assert (await desk.keeper.node("desk7")).state == state


async def test_two_managers_meet_at_the_version(house: House) -> None:
    keeper = Desk(house).keeper
    mine, other = await keeper.shelves(["a"]), await keeper.shelves(["a"])
    await keeper.write_nodes(other, [approved("a")])
    with pytest.raises(Overtaken, match="another manager"):
        await keeper.write_nodes(mine, [NodeState(node="a", misses=3)])
    clock = await keeper.clock()
    await keeper.keep_clock(clock, LogClock(1, 1), 1)
    with pytest.raises(Overtaken, match="the clock"):
        await keeper.keep_clock(clock, LogClock(1, 1), 1)


async def test_a_command_without_a_manager_is_told(house: House) -> None:
    with pytest.raises(NoAnswer, match="node-management"):
        await ask(house.settings, command("approve", node="desk7"), 0.5)


def test_the_secret_is_made_once_and_checked(tmp_path: Path) -> None:
    first = challenge_secret(tmp_path / "keys")
    assert (len(first), challenge_secret(tmp_path / "keys")) == (32, first)
    path = tmp_path / "keys" / "node-management.secret"
    assert path.stat().st_mode & 0o777 == 0o600
    for text in ("xyz", "abcd", ""):
        path.write_text(text)
        with pytest.raises(KeyUnreadable, match="made anew"):
            challenge_secret(tmp_path / "keys")


def test_thresholds_that_cross_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_NODE_MANAGEMENT_SCALE_UP", "0.5")
    monkeypatch.setenv("LUCID_NODE_MANAGEMENT_SCALE_DOWN", "0.5")
    with pytest.raises(SettingsError, match="scale_down"):
        NodeManagementSettings.load()
