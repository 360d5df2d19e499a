"""The judge of desktops finds each sort of untruth, and none in what is true."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agents.platform.process_table import process_ref
from schemas.canonical import Strict
from schemas.envelope import Event
from schemas.node_events import HealthChanged, LifecycleEvent, WorkCounted, WorkEvent
from schemas.node_heartbeats import HeartbeatEvent
from schemas.rdp_config import ServerConfig
from schemas.rdp_metrics import MetricsEvent, ServerMetrics, SessionUsage, Usage
from schemas.rdp_processes import ProcessChanged, ProcessRef, ServerPids, XrdpProcessEvent
from schemas.rdp_servers import ServerChanged, ServerEvent
from schemas.rdp_session_events import (
    RdpConnectionChanged,
    RdpRecordingChanged,
    RdpSessionChanged,
    RdpSessionEvent,
    rdp_session_subject,
)
from schemas.rdp_sessions import SESSION_STEPS
from schemas.sessions import new_session_id
from tests.faults import rdp_judge as judge
from tests.node.factories import heartbeat

SESSION, SERVER, RECORDING, LINE = (str(new_session_id()) for _ in range(4))
ALIVE = process_ref(os.getpid())
assert ALIVE is not None
GONE = ProcessRef(pid=ALIVE.pid, started=ALIVE.started + 1)
WANTED = judge.Wanted({"ada": 1}, {SERVER: "running"})


def session(seq: int, state: Any, **more: Any) -> RdpSessionEvent:
    fields = {
        "session": SESSION, "seq": seq, "server": SERVER, "host": "h", "user": "ada", "uid": 1000,
        "display": ":10", "leader": ALIVE, "xorg": ALIVE, "state": state, "recording": RECORDING,
        "recordings": [RECORDING], "created": 1, "changed": 1, **more,
    }  # fmt: skip
    return desktop(RdpSessionChanged(**fields))


def line(seq: int, state: Any, process: ProcessRef = ALIVE, of: str = SESSION) -> RdpSessionEvent:
    return desktop(RdpConnectionChanged(
        connection=LINE, seq=seq, server=SERVER, host="h", address="127.0.0.1:1", process=process,
        session=of, state=state, created=1, changed=1,
    ))  # fmt: skip


def desktop(data: Strict) -> RdpSessionEvent:
    return RdpSessionEvent(data, "lucid/test/h", rdp_session_subject(data))


def server(version: int, state: Any) -> ServerEvent:
    data = ServerChanged(
        server=SERVER, version=version, state=state, name="desk", owner="", host="h", port=13389,
        config=ServerConfig(), config_version=1, created=1, code="", reason="",
    )  # fmt: skip
    return ServerEvent(data, "lucid/test/h", SERVER)


def process(seq: int, state: Any, xrdp: ProcessRef = ALIVE) -> XrdpProcessEvent:
    data = ProcessChanged(
        server=SERVER, host="h", seq=seq, version=1, restarts=0, state=state, port=13389,
        pids=ServerPids(xrdp=xrdp, sesman=ALIVE), attempt=0,
    )  # fmt: skip
    return XrdpProcessEvent(data, "lucid/test/h", SERVER)


def sample(*sessions: str) -> MetricsEvent:
    usage = Usage(
        cpu=None, memory=1, disk=None, processes=1, threads=1, connections=None, received=None,
        sent=None, packets_received=None, packets_sent=None,
    )  # fmt: skip
    data = ServerMetrics(
        server=SERVER, host="h", seconds=None, limits=None, usage=usage, partial=False, vanished=0,
        sessions=[SessionUsage(session=one, usage=usage) for one in sessions],
    )  # fmt: skip
    return MetricsEvent(data, "lucid/test/h", SERVER)


def told(*events: Event) -> judge.Told:
    found = judge.Told()
    for one in events:
        found.take(one)
    return found


def test_what_is_true_is_found_true_in_any_order_and_twice() -> None:
    events = [session(0, "creating"), session(1, "active"), line(0, "connecting"),
              line(1, "connected"), server(1, "creating"), server(2, "running"),
              process(4, "running"), sample(SESSION)]  # fmt: skip
    found = told(*reversed(events), *events)
    assert judge.sessions_true(found, WANTED) == []
    catalog = {SERVER: {"state": "running"}}
    assert judge.servers_true(found, WANTED, catalog, [SERVER]) == []
    assert judge.measured(found, WANTED, {}) == []
    assert found.problems == []


@pytest.mark.parametrize(
    ("events", "wanted", "problem"),
    [
        ([], WANTED, "events know desktops of []"),
        ([session(0, "active")], WANTED, "0 connections, 1 clients"),
        ([session(0, "active"), line(0, "connected")], judge.Wanted(), "events know desktops"),
        ([session(0, "active", xorg=GONE), line(0, "connected")], WANTED, "processes run"),
        ([session(0, "active", recording=None), line(0, "connected")], WANTED, "not recorded"),
        ([session(0, "active"), line(0, "connected", GONE)], WANTED, "its process is gone"),
        ([session(0, "error", leader=GONE)], judge.Wanted(), "is error, its processes run"),
    ],
)  # fmt: skip
def test_untrue_sessions(events: list[Event], wanted: judge.Wanted, problem: str) -> None:
    assert any(problem in one for one in judge.sessions_true(told(*events), wanted))


@pytest.mark.parametrize(
    ("events", "state", "alive", "problem"),
    [
        ([process(1, "running")], "running", [SERVER], "its events say None"),
        ([server(1, "running"), process(1, "running")], "failed", [SERVER], "catalog says failed"),
        ([server(1, "running"), process(1, "starting")], "running", [SERVER], "are told as"),
        ([server(1, "running"), process(1, "running", GONE)], "running", [SERVER], "are told as"),
        ([server(1, "running")], "running", [SERVER], "are told as None"),
        ([server(1, "running"), process(1, "running")], "running", [], "of servers [] run"),
    ],
)  # fmt: skip
def test_untrue_servers(events: list[Event], state: str, alive: list[str], problem: str) -> None:
    found = judge.servers_true(told(*events), WANTED, {SERVER: {"state": state}}, alive)
    assert any(problem in one for one in found)


def test_what_is_not_measured_or_measured_wrong() -> None:
    there = session(0, "active")
    assert judge.measured(told(there), WANTED, {}) == [f"server {SERVER} is not measured"]
    assert judge.measured(told(there, sample(SESSION)), WANTED, {SERVER: 1}) != []
    assert "not" in judge.measured(told(there, sample()), WANTED, {})[0]


def test_stories_with_gaps_wrong_steps_and_two_meanings() -> None:
    assert judge.stories_whole(told(session(0, "creating"), session(1, "active"))) == []
    assert "numbers" in judge.stories_whole(told(session(0, "creating"), session(2, "active")))[0]
    over = told(session(0, "terminated"), session(1, "active"))
    assert "from terminated to active" in judge.stories_whole(over)[0]
    assert judge.check_steps("x", {3: "active", 1: "creating", 9: "error"}, SESSION_STEPS) == []
    one, other = session(0, "creating"), session(1, "active")
    twice = told(one, RdpSessionEvent(other.data, other.source, other.subject, id=one.id))
    assert "two things" in judge.stories_whole(twice)[0]


def said(*whats: Any) -> list[RdpSessionEvent]:
    return [
        desktop(RdpRecordingChanged(
            session=SESSION, recording=RECORDING, what=what, required=True, reason=""
        ))
        for what in whats
    ]  # fmt: skip


def test_recordings_that_are_lost_doubled_unfinished_or_of_nobody() -> None:
    over = session(0, "terminated", recording=None)
    whole = told(over, *said("started", "stopped"))
    assert judge.recordings_whole(whole, {RECORDING: "completed"}) == []
    assert "is incomplete" in judge.recordings_whole(whole, {RECORDING: "incomplete"})[0]
    assert "is None" in judge.recordings_whole(whole, {})[0]
    more = judge.recordings_whole(whole, {RECORDING: "completed", "other": "completed"})
    assert more == ["recording other is of no session"]
    gap = told(over, *said("started", "lost"))
    assert "lost" in judge.recordings_whole(gap, {RECORDING: "completed"})[0]
    none = told(session(0, "terminated", recording=None, recordings=[]), *said())
    assert len(judge.recordings_whole(none, {})) == 2


def beats(counters: range, *counted: int) -> judge.Told:
    sent = [HeartbeatEvent(heartbeat(one, 1, "n"), "lucid/n/h", "n") for one in counters]
    work = [
        WorkEvent(WorkCounted(node="n", counter=one, day=1, work=[], beat_slot=1, beats=1),
                  "lucid/m/h", "n")
        for one in counted
    ]  # fmt: skip
    health = HealthChanged(node="n", health="healthy", misses=0, last_heard=1)
    return told(*sent, *work, LifecycleEvent(health, "lucid/m/h", "n"))


def test_heartbeats_that_are_not_counted_or_counted_twice() -> None:
    assert judge.nodes_true(beats(range(1, 7), 2, 3, 4, 5), "n") == []
    assert "not [4]" in judge.nodes_true(beats(range(1, 8), 2, 3, 5, 6), "n")[0]
    assert "2 times" in judge.nodes_true(beats(range(1, 7), 2, 3, 4, 4, 5), "n")[0]
    assert judge.nodes_true(beats(range(1, 7), 2, 3, 4, 9), "n") != []
    assert judge.nodes_true(beats(range(1, 7)), "n") != []
    assert "was []" in judge.nodes_true(beats(range(1, 7), 2, 3, 4, 5), "other")[0]


def test_what_was_not_there_before() -> None:
    before, after = {"port": ["1"]}, {"port": ["1", "2"], "file": ["x"]}
    assert judge.differences(before, after) == ["port left: 2", "file left: x"]
    assert judge.differences(after, before) == []
