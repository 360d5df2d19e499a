"""What events say of desktops, compared with what runs, and with themselves. Every check can fail.

Every function returns sentences, one for each thing that is not true.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from agents.platform.process_table import is_alive
from schemas.canonical import Strict
from schemas.envelope import Event
from schemas.node_events import HealthChanged, WorkCounted
from schemas.node_heartbeats import HeartbeatSent
from schemas.rdp_metrics import AlertRaised, AlertResolved, ServerMetrics
from schemas.rdp_processes import ProcessChanged
from schemas.rdp_servers import ServerChanged
from schemas.rdp_session_events import (
    RdpConnectionChanged,
    RdpRecordingChanged,
    RdpSessionChanged,
)
from schemas.rdp_sessions import CONNECTION_STEPS, OVER, SESSION_STEPS
from schemas.rdp_states import PROCESS_STEPS, SERVER_STEPS

LEAST_BEATS = 3
Data = TypeVar("Data", bound=Strict)
Census: TypeAlias = Mapping[str, Sequence[str]]
"""What there is, by its kind."""


@dataclass
class Told:
    """All events of some topics, each id once, in the order of the topics.

    problems: ids under which two different things were told.
    """

    events: dict[str, Event] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        known = self.events.setdefault(event.id, event)
        if known.data != event.data:
            self.problems.append(f"event {event.id} says two things: {known.data}, {event.data}")

    def of(self, kind: type[Data]) -> list[Data]:
        return [one.data for one in self.events.values() if isinstance(one.data, kind)]


@dataclass
class Wanted:
    """What runs, as the harness itself made it. desktops: user names with the clients of each.

    servers: state by id.
    """

    desktops: dict[str, int] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)


def newest(items: Iterable[Data], key: str, number: str) -> dict[str, Data]:
    """Of each `key` the one with the highest `number`."""
    found: dict[str, Data] = {}
    for one in items:
        name = str(getattr(one, key))
        if name not in found or getattr(one, number) > getattr(found[name], number):
            found[name] = one
    return found


# -- now -----------------------------------------------------------------------------------------


def sessions_true(told: Told, wanted: Wanted) -> list[str]:
    """Sessions and connections are those that are there, and their processes are, too."""
    problems = []
    sessions = newest(told.of(RdpSessionChanged), "session", "seq")
    lines = newest(told.of(RdpConnectionChanged), "connection", "seq")
    there = sorted(one.user for one in sessions.values() if one.state not in OVER)
    if there != sorted(wanted.desktops):
        problems.append(f"events know desktops of {there}, there are those of {wanted.desktops}")
    for one in sessions.values():
        runs, over = [is_alive(one.leader), is_alive(one.xorg)], one.state in OVER
        if any(runs) if over else not all(runs):
            problems.append(f"session {one.session} is {one.state}, its processes run: {runs}")
        if not over and one.recording is None:
            problems.append(f"session {one.session} of {one.user} is not recorded")
        mine = [line for line in lines.values()
                if line.session == one.session and line.state == "connected"]  # fmt: skip
        clients = wanted.desktops.get(one.user, 0)
        # xrdp keeps a client for some seconds when its desktop is over.
        if not over and len(mine) != clients:
            problems.append(f"session {one.session} of {one.user} ({one.state}) has {len(mine)} "
                            f"connections, {clients} clients are there")  # fmt: skip
    open_lines = [line for line in lines.values() if line.state in ("connecting", "connected")]
    return problems + [
        f"connection {line.connection} is {line.state}, its process is gone"
        for line in open_lines
        if not is_alive(line.process)
    ]


def servers_true(
    told: Told, wanted: Wanted, catalog: Mapping[str, Mapping[str, Any]], alive: Iterable[str]
) -> list[str]:
    """Servers are as commands made them, in the catalog, in events and in what runs.

    alive: the ids of servers of which a process runs.
    """
    problems = []
    said = newest(told.of(ServerChanged), "server", "version")
    ran = newest(told.of(ProcessChanged), "server", "seq")
    for server, state in wanted.servers.items():
        known = catalog.get(server, {}).get("state")
        event = said[server].state if server in said else None
        if (known, event) != (state, state):
            problems.append(f"server {server} is {state}, the catalog says {known}, "
                            f"its events say {event}")  # fmt: skip
        if state == "running":
            process = ran.get(server)
            pids = process.pids if process else None
            runs = pids is not None and is_alive(pids.xrdp) and is_alive(pids.sesman)
            if process is None or process.state != "running" or not runs:
                problems.append(f"the processes of server {server} are told as {process}")
    running = sorted(one for one, state in wanted.servers.items() if state == "running")
    if sorted(alive) != running:
        problems.append(f"processes of servers {sorted(alive)} run, of {running} should")
    return problems


def measured(told: Told, wanted: Wanted, since: Mapping[str, int]) -> list[str]:
    """The monitor measures what is there. since: samples of each server that are old."""
    problems = []
    sessions = newest(told.of(RdpSessionChanged), "session", "seq")
    for server in [one for one, state in wanted.servers.items() if state == "running"]:
        samples = [one for one in told.of(ServerMetrics) if one.server == server]
        if len(samples) <= since.get(server, 0):
            problems.append(f"server {server} is not measured")
            continue
        seen = {one.session for one in samples[-1].sessions}
        there = {one.session for one in sessions.values()
                 if one.server == server and one.state not in OVER}  # fmt: skip
        if seen != there:
            problems.append(f"server {server} is measured with sessions {seen}, not {there}")
    return problems


# -- at the end ----------------------------------------------------------------------------------


def stories_whole(told: Told) -> list[str]:
    """Whatever was told: no number is left out, and no state follows one that it cannot."""
    problems = list(told.problems)
    for kind, key, table in (
        (RdpSessionChanged, "session", SESSION_STEPS),
        (RdpConnectionChanged, "connection", CONNECTION_STEPS),
        (ServerChanged, "server", SERVER_STEPS), (ProcessChanged, "server", PROCESS_STEPS),
    ):  # fmt: skip
        number = "version" if kind is ServerChanged else "seq"
        by_key: dict[str, dict[int, str]] = {}
        one: Any
        for one in told.of(kind):
            states = by_key.setdefault(str(getattr(one, key)), {})
            states[getattr(one, number)] = str(one.state)
        for name, states in by_key.items():
            problems += check_steps(f"{kind.__name__} of {name}", states, table)
            gapless = kind in (RdpSessionChanged, RdpConnectionChanged)
            if gapless and sorted(states) != list(range(len(states))):
                problems.append(f"{kind.__name__} of {name} has numbers {sorted(states)}")
    return problems


def check_steps(of: str, states: Mapping[int, str], table: Mapping[Any, Any]) -> list[str]:
    """Whether each state may follow the one before it."""
    in_order = [states[number] for number in sorted(states)]
    return [
        f"{of} went from {before} to {after}"
        for before, after in itertools.pairwise(in_order)
        if before != after and after not in table[before]
    ]


def recordings_whole(told: Told, states: Mapping[str, str]) -> list[str]:
    """Each session has one recording from its beginning to its end, and nothing else was recorded.

    states: of all recordings in the catalog.
    """
    problems = []
    sessions = newest(told.of(RdpSessionChanged), "session", "seq")
    known = [recording for one in sessions.values() for recording in one.recordings]
    for one in sessions.values():
        if len(one.recordings) != 1:
            problems.append(f"session {one.session} has recordings {one.recordings}")
        whats = sorted(said.what for said in told.of(RdpRecordingChanged)
                       if said.session == one.session)  # fmt: skip
        if whats != ["started", "stopped"]:
            problems.append(f"the recording of session {one.session} is told as {whats}")
    problems += [f"recording {one} is {states.get(one)}" for one in known
                 if states.get(one) != "completed"]  # fmt: skip
    problems += [f"recording {one} is of no session" for one in states if one not in known]
    return problems


def nodes_true(told: Told, node: str) -> list[str]:
    """The node was healthy all the time, and its heartbeats count once each, without a gap."""
    problems = []
    healths = [one.health for one in told.of(HealthChanged) if one.node == node]
    if healths != ["healthy"]:
        problems.append(f"node {node} was {healths}")
    counted = Counter((one.counter, one.day) for one in told.of(WorkCounted) if one.node == node)
    counters = {counter for counter, _ in counted}
    sent = {one.beat.counter for one in told.of(HeartbeatSent) if one.node == node}
    # The first ones came before it was taken in, the last one may still be on its way.
    missing = [one for one in sent - counters
               if counters and min(counters) < one < max(sent)]  # fmt: skip
    if len(counters) < LEAST_BEATS or missing or counters - sent:
        problems.append(f"node {node} sent {len(sent)} heartbeats, {len(counters)} are counted, "
                        f"not {missing}, and {counters - sent} too many")  # fmt: skip
    problems += [f"heartbeat {one} is counted {times} times"
                 for one, times in counted.items() if times > 1]  # fmt: skip
    return problems


def alerts_over(told: Told) -> list[str]:
    """Nothing is left raised for what is gone."""
    ended = {one.id for one in told.of(AlertResolved)}
    return [f"alert {one.id} on {one.metric} is left" for one in told.of(AlertRaised)
            if one.id not in ended]  # fmt: skip


def differences(before: Census, after: Census) -> list[str]:
    """What was not there before, by its kind."""
    return [
        f"{kind} left: {one}" for kind, found in after.items() for one in found
        if one not in before.get(kind, ())
    ]  # fmt: skip
