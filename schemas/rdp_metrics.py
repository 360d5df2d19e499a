"""What RDP servers and sessions use, and the alerts about it. Pure.

`rdp.metrics`, key server id: a sample of each server on a host in each round (ServerMetrics).
`rdp.alerts`, key server id: an alert begins (AlertRaised), and ends (AlertResolved).

    watch, alerts = evaluate(watch, sample, rules, clock=…, now=…)

is the whole of the alert machine. Of each subject (the server, or one of its sessions) and
metric there is one Tracked at most:

    calm ──over──▶ rising ──over for raise_after──▶ raised ──under──▶ falling ──under for──▶ calm
      ▲              │                                ▲                  │      resolve_after
      └───not over───┘                                └────not under─────┘

Over is above the threshold, under is below it by more than the hysteresis; what is between
changes nothing that was raised. Durations are told by a clock that only goes forward, so that
a wall clock that jumps raises nothing and resolves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple
from uuid import UUID, uuid5

from pydantic import Field

from schemas.canonical import Count, Strict
from schemas.envelope import Event
from schemas.events import SessionId
from schemas.rdp_config import Host, ServerId

Metric = Literal["cpu", "memory", "disk"]
Severity = Literal["warning", "critical"]
Resolution = Literal["below", "ended", "superseded"]
Phase = Literal["rising", "raised", "falling"]
AlertId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]

MAX_SESSIONS = 100
"""Sessions of one sample; a server has 20 at most, and some that are about to end."""
GIB = 1024**3
MIB = 1024**2
_ALERTS = UUID("6f1d3c52-1c1e-5f0a-9d0e-3b6c1c9a7e10")


class Usage(Strict):
    """What a tree of processes uses. Null is what is not known.

    cpu: processors, over the interval before; null in the first sample. memory: bytes, each
    page that several processes share divided among them (PSS). disk: bytes that files take in
    the folders that are its own. connections: established TCP connections. received, sent and
    packets: of its TCP connections in the interval, counted by the kernel; what was opened and
    closed between two samples is not in them.
    """

    cpu: Amount | None
    memory: Count
    disk: Count | None
    processes: Count
    threads: Count
    connections: Count | None
    received: Count | None
    sent: Count | None
    packets_received: Count | None
    packets_sent: Count | None


class SessionUsage(Strict):
    """One session of a server."""

    session: SessionId
    usage: Usage


class MeasuredLimits(Strict):
    """What the server may use: processors, bytes of memory, bytes of disk."""

    cpu: Amount
    memory: Count
    disk: Count


class ServerMetrics(Strict):
    """A sample of a server and its sessions, whose use is part of the server's.

    seconds: the interval that it is about, null for the first. partial: whether something
    could not be read, so that the true figures may be higher. vanished: processes that ended
    while they were looked at.
    """

    server: ServerId
    host: Host
    seconds: Amount | None
    limits: MeasuredLimits | None
    usage: Usage
    sessions: Annotated[list[SessionUsage], Field(max_length=MAX_SESSIONS)]
    partial: bool
    vanished: Count


METRIC_TYPES: dict[str, type[Strict]] = {"lucid.rdp.metrics.v1": ServerMetrics}


class AlertRaised(Strict):
    """A server, or one session of it, uses too much.

    id: of the alert, the same in its AlertResolved. percent: of the server's limit; over: the
    threshold. since: when it was first seen over it, microseconds since 1970.
    """

    id: AlertId
    server: ServerId
    session: SessionId | None
    host: Host
    metric: Metric
    severity: Severity
    percent: Amount
    over: Amount
    since: Count


class AlertResolved(Strict):
    """An alert is over.

    resolution: `below` its threshold for long enough; `ended` with its server or session;
    `superseded` by another alert of the same kind. percent: null unless it is below.
    """

    id: AlertId
    server: ServerId
    session: SessionId | None
    host: Host
    metric: Metric
    severity: Severity
    percent: Amount | None
    resolution: Resolution


Alert = AlertRaised | AlertResolved
ALERT_TYPES: dict[str, type[Strict]] = {
    "lucid.rdp.alert.raised.v1": AlertRaised,
    "lucid.rdp.alert.resolved.v1": AlertResolved,
}


class _OfServer(Event):
    """An event whose subject is the server that its data names."""

    strays_to: ClassVar[str] = "another server"

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return str(dict(data)["server"])


@dataclass(frozen=True, slots=True)
class MetricsEvent(_OfServer):
    """An event of `rdp.metrics`."""

    types: ClassVar[Mapping[str, type[Strict]]] = METRIC_TYPES


@dataclass(frozen=True, slots=True)
class AlertEvent(_OfServer):
    """An event of `rdp.alerts`. Its id follows from the alert's, so that a copy is known."""

    types: ClassVar[Mapping[str, type[Strict]]] = ALERT_TYPES


def alert_event(data: Alert, source: str) -> AlertEvent:
    """The event of an alert that begins or ends."""
    what = "raised" if isinstance(data, AlertRaised) else "resolved"
    return AlertEvent(data, source, data.server, id=f"{data.id}-{what}")


# The alert machine --------------------------------------------------------------------------


class Subject(NamedTuple):
    """What an alert is about. session: null for the server as a whole."""

    server: str
    session: str | None
    metric: Metric


@dataclass(frozen=True, slots=True)
class Rule:
    """When a metric alerts. over, hysteresis: percent of the limit; the rest: seconds.

    patience: seconds after which what was seen before says nothing of the time between.
    """

    metric: Metric
    severity: Severity
    over: float
    hysteresis: float = 10.0
    raise_after: float = 60.0
    resolve_after: float = 60.0
    patience: float = 120.0


@dataclass(frozen=True, slots=True)
class Tracked:
    """Where a subject stands. since: when its phase began; seen: when it was last measured.

    Both in seconds of a clock that only goes forward. wall: when it began to be over its
    threshold, microseconds since 1970.
    """

    phase: Phase
    since: float
    seen: float
    wall: int
    alert: AlertRaised | None = None


Watch = Mapping[Subject, Tracked]


def percents(sample: ServerMetrics) -> dict[Subject, float | None]:
    """What is measured against the server's limits, in percent; None is not known."""
    found: dict[Subject, float | None] = {}
    everything = [(None, sample.usage), *((one.session, one.usage) for one in sample.sessions)]
    for session, usage in everything:
        shares = _shares(usage, sample.limits)
        for metric, share in shares.items():
            found[Subject(sample.server, session, metric)] = share
    return found


def _shares(usage: Usage, limits: MeasuredLimits | None) -> dict[Metric, float | None]:
    if limits is None:
        return {"cpu": None, "memory": None, "disk": None}
    return {
        "cpu": _percent(usage.cpu, limits.cpu),
        "memory": _percent(usage.memory, limits.memory),
        "disk": _percent(usage.disk, limits.disk),
    }


def _percent(used: float | None, limit: float) -> float | None:
    return None if used is None or limit <= 0 else round(100 * used / limit, 2)


def evaluate(
    watch: Watch, samples: Iterable[ServerMetrics], rules: Sequence[Rule], *, clock: float,
    now: int,
) -> tuple[dict[Subject, Tracked], list[Alert]]:  # fmt: skip
    """The watch after a round, and the alerts that begin or end with it.

    samples: of every server that is there; what is watched and is in none of them has ended.
    clock: seconds, only forward. now: microseconds since 1970.
    """
    by_metric = {rule.metric: rule for rule in rules}
    after: dict[Subject, Tracked] = {}
    alerts: list[Alert] = []
    seen: set[Subject] = set()
    for sample in samples:
        for subject, percent in percents(sample).items():
            seen.add(subject)
            rule = by_metric.get(subject.metric)
            if rule is None:
                continue
            step = _step(watch.get(subject), rule, percent, clock, now)
            tracked, alert = _named(step, subject, sample.host, rule, percent, watch.get(subject))
            if tracked is not None:
                after[subject] = tracked
            if alert is not None:
                alerts.append(alert)
    for subject, tracked in watch.items():
        gone = subject not in seen or subject.metric not in by_metric
        if gone and tracked.alert is not None:
            alerts.append(resolved(tracked.alert, "ended"))
    return after, alerts


def _step(
    before: Tracked | None, rule: Rule, percent: float | None, clock: float, now: int
) -> Tracked | None:
    """Where a subject stands after a reading; None is calm."""
    if percent is None:
        return before
    over, under = percent > rule.over, percent < rule.over - rule.hysteresis
    if before is not None and clock - before.seen > rule.patience:
        # Nobody looked for a while: a duration that spans the time is none.
        before = None if before.phase == "rising" else replace(before, phase="raised", since=clock)
    if before is None or before.phase == "rising":
        return _step_calm(before, rule, over, clock, now)
    if not under:
        since = before.since if before.phase == "raised" else clock
        return replace(before, phase="raised", since=since, seen=clock)
    since = before.since if before.phase == "falling" else clock
    if clock - since >= rule.resolve_after:
        return None
    return replace(before, phase="falling", since=since, seen=clock)


def _step_calm(
    before: Tracked | None, rule: Rule, over: bool, clock: float, now: int
) -> Tracked | None:
    if not over:
        return None
    since, wall = (clock, now) if before is None else (before.since, before.wall)
    phase: Phase = "raised" if clock - since >= rule.raise_after else "rising"
    return Tracked(phase, clock if phase == "raised" else since, clock, wall)


def _named(
    after: Tracked | None, subject: Subject, host: str, rule: Rule, percent: float | None,
    before: Tracked | None,
) -> tuple[Tracked | None, Alert | None]:  # fmt: skip
    """The same with its alert, and the alert if it is news."""
    if after is None:
        if before is None or before.alert is None:
            return None, None
        return None, resolved(before.alert, "below", percent)
    if after.phase == "rising" or after.alert is not None:
        return after, None
    alert = AlertRaised(
        id=alert_id(subject, after.wall), server=subject.server, session=subject.session,
        host=host, metric=subject.metric, severity=rule.severity, percent=percent or 0.0,
        over=rule.over, since=after.wall,
    )  # fmt: skip
    return replace(after, alert=alert), alert


def alert_id(subject: Subject, since: int) -> str:
    """The id of an alert: what it is about and when that began make it."""
    return str(uuid5(_ALERTS, f"{subject.server}/{subject.session}/{subject.metric}/{since}"))


def resolved(alert: AlertRaised, how: Resolution, percent: float | None = None) -> AlertResolved:
    """The end of an alert."""
    same = {name: getattr(alert, name) for name in AlertResolved.model_fields if name in _SAME}
    return AlertResolved(**same, percent=percent, resolution=how)


_SAME = frozenset({"id", "server", "session", "host", "metric", "severity"})


# After a restart ----------------------------------------------------------------------------


def still_open(alerts: Iterable[Alert]) -> list[AlertRaised]:
    """The alerts that are not resolved, of all in the order of the topic; copies change nothing."""
    found: dict[str, AlertRaised] = {}
    over: set[str] = set()
    for alert in alerts:
        if isinstance(alert, AlertResolved):
            over.add(alert.id)
            found.pop(alert.id, None)
        elif alert.id not in over:
            found.setdefault(alert.id, alert)
    return list(found.values())


def resume(
    alerts: Iterable[AlertRaised], *, clock: float
) -> tuple[dict[Subject, Tracked], list[Alert]]:
    """The watch of a monitor that begins with these open alerts, and those that are one too many.

    Of two about the same the newer one goes on.
    """
    watch: dict[Subject, Tracked] = {}
    extra: list[Alert] = []
    for alert in sorted(alerts, key=lambda one: (one.since, one.id)):
        subject = Subject(alert.server, alert.session, alert.metric)
        before = watch.get(subject)
        if before is not None and before.alert is not None:
            extra.append(resolved(before.alert, "superseded"))
        watch[subject] = Tracked("raised", clock, clock, alert.since, alert)
    return watch, extra
