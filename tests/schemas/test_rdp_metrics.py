"""The alert machine, against a slow one that looks at everything that ever was; and its events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.canonical import InvalidModel, encode
from schemas.envelope import InvalidEvent
from schemas.errors import FormatError
from schemas.rdp_metrics import (
    GIB,
    MIB,
    Alert,
    AlertEvent,
    AlertRaised,
    AlertResolved,
    MeasuredLimits,
    MetricsEvent,
    Rule,
    ServerMetrics,
    SessionUsage,
    Subject,
    Tracked,
    Usage,
    alert_event,
    alert_id,
    evaluate,
    percents,
    resume,
    still_open,
)

S1, S2 = "01a20c5b-f2fa-7557-ac1e-5c3397094c01", "01a20c5b-f2fa-7557-ac1e-5c3397094c02"
R1, R2 = (f"01a20c5b-f2fa-7557-ac1e-5c3397094c1{number}" for number in (1, 2))
LIMITS = MeasuredLimits(cpu=2.0, memory=1000 * MIB, disk=10 * GIB)
RULES = [
    Rule("cpu", "warning", 80, 10, 60, 60, 120),
    Rule("memory", "warning", 80, 10, 60, 60, 120),
    Rule("disk", "critical", 90, 5, 0, 0, 120),
]
START = 1_795_000_000_000_000


def usage(cpu: float | None = 0.0, memory: int = 0, disk: int | None = 0) -> Usage:
    return Usage(
        cpu=cpu, memory=memory, disk=disk, processes=3, threads=3, connections=1, received=0,
        sent=0, packets_received=0, packets_sent=0,
    )  # fmt: skip


def sample(
    cpu: float | None = 0.0, memory: int = 0, disk: int | None = 0, *, server: str = S1,
    sessions: dict[str, Usage] | None = None, limits: MeasuredLimits | None = LIMITS,
) -> ServerMetrics:  # fmt: skip
    """cpu, memory and disk of the server in percent of its limits."""
    whole = usage(
        None if cpu is None else cpu / 50, memory * 10 * MIB,
        None if disk is None else disk * GIB // 10,
    )  # fmt: skip
    return ServerMetrics(
        server=server, host="desk7", seconds=30.0, limits=limits, usage=whole,
        sessions=[SessionUsage(session=name, usage=one) for name, one in (sessions or {}).items()],
        partial=False, vanished=0,
    )  # fmt: skip


@dataclass
class Machine:
    """The alert machine with clocks that go on together."""

    watch: dict[Subject, Tracked]
    clock: float = 1000.0

    def round(self, *samples: ServerMetrics, seconds: float = 30) -> list[Alert]:
        self.clock += seconds
        now = START + round(self.clock * 1e6)
        self.watch, alerts = evaluate(self.watch, samples, RULES, clock=self.clock, now=now)
        return alerts


def kinds(alerts: list[Alert]) -> list[tuple[str, str | None, str, str]]:
    return [
        (type(one).__name__, one.session, one.metric, getattr(one, "resolution", one.severity))
        for one in alerts
    ]


def test_an_alert_is_raised_when_it_was_over_for_long_enough_and_resolved_likewise() -> None:
    machine = Machine({})
    assert machine.round(sample(cpu=81)) == []
    assert machine.round(sample(cpu=99)) == []
    (raised,) = machine.round(sample(cpu=90))
    assert isinstance(raised, AlertRaised)
    assert (raised.metric, raised.severity, raised.percent, raised.over) == (
        "cpu", "warning", 90.0, 80.0)  # fmt: skip
    assert raised.since == START + round(1030 * 1e6)
    assert machine.round(sample(cpu=95)) == []
    assert machine.round(sample(cpu=75)) == []  # between: neither over nor under
    assert machine.round(sample(cpu=69)) == []
    assert machine.round(sample(cpu=70)) == []  # at the bound is not under
    assert machine.round(sample(cpu=10)) == []
    assert machine.round(sample(cpu=10)) == []
    (resolved,) = machine.round(sample(cpu=12))
    assert resolved == AlertResolved(
        id=raised.id, server=S1, session=None, host="desk7", metric="cpu", severity="warning",
        percent=12.0, resolution="below",
    )  # fmt: skip
    assert machine.watch == {}


def test_what_is_over_for_a_moment_only_raises_nothing() -> None:
    machine = Machine({})
    for _ in range(5):
        assert machine.round(sample(cpu=100)) == []
        assert machine.round(sample(cpu=100)) == []
        assert machine.round(sample(cpu=80)) == []  # at the threshold is not over it


def test_without_a_duration_one_sample_raises_and_one_resolves() -> None:
    machine = Machine({})
    assert kinds(machine.round(sample(disk=91))) == [
        ("AlertRaised", None, "disk", "critical")]  # fmt: skip
    assert machine.round(sample(disk=86)) == []
    assert kinds(machine.round(sample(disk=84))) == [("AlertResolved", None, "disk", "below")]


def test_a_session_alerts_for_itself_and_its_alert_ends_with_it() -> None:
    machine = Machine({})
    hot = {R1: usage(cpu=1.8), R2: usage(cpu=0.1)}
    for _ in range(2):
        machine.round(sample(cpu=95, sessions=hot))
    assert kinds(machine.round(sample(cpu=95, sessions=hot))) == [
        ("AlertRaised", None, "cpu", "warning"), ("AlertRaised", R1, "cpu", "warning"),
    ]  # fmt: skip
    assert kinds(machine.round(sample(cpu=95))) == [("AlertResolved", R1, "cpu", "ended")]
    assert kinds(machine.round()) == [("AlertResolved", None, "cpu", "ended")]
    assert machine.watch == {}


def test_what_cannot_be_measured_changes_nothing() -> None:
    machine = Machine({})
    for _ in range(3):
        machine.round(sample(cpu=95))
    raised = machine.watch
    assert machine.round(sample(cpu=None)) == []
    assert machine.round(sample(cpu=0, limits=None)) == []
    assert machine.watch == raised
    assert machine.round(sample(cpu=0)) == []
    assert percents(sample(limits=None))[Subject(S1, None, "cpu")] is None
    none = MeasuredLimits(cpu=0, memory=0, disk=0)
    assert set(percents(sample(cpu=9, memory=9, disk=9, limits=none)).values()) == {None}


def test_a_time_in_which_nobody_looked_counts_for_nothing() -> None:
    machine = Machine({})
    machine.round(sample(cpu=95))
    assert machine.round(sample(cpu=95), seconds=121) == []
    assert machine.round(sample(cpu=95), seconds=59) == []
    assert len(machine.round(sample(cpu=95), seconds=1)) == 1
    assert machine.round(sample(cpu=0)) == []
    assert machine.round(sample(cpu=0), seconds=500) == []
    assert machine.round(sample(cpu=0), seconds=59) == []
    assert len(machine.round(sample(cpu=0), seconds=1)) == 1


def test_a_wall_clock_that_jumps_raises_and_resolves_nothing() -> None:
    watch: dict[Subject, Tracked] = {}
    for clock, now in ((10, START), (20, START + 10**12), (30, 5), (40, START)):
        watch, alerts = evaluate(watch, [sample(cpu=99)], RULES, clock=clock, now=now)
        assert alerts == []


def test_a_metric_without_a_rule_never_alerts_and_ends_what_was_open() -> None:
    machine = Machine({})
    for _ in range(3):
        machine.round(sample(cpu=95))
    watch, alerts = evaluate(machine.watch, [sample(cpu=95)], RULES[1:], clock=1e6, now=START)
    assert (watch, kinds(alerts)) == ({}, [("AlertResolved", None, "cpu", "ended")])


def test_after_a_restart_open_alerts_go_on_and_copies_change_nothing() -> None:
    machine = Machine({})
    told: list[Alert] = []
    for _ in range(3):
        told += machine.round(sample(cpu=95, disk=95, server=S1), sample(cpu=95, server=S2))
    told += machine.round(sample(cpu=95, disk=0, server=S1), sample(cpu=95, server=S2))
    assert len(told) == 4
    left = still_open([*told, *told])
    assert {(one.server, one.metric) for one in left} == {(S1, "cpu"), (S2, "cpu")}
    watch, extra = resume(left, clock=5.0)
    assert extra == []
    watch, alerts = evaluate(watch, [sample(cpu=95)], RULES, clock=10, now=START)
    assert kinds(alerts) == [("AlertResolved", None, "cpu", "ended")]
    assert alerts[0].server == S2
    for clock in (40, 70, 99):
        watch, alerts = evaluate(watch, [sample(cpu=5)], RULES, clock=clock, now=START)
        assert alerts == []
    watch, alerts = evaluate(watch, [sample(cpu=5)], RULES, clock=100, now=START)
    assert [one.id for one in alerts] == [one.id for one in left if one.server == S1]


def test_of_two_alerts_about_the_same_the_newer_one_goes_on() -> None:
    def raised(since: int) -> AlertRaised:
        return AlertRaised(
            id=alert_id(Subject(S1, None, "cpu"), since), server=S1, session=None, host="h",
            metric="cpu", severity="warning", percent=90.0, over=80.0, since=since,
        )  # fmt: skip

    old, new = raised(5), raised(7)
    assert old.id != new.id
    watch, extra = resume([new, old], clock=1)
    (tracked,) = watch.values()
    assert tracked.alert == new
    assert kinds(extra) == [("AlertResolved", None, "cpu", "superseded")]
    assert extra[0].id == old.id


# Events ---------------------------------------------------------------------------------------


def an_alert() -> AlertRaised:
    machine = Machine({})
    (alert,) = machine.round(sample(disk=95))
    assert isinstance(alert, AlertRaised)
    return alert


def test_events_are_read_as_they_were_written() -> None:
    raised = alert_event(an_alert(), "lucid/rdp-monitor/desk7")
    assert raised.id == f"{an_alert().id}-raised"
    machine = Machine({})
    machine.round(sample(disk=95))
    (over,) = machine.round(sample(disk=0))
    resolved = alert_event(over, "lucid/rdp-monitor/desk7")
    assert resolved.id == f"{over.id}-resolved"
    metrics = MetricsEvent(sample(sessions={R1: usage()}), "lucid/rdp-monitor/desk7", S1)
    for event in (raised, resolved, metrics):
        assert type(event).from_kafka(*event.to_kafka()) == event


def test_an_event_whose_subject_is_another_server_is_refused() -> None:
    for event in (
        AlertEvent(an_alert(), "lucid/m/h", S2), MetricsEvent(sample(), "lucid/m/h", S2),
    ):  # fmt: skip
        with pytest.raises(InvalidEvent, match="another server"):
            type(event).from_kafka(*event.to_kafka())


@pytest.mark.parametrize(
    "changes",
    [{"server": ""}, {"host": "a b"}, {"seconds": -1.0}, {"seconds": float("inf")},
     {"vanished": -1}, {"sessions": [{"session": "a/b", "usage": {}}]}],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    fields = {**sample().model_dump(), **changes}
    with pytest.raises((ValueError, FormatError)):
        ServerMetrics.model_validate(fields)


def test_numbers_beyond_what_json_can_carry_are_refused() -> None:
    with pytest.raises((InvalidModel, ValueError)):
        encode(usage(memory=2**60))


# The machine against a slow one --------------------------------------------------------------


class Slow:
    """One subject and rule, all readings kept: what was raised and resolved follows from them."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.readings: list[tuple[float, float | None]] = []
        self.raised = False

    def take(self, clock: float, percent: float | None) -> str:
        self.readings.append((clock, percent))
        if percent is None:
            return ""
        if not self.raised and self._held(lambda one: one > self.rule.over, self.rule.raise_after):
            self.raised = True
            self.readings = [(clock, percent)]
            return "raised"
        under = self.rule.over - self.rule.hysteresis
        if self.raised and self._held(lambda one: one < under, self.rule.resolve_after):
            self.raised = False
            self.readings = []
            return "resolved"
        return ""

    def _held(self, check: Any, seconds: float) -> bool:
        """Whether the newest readings pass for so long, without a pause that is too long."""
        known = [(clock, one) for clock, one in self.readings if one is not None]
        newest = known[-1][0]
        last = newest
        for clock, percent in reversed(known):
            if not check(percent) or last - clock > self.rule.patience:
                return False
            last = clock
            if newest - clock >= seconds:
                return True
        return False


class AlertMachine(RuleBasedStateMachine):
    """Readings at any pace, clocks that jump, restarts at any time, sessions that end."""

    @initialize(
        over=st.integers(20, 95), hysteresis=st.integers(0, 20), raise_after=st.integers(0, 90),
        resolve_after=st.integers(0, 90),
    )  # fmt: skip
    def begin(self, over: int, hysteresis: int, raise_after: int, resolve_after: int) -> None:
        self.rule = Rule("cpu", "warning", over, hysteresis, raise_after, resolve_after, 120)
        self.slow = Slow(self.rule)
        self.watch: dict[Subject, Tracked] = {}
        self.clock, self.wall = 100.0, START
        self.topic: list[Alert] = []

    @rule(
        percent=st.one_of(st.none(), st.integers(0, 120), st.sampled_from([0, 100])),
        seconds=st.sampled_from([1, 30, 45, 119, 120, 121, 400]),
        jump=st.sampled_from([0, 0, -(10**9), 10**9]),
        times=st.integers(1, 4),
    )
    def read(self, percent: int | None, seconds: int, jump: int, times: int) -> None:
        for _ in range(times):
            self.clock += seconds
            self.wall = max(1, self.wall + seconds * 1_000_000 + jump)
            self.watch, alerts = evaluate(
                self.watch, [sample(cpu=percent)], [self.rule], clock=self.clock, now=self.wall
            )
            expected = self.slow.take(self.clock, percent)
            names = {AlertRaised: "raised", AlertResolved: "resolved"}
            assert [names[type(one)] for one in alerts] == ([expected] if expected else [])
            self.topic += alerts

    @rule()
    def restart(self) -> None:
        """Only the topic is left, some of it twice; durations that ran begin anew."""
        self.clock += 0.5
        self.watch, extra = resume(still_open(self.topic + self.topic[-1:]), clock=self.clock)
        assert extra == []
        assert bool(self.watch) == self.slow.raised
        self.slow.readings = []

    @rule()
    def end(self) -> None:
        """The server is gone."""
        was = self.slow.raised
        self.watch, alerts = evaluate({**self.watch}, [], [self.rule], clock=self.clock, now=1)
        assert [getattr(one, "resolution", "") for one in alerts] == (["ended"] if was else [])
        self.topic += alerts
        self.slow = Slow(self.rule)

    @invariant()
    def the_topic_alternates(self) -> None:
        """No alert is raised twice, none is resolved that was not raised."""
        topic = getattr(self, "topic", [])
        for place, one in enumerate(topic):
            assert isinstance(one, AlertResolved if place % 2 else AlertRaised)
            if place % 2:
                assert one.id == topic[place - 1].id
        assert len({one.id for one in topic}) == (len(topic) + 1) // 2


TestAlertMachine = AlertMachine.TestCase
TestAlertMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
