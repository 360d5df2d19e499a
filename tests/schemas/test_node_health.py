"""Heartbeats and health: by the log's clock, whatever is replayed, reordered or set back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.node_base import SECOND
from schemas.node_events import AlertChanged, HealthChanged, MaintenanceChanged, WorkCounted
from schemas.node_health import (
    SLOTS_A_DAY,
    LogClock,
    Rules,
    aged,
    judge,
    refused,
    silence,
    take_heartbeat,
)
from schemas.node_heartbeats import SLOT, HeartbeatSent
from schemas.node_states import NodeRefused, NodeState, Step, end_maintenance, plan, reject
from tests.node.factories import BEGIN, approved, command, heartbeat, ids, signer, slot_work

RULES = Rules()
MINUTE = 60 * SECOND


def alive(at: int = BEGIN, counter: int = 5) -> NodeState:
    return take_heartbeat(approved(), heartbeat(counter, at), at).state


def tick(state: NodeState, now: int, since: int = 0) -> Step:
    return aged(state, LogClock(now, since), RULES)


def health(step: Step) -> list[tuple[str, int]]:
    return [(one.health, one.misses) for one in step.events if isinstance(one, HealthChanged)]


def alerts(step: Step) -> list[tuple[str, str]]:
    return [(one.alert, one.state) for one in step.events if isinstance(one, AlertChanged)]


def cause(state: NodeState, sent: HeartbeatSent, at: int) -> str:
    with pytest.raises(NodeRefused) as caught:
        take_heartbeat(state, sent, at)
    return caught.value.cause


def test_a_node_is_healthy_for_five_minutes_then_stale_then_offline_after_five_misses() -> None:
    state = alive()
    assert tick(state, BEGIN + 300 * SECOND - 1).events == ()
    stale = tick(state, BEGIN + 300 * SECOND)
    assert health(stale) == [("stale", 0)]
    assert alerts(stale) == [("node_stale", "raised")]
    assert tick(stale.state, BEGIN + 300 * SECOND) == Step(stale.state)
    missed = tick(stale.state, BEGIN + 599 * SECOND)
    assert (health(missed), missed.state.misses) == ([], 4)
    gone = tick(missed.state, BEGIN + 600 * SECOND)
    assert health(gone) == [("offline", 5)]
    assert alerts(gone) == [("node_offline", "raised"), ("node_stale", "resolved")]
    assert tick(gone.state, BEGIN + 10**12) == Step(gone.state)
    back = take_heartbeat(gone.state, heartbeat(6, BEGIN + 11 * MINUTE), BEGIN + 11 * MINUTE)
    assert health(back) == [("healthy", 0)]
    assert alerts(back) == [("node_offline", "resolved")]


def test_a_node_may_be_offline_at_its_first_look() -> None:
    step = tick(alive(), BEGIN + 3600 * SECOND)
    assert health(step) == [("offline", 5)]
    assert alerts(step) == [("node_offline", "raised")]


def test_a_node_that_never_sent_one_is_not_called_silent() -> None:
    assert tick(approved(), BEGIN + 10**12).events == ()


def test_what_is_wrong_with_a_heartbeat_is_told_by_its_name() -> None:
    state, at = alive(), BEGIN + MINUTE
    good = heartbeat(6, at)
    thief = heartbeat(6, at, key=signer("thief"))
    other = heartbeat(6, at, node="desk8")
    assert cause(approved(state="rejected"), good, at) == "NotApproved"
    assert cause(NodeState(node="desk7"), good, at) == "NotApproved"
    assert cause(state, thief, at) == "BadSignature"
    assert cause(state, other.model_copy(update={"node": "desk7"}), at) == "AnotherNode"
    assert cause(state, heartbeat(5, at), at) == "Replayed"
    assert cause(state, heartbeat(4, at), at) == "Replayed"
    assert cause(state, heartbeat(6, at + 121 * SECOND), at) == "ClockSkew"
    assert cause(state, heartbeat(6, at - 121 * SECOND), at) == "ClockSkew"
    changed = good.beat.model_copy(update={"counter": 7})
    assert cause(state, good.model_copy(update={"beat": changed}), at) == "BadSignature"
    for slots in ([1, 0], [0, 0], [1], [-31]):
        work = [slot_work(at // SLOT + one) for one in slots]
        assert cause(state, heartbeat(6, at, work=work), at) == "BadWork", slots
    whole = [slot_work(at // SLOT + one) for one in range(-30, 1)]
    assert take_heartbeat(state, heartbeat(6, at, work=whole), at).state.counter == 6
    assert take_heartbeat(state, heartbeat(6, at - 120 * SECOND), at).state.counter == 6


def test_the_same_heartbeat_again_is_no_replay_and_an_older_one_is() -> None:
    first = heartbeat(5, BEGIN)
    state = take_heartbeat(approved(), first, BEGIN).state
    assert take_heartbeat(state, first, BEGIN + 1) == Step(state)
    newer = take_heartbeat(state, heartbeat(6, BEGIN + MINUTE), BEGIN + MINUTE).state
    assert cause(newer, first, BEGIN + MINUTE) == "Replayed"


def test_a_node_that_comes_back_with_another_key_counts_anew() -> None:
    state = alive(counter=900)
    assert state.registration is not None
    moved = state.registration.model_copy(update={"key": str(signer("new").verifier)})
    other = state.model_copy(update={"registration": moved})
    taken = take_heartbeat(other, heartbeat(1, BEGIN, key=signer("new")), BEGIN).state
    assert taken.counter == 1
    assert cause(taken, heartbeat(1, BEGIN + 1, key=signer("new")), BEGIN) == "Replayed"
    assert cause(taken, heartbeat(901, BEGIN), BEGIN) == "BadSignature"


def test_a_rejected_node_leaves_no_alert_of_its_health() -> None:
    gone = tick(alive(), BEGIN + 3600 * SECOND).state
    out = reject(gone, command("reject", node="desk7"))
    assert alerts(out) == [("node_offline", "resolved")]
    assert (out.state.alerts, out.state.health) == ({}, "unknown")


def test_many_refused_heartbeats_are_one_alert_that_goes_when_they_stop() -> None:
    state, error = alive(), NodeRefused("Replayed", "again")
    step = refused(state, error, BEGIN, "heartbeats offset 7")
    assert alerts(step) == [("heartbeat_refused", "raised")]
    again = refused(step.state, error, BEGIN + MINUTE, "heartbeats offset 8")
    assert again.events == ()
    assert ("heartbeat_refused", "resolved") not in alerts(tick(again.state, BEGIN + 10 * MINUTE))
    assert ("heartbeat_refused", "resolved") in alerts(tick(again.state, BEGIN + 11 * MINUTE))
    stranger = NodeState(node="x")
    assert refused(stranger, error, BEGIN, "") == Step(stranger)


def test_a_clock_that_jumps_makes_nobody_late() -> None:
    state, clock = alive(), LogClock().at(BEGIN)
    for seconds in range(15, 300, 15):
        clock = clock.at(BEGIN + seconds * SECOND)
    assert silence(state, clock) == 285 * SECOND
    ahead = clock.at(BEGIN + 7200 * SECOND)
    assert aged(state, ahead, RULES).events == ()
    assert silence(state, ahead) == 0
    back = ahead.at(BEGIN + 330 * SECOND)
    assert back == LogClock(BEGIN + 330 * SECOND, BEGIN + 330 * SECOND)
    # What was heard while the clock was ahead says nothing once it is right again.
    early = take_heartbeat(state, heartbeat(6, BEGIN + 7200 * SECOND), BEGIN + 7200 * SECOND).state
    later = back
    for seconds in range(345, 646, 15):
        later = later.at(BEGIN + seconds * SECOND)
    assert health(aged(early, later, RULES)) == [("stale", 0)]


def test_small_steps_back_do_not_turn_the_clock() -> None:
    clock = LogClock(BEGIN, BEGIN).at(BEGIN + MINUTE).at(BEGIN + MINUTE - SECOND)
    assert clock == LogClock(BEGIN + MINUTE, BEGIN)


def test_work_is_told_by_days_and_minutes_are_bits() -> None:
    midnight = (BEGIN // (86_400 * SECOND) + 1) * 86_400 * SECOND
    slot = midnight // SLOT
    at = midnight + 61 * SECOND
    work = [slot_work(slot - 1, relay=5), slot_work(slot, signatures=2)]
    step = take_heartbeat(approved(), heartbeat(1, at, work=work), at)
    told = [one for one in step.events if isinstance(one, WorkCounted)]
    assert [(one.day, one.beat_slot, one.beats, len(one.work)) for one in told] == [
        (slot // SLOTS_A_DAY - 1, None, 0, 1), (slot // SLOTS_A_DAY, slot, 2, 1),
    ]  # fmt: skip
    plain = take_heartbeat(approved(), heartbeat(1, midnight), midnight)
    assert [one.beats for one in plain.events if isinstance(one, WorkCounted)] == [1]


# Maintenance ----------------------------------------------------------------------------------


def window(begins: int | None, ends: int, number: int = 100) -> Any:
    return command("maintain", number, node="desk7", begins=begins, ends=ends)


def told(step: Step) -> list[bool]:
    return [one.active for one in step.events if isinstance(one, MaintenanceChanged)]


def test_a_window_opens_and_closes_by_the_logs_clock_and_keeps_alerts_away() -> None:
    planned = plan(alive(), window(BEGIN + MINUTE, BEGIN + 90 * MINUTE), BEGIN)
    assert told(planned) == [False]
    assert told(tick(planned.state, BEGIN + MINUTE - 1)) == []
    inside = tick(planned.state, BEGIN + MINUTE)
    assert told(inside) == [True]
    assert not inside.state.active
    gone = tick(inside.state, BEGIN + 20 * MINUTE)
    assert (health(gone), alerts(gone)) == ([("offline", 5)], [])
    over = tick(gone.state, BEGIN + 90 * MINUTE)
    assert told(over) == [False]
    assert over.state.windows == []


def test_maintenance_at_once_and_its_end() -> None:
    step = plan(alive(), window(None, BEGIN + MINUTE), BEGIN)
    assert told(step) == [True]
    assert plan(step.state, window(None, BEGIN + MINUTE), BEGIN + SECOND) == Step(step.state)
    later = plan(step.state, window(BEGIN + 5 * MINUTE, BEGIN + 6 * MINUTE, 101), BEGIN).state
    ended = end_maintenance(later, BEGIN + SECOND)
    assert told(ended) == [False]
    assert [one.id for one in ended.state.windows] == [ids(101)]
    assert end_maintenance(ended.state, BEGIN + SECOND) == Step(ended.state)


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (None, BEGIN), (None, BEGIN - 1), (BEGIN + 5, BEGIN + 5), (BEGIN + 9, BEGIN + 8),
        (None, BEGIN + 31 * 86_400 * SECOND),
        (BEGIN + 367 * 86_400 * SECOND, BEGIN + 367 * 86_400 * SECOND + 1),
    ],
)  # fmt: skip
def test_windows_that_make_no_sense_are_refused(begins: int | None, ends: int) -> None:
    with pytest.raises(NodeRefused) as caught:
        plan(alive(), window(begins, ends), BEGIN)
    assert caught.value.cause == "BadWindow"


def test_windows_are_of_approved_nodes_and_few() -> None:
    with pytest.raises(NodeRefused, match="not approved"):
        plan(NodeState(node="desk7"), window(None, BEGIN + 1), BEGIN)
    state = alive()
    for number in range(20):
        state = plan(state, window(None, BEGIN + MINUTE, number), BEGIN).state
    with pytest.raises(NodeRefused, match="20 windows"):
        plan(state, window(None, BEGIN + MINUTE, 20), BEGIN)


@given(quiet=st.integers(0, 10**10), more=st.integers(0, 10**10))
def test_more_silence_is_never_better(quiet: int, more: int) -> None:
    order = ["healthy", "stale", "offline"]
    first, second = judge(quiet, RULES), judge(quiet + more, RULES)
    assert (order.index(first[0]), first[1]) <= (order.index(second[0]), second[1])


class Living(RuleBasedStateMachine):
    """Good, old, forged and repeated heartbeats, ticks, and a clock that jumps either way."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = LogClock().at(BEGIN)
        self.time, self.counter = BEGIN, 0
        self.state = approved()
        self.sent: list[HeartbeatSent] = []
        self.heard: int | None = None
        self.raised: set[str] = set()

    def follow(self, step: Step) -> None:
        for name, state in alerts(step):
            assert (name in self.raised) is (state == "resolved"), "each alert is told once"
            (self.raised.add if state == "raised" else self.raised.discard)(name)
        self.state = step.state

    def record(self) -> int:
        self.clock = self.clock.at(self.time)
        return self.time

    @rule(seconds=st.integers(0, 140))
    def tick(self, seconds: int) -> None:
        self.time += seconds * SECOND
        self.record()
        before = self.state.health
        self.follow(aged(self.state, self.clock, RULES))
        order = ["unknown", "healthy", "stale", "offline"]
        assert order.index(self.state.health) >= order.index(before)

    @rule(seconds=st.integers(-10_000, 10_000))
    def jump(self, seconds: int) -> None:
        """A jump alone makes nobody worse."""
        before, far = self.state.health, abs(seconds) > 150
        self.time = max(BEGIN, self.time + seconds * SECOND)
        moved = abs(self.time - self.clock.now) > 150 * SECOND
        self.record()
        self.follow(aged(self.state, self.clock, RULES))
        if far and moved:
            assert self.state.health == before

    @rule()
    def beat(self) -> None:
        self.counter += 1
        sent = heartbeat(self.counter, self.time)
        self.sent.append(sent)
        self.heard = self.record()
        self.follow(take_heartbeat(self.state, sent, self.time))
        assert self.state.health == "healthy"

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), forged=st.booleans())
    def repeat(self, data: Any, forged: bool) -> None:
        old = data.draw(st.sampled_from(self.sent))
        if forged:
            changed = old.beat.model_copy(update={"counter": self.counter + 1})
            old = old.model_copy(update={"beat": changed})
        before, at = self.state, self.record()
        try:
            step = take_heartbeat(before, old, at)
        except NodeRefused as error:
            step = refused(before, error, at, "here")
        self.follow(step)
        assert (self.state.counter, self.state.last_heard) == (before.counter, before.last_heard)
        assert self.state.health == before.health

    @invariant()
    def what_is_known_is_true(self) -> None:
        assert self.state.last_heard == self.heard
        assert set(self.state.alerts) == self.raised
        assert ("node_offline" in self.raised) is (self.state.health == "offline")
        if self.state.health in ("stale", "offline"):
            assert self.heard is not None


Living.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLiving = Living.TestCase
