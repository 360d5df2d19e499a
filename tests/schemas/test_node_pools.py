"""Pools: states that follow from their members, hints with thresholds and a cooldown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schemas.node_base import SECOND
from schemas.node_events import AlertChanged, PoolChanged, ScalingHinted
from schemas.node_pools import PoolState, PoolStep, Scaling, command_pool, load_of, refreshed
from schemas.node_states import NodeRefused, NodeState
from tests.node.factories import BEGIN, approved, command, figures

NODES = [f"n{number}" for number in range(6)]
SCALING = Scaling()


def node(name: str, healthy: bool = True, load: int = 500, **more: Any) -> NodeState:
    return approved(
        name, health="healthy" if healthy else "offline",
        figures=figures(cpu=load, memory=0, sessions=0), **more,
    )  # fmt: skip


def nodes(healthy: int = 6, load: int = 500) -> dict[str, NodeState]:
    return {name: node(name, at < healthy, load) for at, name in enumerate(NODES)}


def pool_of(*members: str, known: dict[str, NodeState] | None = None) -> PoolState:
    pool = command_pool(None, command("pool_create", pool="p"), {}, {})
    for member in members:
        pool = command_pool(pool, command("pool_add", pool="p", node=member), known or nodes(), {})
    return refreshed(pool, known or nodes(), BEGIN, SCALING).state


def changes(step: PoolStep) -> list[tuple[str, int]]:
    return [(one.state, len(one.active)) for one in step.events if isinstance(one, PoolChanged)]


def alerts(step: PoolStep) -> list[str]:
    return [one.state for one in step.events if isinstance(one, AlertChanged)]


def hints(step: PoolStep) -> list[str]:
    return [one.direction for one in step.events if isinstance(one, ScalingHinted)]


def test_a_pool_forms_is_active_with_three_and_degraded_with_fewer() -> None:
    assert pool_of().state == "forming"
    assert pool_of("n0", "n1").state == "forming"
    pool = pool_of("n0", "n1", "n2")
    assert (pool.state, pool.active) == ("active", ["n0", "n1", "n2"])
    assert refreshed(pool, nodes(), BEGIN, SCALING) == PoolStep(pool)
    less = refreshed(pool, nodes(healthy=2), BEGIN, SCALING)
    assert (changes(less), alerts(less)) == ([("degraded", 2)], ["raised"])
    back = refreshed(less.state, nodes(), BEGIN, SCALING)
    assert (changes(back), alerts(back)) == ([("active", 3)], ["resolved"])


def test_a_pool_that_loses_all_its_members_at_once_says_so_once() -> None:
    pool = pool_of(*NODES)
    step = refreshed(pool, nodes(healthy=0), BEGIN, SCALING)
    assert (changes(step), alerts(step), hints(step)) == ([("degraded", 0)], ["raised"], [])
    assert refreshed(step.state, nodes(healthy=0), BEGIN, SCALING) == PoolStep(step.state)
    assert refreshed(step.state, {}, BEGIN, SCALING) == PoolStep(step.state)


def test_maintenance_hides_the_number_of_members_until_it_ends() -> None:
    pool = command_pool(pool_of("n0", "n1", "n2"), command("pool_maintain", pool="p"), {}, {})
    step = refreshed(pool, nodes(healthy=1), BEGIN, SCALING)
    assert (changes(step), alerts(step)) == ([("maintenance", 1)], [])
    back = command_pool(step.state, command("pool_resume", pool="p"), {}, {})
    step = refreshed(back, nodes(healthy=1), BEGIN, SCALING)
    assert (changes(step), alerts(step)) == ([("degraded", 1)], ["raised"])


def test_a_node_in_maintenance_is_no_active_member() -> None:
    known = {**nodes(), "n0": node("n0", in_maintenance=True)}
    assert pool_of("n0", "n1", "n2", known=known).state == "forming"


def test_a_disbanded_pool_is_over_and_its_name_is_free() -> None:
    gone = command_pool(pool_of("n0"), command("pool_disband", pool="p"), {}, {})
    step = refreshed(gone, nodes(), BEGIN, SCALING)
    assert (changes(step), step.state.members) == ([("disbanded", 0)], [])
    assert command_pool(step.state, command("pool_disband", pool="p"), {}, {}) == step.state
    with pytest.raises(NodeRefused, match="no pool p"):
        command_pool(step.state, command("pool_add", pool="p", node="n0"), nodes(), {})
    kept = step.state.model_copy(update={"version": 4})
    again = command_pool(kept, command("pool_create", 101, pool="p"), {}, {})
    assert (again.disbanded, again.version, again.state) == (False, 4, "forming")


def test_commands_that_cannot_be_are_refused_and_repeated_ones_are_not() -> None:
    pool = pool_of("n0")
    assert command_pool(pool, command("pool_create", pool="p"), {}, {}) == pool
    assert command_pool(pool, command("pool_add", pool="p", node="n0"), nodes(), {}) == pool
    wrong = {
        "PoolExists": (pool, command("pool_create", 101, pool="p")),
        "NoSuchPool": (None, command("pool_add", pool="p", node="n0")),
        "NotApproved": (pool, command("pool_add", pool="p", node="nobody")),
        "InAnotherPool": (pool, command("pool_add", pool="p", node="n3")),
        "NotAMember": (pool, command("pool_remove", pool="p", node="n4")),
        "PoolFull": (
            pool.model_copy(update={"members": [f"m{n}" for n in range(1000)]}),
            command("pool_add", pool="p", node="n5"),
        ),
    }  # fmt: skip
    for cause, (before, order) in wrong.items():
        with pytest.raises(NodeRefused) as caught:
            command_pool(before, order, nodes(), {"n3": "q"})
        assert caught.value.cause == cause
    left = command_pool(pool, command("pool_remove", pool="p", node="n0"), {}, {})
    assert left.members == []


def test_a_hint_needs_the_threshold_and_waits_for_the_cooldown() -> None:
    pool = pool_of("n0", "n1", "n2", "n3")
    assert hints(refreshed(pool, nodes(load=799), BEGIN, SCALING)) == []
    first = refreshed(pool, nodes(load=800), BEGIN, SCALING)
    assert hints(first) == ["up"]
    wait = SCALING.cooldown
    assert hints(refreshed(first.state, nodes(load=990), BEGIN + wait - 1, SCALING)) == []
    assert hints(refreshed(first.state, nodes(load=990), BEGIN + wait, SCALING)) == ["up"]
    assert hints(refreshed(first.state, nodes(load=990), BEGIN - wait, SCALING)) == ["up"]
    assert hints(refreshed(pool, nodes(load=301), BEGIN, SCALING)) == []
    assert hints(refreshed(pool, nodes(load=300), BEGIN, SCALING)) == ["down"]


def test_a_pool_of_three_is_never_told_to_shrink_and_a_forming_one_nothing() -> None:
    assert hints(refreshed(pool_of("n0", "n1", "n2"), nodes(load=0), BEGIN, SCALING)) == []
    assert hints(refreshed(pool_of("n0"), nodes(load=999), BEGIN, SCALING)) == []


def test_the_load_is_that_of_the_fullest_part() -> None:
    assert load_of(approved()) == 0
    for changes_, load in (
        ({"cpu": 700, "memory": 20, "sessions": 0}, 700),
        ({"cpu": 7, "memory": 920, "sessions": 0}, 920),
        ({"cpu": 7, "memory": 20, "sessions": 5}, 500),
        ({"cpu": 7, "memory": 20, "sessions": 50}, 1000),
    ):
        assert load_of(approved(figures=figures(**changes_))) == load


class Pooling(RuleBasedStateMachine):
    """Nodes come, go and fail, alone or all at once; two pools, commands again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = nodes(healthy=0)
        self.pools: dict[str, PoolState] = {}
        self.now, self.number = BEGIN, 0
        self.degraded: set[str] = set()
        self.hinted: dict[str, int] = {}

    def follow(self, name: str, step: PoolStep) -> None:
        for one in step.events:
            if isinstance(one, AlertChanged):
                assert (name in self.degraded) is (one.state == "resolved")
                (self.degraded.add if one.state == "raised" else self.degraded.discard)(name)
            if isinstance(one, ScalingHinted):
                assert self.now - self.hinted.get(name, 0) >= SCALING.cooldown
                self.hinted[name] = self.now
        self.pools[name] = step.state

    def homes(self, but: str) -> dict[str, str]:
        return {
            one: name for name, pool in self.pools.items() if name != but for one in pool.members
        }

    @rule(
        name=st.sampled_from(["p", "q"]), member=st.sampled_from(NODES),
        action=st.sampled_from(["create", "add", "add", "add", "add", "remove", "disband",
                                "maintain", "resume"]),
    )  # fmt: skip
    def order(self, name: str, member: str, action: str) -> None:
        self.number += 1
        wanted = command(f"pool_{action}", self.number, pool=name, node=member)
        try:
            pool = command_pool(self.pools.get(name), wanted, self.nodes, self.homes(name))
        except NodeRefused:
            return
        if action == "create":
            self.hinted.pop(name, None)
        self.follow(name, refreshed(pool, self.nodes, self.now, SCALING, told=True))

    @rule(up=st.sets(st.sampled_from(NODES)), load=st.integers(0, 1000), wait=st.integers(0, 400))
    def tick(self, up: set[str], load: int, wait: int) -> None:
        self.now += wait * SECOND
        self.nodes = {name: node(name, name in up, load) for name in NODES}
        for name, pool in self.pools.items():
            self.follow(name, refreshed(pool, self.nodes, self.now, SCALING))

    @invariant()
    def states_are_true(self) -> None:
        members = [one for pool in self.pools.values() for one in pool.members]
        assert len(set(members)) == len(members), "a node is in one pool at most"
        for name, pool in self.pools.items():
            active = [one for one in pool.members if self.nodes[one].active]
            assert pool.active == active
            assert (name in self.degraded) is (pool.state == "degraded")
            if pool.state == "active":
                assert len(active) >= 3
            if pool.state in ("forming", "degraded"):
                assert len(active) < 3
            if pool.disbanded:
                assert (pool.state, pool.members) == ("disbanded", [])


Pooling.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPooling = Pooling.TestCase
