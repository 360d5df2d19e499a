"""What node management says: `node.lifecycle`, `node.pools`, `node.metrics`, `node.alerts` and
`node.work`. Only the manager writes these topics.

Every event's id is made of the place of the record that caused it, and its time is that
record's: what is handled twice is told with the same bytes twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from schemas.canonical import Strict
from schemas.controls import Reason
from schemas.node_base import (
    Amount,
    Id,
    Micros,
    NodeId,
    NodeKind,
    NodeTopicEvent,
    PoolId,
    VerifierKey,
)
from schemas.node_commands import Action, AmountText
from schemas.node_heartbeats import Figures, Permille, SlotWork
from schemas.node_registration import Hardware, Name

Registration = Literal["challenged", "verified", "approved", "rejected", "expired"]
Health = Literal["unknown", "healthy", "stale", "offline"]
PoolStatus = Literal["forming", "active", "degraded", "maintenance", "disbanded"]
PayoutStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]
Severity = Literal["warning", "critical"]


class Window(Strict):
    """Planned maintenance. id: of the command that planned it."""

    id: Id
    begins: Micros
    ends: Micros
    reason: Reason


class RegistrationChanged(Strict):
    """How far the registration is. decide_by: until when it may be approved."""

    node: NodeId
    state: Registration
    registration: Id
    key: VerifierKey
    kind: NodeKind
    host: Name
    hardware: Hardware
    max_sessions: Amount
    decide_by: Micros
    reason: Reason


class RegistrationRefused(Strict):
    """A request or an answer was not taken; the node's state is as it was. key: whose it was."""

    node: NodeId
    key: VerifierKey
    code: Reason
    reason: Reason


class HealthChanged(Strict):
    """last_heard: when the broker took the last good heartbeat."""

    node: NodeId
    health: Health
    misses: Amount
    last_heard: Micros


class MaintenanceChanged(Strict):
    """active: whether the node is in maintenance now. windows: all that are planned or open."""

    node: NodeId
    active: bool
    windows: list[Window]


class NodeCommandDone(Strict):
    """A command was carried out; about: its node or pool. The correlation id is the command's."""

    about: NodeId
    action: Action


class NodeCommandRefused(Strict):
    """A command was not carried out, and nothing was changed."""

    about: NodeId
    action: Action
    code: Reason
    reason: Reason


LIFECYCLE_TYPES: dict[str, type[Strict]] = {
    "lucid.node.registration_changed.v1": RegistrationChanged,
    "lucid.node.registration_refused.v1": RegistrationRefused,
    "lucid.node.health_changed.v1": HealthChanged,
    "lucid.node.maintenance_changed.v1": MaintenanceChanged,
    "lucid.node.command_done.v1": NodeCommandDone,
    "lucid.node.command_refused.v1": NodeCommandRefused,
}


@dataclass(frozen=True, slots=True)
class LifecycleEvent(NodeTopicEvent):
    """An event of `node.lifecycle`."""

    types: ClassVar[Mapping[str, type[Strict]]] = LIFECYCLE_TYPES


class PoolChanged(Strict):
    """A pool's state. active: those of its members that are healthy and not in maintenance."""

    pool: PoolId
    state: PoolStatus
    members: list[NodeId]
    active: list[NodeId]
    reason: Reason


class ScalingHinted(Strict):
    """The pool's load is over or under its threshold. load: of the active members, on average."""

    pool: PoolId
    direction: Literal["up", "down"]
    load: Permille
    threshold: Permille
    active: Amount


POOL_TYPES: dict[str, type[Strict]] = {
    "lucid.pool.changed.v1": PoolChanged,
    "lucid.pool.scaling_hinted.v1": ScalingHinted,
}


@dataclass(frozen=True, slots=True)
class PoolEvent(NodeTopicEvent):
    """An event of `node.pools`."""

    types: ClassVar[Mapping[str, type[Strict]]] = POOL_TYPES


class MetricsTaken(Strict):
    """The figures of a good heartbeat; time: by the node's clock."""

    node: NodeId
    counter: Amount
    time: Micros
    figures: Figures


METRIC_TYPES: dict[str, type[Strict]] = {"lucid.node.metrics_taken.v1": MetricsTaken}


@dataclass(frozen=True, slots=True)
class MetricsEvent(NodeTopicEvent):
    """An event of `node.metrics`."""

    types: ClassVar[Mapping[str, type[Strict]]] = METRIC_TYPES


class AlertChanged(Strict):
    """An alert on a node or pool is raised or resolved."""

    about: NodeId
    alert: Literal[
        "node_stale", "node_offline", "heartbeat_refused", "identity_claimed", "pool_degraded"
    ]
    severity: Severity
    state: Literal["raised", "resolved"]
    reason: Reason


ALERT_TYPES: dict[str, type[Strict]] = {"lucid.node.alert_changed.v1": AlertChanged}


@dataclass(frozen=True, slots=True)
class AlertEvent(NodeTopicEvent):
    """An event of `node.alerts`."""

    types: ClassVar[Mapping[str, type[Strict]]] = ALERT_TYPES


class WorkCounted(Strict):
    """Work of a node in slots of one day, out of a good heartbeat.

    day: of the slots, counted from 1970. beat_slot, beats: the slot of the heartbeat, and
    the bit of the minute in it; null and 0 when it falls into another day.
    """

    node: NodeId
    counter: Amount
    day: Amount
    work: list[SlotWork]
    beat_slot: Amount | None
    beats: Annotated[int, Field(ge=0, le=3)]


class PayoutChanged(Strict):
    """How far a request to pay is. Nothing here pays. payout: the id of its first command."""

    node: NodeId
    payout: Id
    amount: AmountText
    state: PayoutStatus
    retries: Annotated[int, Field(ge=0, le=5)]
    reason: Reason


WORK_TYPES: dict[str, type[Strict]] = {
    "lucid.node.work_counted.v1": WorkCounted,
    "lucid.node.payout_changed.v1": PayoutChanged,
}


@dataclass(frozen=True, slots=True)
class WorkEvent(NodeTopicEvent):
    """An event of `node.work`."""

    types: ClassVar[Mapping[str, type[Strict]]] = WORK_TYPES


BY_TOPIC: dict[str, type[NodeTopicEvent]] = {
    "node.lifecycle": LifecycleEvent,
    "node.pools": PoolEvent,
    "node.metrics": MetricsEvent,
    "node.alerts": AlertEvent,
    "node.work": WorkEvent,
}
"""The manager's topics."""
