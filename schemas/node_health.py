"""Heartbeats taken or refused, and health by event time. Pure.

The clock is that of the log: each record of `node.heartbeats` carries the time at which the
broker took it, and a tick goes through the same partition. So a node is never late because
its heartbeats wait behind others, and a reader that starts an hour later comes to the same.

    silence < 300 s            healthy
    from then on               stale; a miss is each further interval of 60 s
    5 misses (600 s)           offline
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.canonical import Strict
from schemas.node_base import SECOND
from schemas.node_events import Health, HealthChanged, MetricsTaken, WorkCounted
from schemas.node_heartbeats import (
    LATE_SLOTS,
    MAX_SKEW,
    SLOT,
    HeartbeatSent,
    SlotWork,
    check_beat,
)
from schemas.node_states import (
    NodeRefused,
    NodeState,
    Step,
    calmed,
    maintained,
    raised,
    resolved,
)
from schemas.notes import InvalidSignature

SLOTS_A_DAY = 86_400 * SECOND // SLOT
JUMP = 150 * SECOND
"""Ticks come every few seconds: a longer step means that no record could be written, or that
the clock was set. Neither says anything about nodes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Microseconds, and how many intervals without a heartbeat a stale node has."""

    interval: int = 60 * SECOND
    stale_after: int = 300 * SECOND
    misses: int = 5


@dataclass(frozen=True, slots=True)
class LogClock:
    """The time of the log. since: from when on silence counts, for records could be written."""

    now: int = 0
    since: int = 0

    def at(self, time: int) -> LogClock:
        """The clock after a record that the broker took at `time`."""
        if abs(time - self.now) > JUMP:
            return LogClock(time, time)
        return LogClock(max(self.now, time), self.since)


def silence(state: NodeState, clock: LogClock) -> int:
    """Microseconds since the last good heartbeat, or since none could be heard."""
    heard = state.last_heard
    if heard is None or heard > clock.now:
        heard = 0  # taken before the clock was set back
    return max(0, clock.now - max(heard, clock.since))


def judge(quiet: int, rules: Rules) -> tuple[Health, int]:
    """Health and misses after so much silence."""
    if quiet < rules.stale_after:
        return "healthy", 0
    misses = (quiet - rules.stale_after) // rules.interval
    return ("offline", rules.misses) if misses >= rules.misses else ("stale", misses)


def take_heartbeat(state: NodeState, sent: HeartbeatSent, at: int) -> Step:
    """A good heartbeat's step; raises NodeRefused. One that was taken already changes nothing."""
    beat = sent.beat
    known = state.registration
    if state.state != "approved" or known is None:
        raise NodeRefused("NotApproved", f"node {sent.node} is not approved")
    if beat.node != sent.node:
        raise NodeRefused("AnotherNode", f"the signed heartbeat is of node {beat.node}")
    if (beat.counter, sent.signature) == (state.counter, state.signature):
        return Step(state)
    try:
        check_beat(known.key, sent)
    except InvalidSignature as error:
        raise NodeRefused("BadSignature", error.what) from error
    # The counter is the key's: a node that was taken in with another one begins anew.
    last = state.counter if state.heard_key == known.key else -1
    if beat.counter <= last:
        raise NodeRefused("Replayed", f"counter {beat.counter} is not over {last}")
    if abs(beat.time - at) > MAX_SKEW:
        apart = (beat.time - at) / SECOND
        raise NodeRefused("ClockSkew", f"its time is {apart:+.0f} s from when it came")
    _check_work(beat.work, beat.time // SLOT)
    after = state.model_copy(update={
        "counter": beat.counter, "signature": sent.signature, "last_heard": at,
        "heard_key": known.key,
        "figures": beat.figures, "health": "healthy", "misses": 0,
    })  # fmt: skip
    events: list[Strict] = [
        MetricsTaken(node=sent.node, counter=beat.counter, time=beat.time, figures=beat.figures),
        *work_of(sent),
    ]
    if state.health != "healthy":
        events.append(HealthChanged(node=sent.node, health="healthy", misses=0, last_heard=at))
    calm = resolved(after, ("node_stale", "node_offline"), "a heartbeat came")
    return Step(calm.state, (*events, *calm.events))


def _check_work(work: list[SlotWork], slot: int) -> None:
    slots = [one.slot for one in work]
    if slots != sorted(set(slots)) or any(not slot - LATE_SLOTS <= one <= slot for one in slots):
        raise NodeRefused("BadWork", "slots of work are not in order, to come, or over an hour ago")


def work_of(sent: HeartbeatSent) -> list[WorkCounted]:
    """What a heartbeat counts for, one event for each day."""
    beat = sent.beat
    slot = beat.time // SLOT
    days = sorted({one.slot // SLOTS_A_DAY for one in beat.work} | {slot // SLOTS_A_DAY})
    return [
        WorkCounted(
            node=sent.node, counter=beat.counter, day=day,
            work=[one for one in beat.work if one.slot // SLOTS_A_DAY == day],
            beat_slot=slot if slot // SLOTS_A_DAY == day else None,
            beats=1 << (beat.time % SLOT // (60 * SECOND)) if slot // SLOTS_A_DAY == day else 0,
        )
        for day in days
    ]  # fmt: skip


def refused(state: NodeState, error: NodeRefused, at: int, place: str) -> Step:
    """What a refused heartbeat of a known node leaves: an alert, once for many."""
    if state.state != "approved":
        return Step(state)
    return raised(state, "heartbeat_refused", at, f"{error.cause} at {place}: {error.what}")


def aged(state: NodeState, clock: LogClock, rules: Rules) -> Step:
    """A node after a tick: only ever worse, for only a heartbeat makes it better."""
    step = maintained(state, clock.now)
    events = [*step.events]
    calm = calmed(step.state, clock.now)
    state, events = calm.state, [*events, *calm.events]
    if state.state == "approved" and state.health in ("healthy", "stale"):
        health, misses = judge(silence(state, clock), rules)
        if health != "healthy" and health != state.health:
            worse = _worse(state, health, misses, clock.now)
            state, events = worse.state, [*events, *worse.events]
        elif health == state.health and misses != state.misses:
            state = state.model_copy(update={"misses": misses})
    return Step(state, tuple(events))


def _worse(state: NodeState, health: Health, misses: int, now: int) -> Step:
    event = HealthChanged(
        node=state.node, health=health, misses=misses, last_heard=state.last_heard or 0
    )
    after = state.model_copy(update={"health": health, "misses": misses})
    if state.in_maintenance:
        return Step(after, (event,))  # expected, so nobody is called
    first = raised(after, "node_stale" if health == "stale" else "node_offline", now,
                   f"no heartbeat; {misses} misses")  # fmt: skip
    if health == "stale":
        return Step(first.state, (event, *first.events))
    calm = resolved(first.state, ("node_stale",), "the node is offline")
    return Step(calm.state, (event, *first.events, *calm.events))
