"""The views of nodes that the API reads; docs/formats/views.md.

    nodes          {_id: node, state, health, …}              from node.lifecycle
    node_figures   {_id: shelf, nodes: {node: …}}             from node.metrics
    node_alerts    {_id: node or pool, alerts: {name: …}}     from node.alerts
    pools          {_id: pool, state, members, …}             from node.pools
    node_work      {_id: "<day>/<shelf>", nodes: {node: …}}   from node.work
    payouts        {_id: node, payouts: {id: …}}              from node.work

What changes with every heartbeat stands in few documents, see `shelf_of`.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from typing import Any
from zlib import compress, decompress

from agents.platform.catalog import Document
from agents.platform.folding import Folding
from agents.platform.projections import Projection, Record
from schemas.node_base import shelf_of
from schemas.node_credits import Day, fits
from schemas.node_events import (
    AlertChanged,
    AlertEvent,
    HealthChanged,
    LifecycleEvent,
    MaintenanceChanged,
    MetricsEvent,
    MetricsTaken,
    PayoutChanged,
    PoolChanged,
    PoolEvent,
    RegistrationChanged,
    ScalingHinted,
    WorkCounted,
    WorkEvent,
)

MOST_PAYOUTS = 1000


def _fields(data: Any, *left_out: str) -> dict[str, Any]:
    found: dict[str, Any] = data.model_dump(mode="json", exclude=set(left_out))
    return found


class Nodes(Folding[LifecycleEvent]):
    """What a node is, by the newest event of each kind."""

    name = "nodes"
    topic = "node.lifecycle"
    kind = LifecycleEvent

    def subject(self, event: LifecycleEvent, record: Record) -> str | None:
        known = isinstance(event.data, RegistrationChanged | HealthChanged | MaintenanceChanged)
        return event.subject if known else None

    def apply(self, document: Document, event: LifecycleEvent, record: Record) -> Document:
        data = event.data
        if isinstance(data, HealthChanged):
            return {**document, **_fields(data, "node"), "health_since": event.micros}
        if isinstance(data, MaintenanceChanged):
            more = {"in_maintenance": data.active, "windows": _fields(data)["windows"]}
            return {**document, **more}
        assert isinstance(data, RegistrationChanged)
        after = {**document, **_fields(data, "node"), "state_since": event.micros}
        if data.state == "approved" and document.get("state") == "approved":
            after["state_since"] = document["state_since"]
        if data.state == "rejected":
            after |= {"health": "unknown", "misses": 0}
        return after


class NodeFigures(Folding[MetricsEvent]):
    """The newest figures of each node."""

    name = "node_figures"
    topic = "node.metrics"
    kind = MetricsEvent

    def subject(self, event: MetricsEvent, record: Record) -> str | None:
        return shelf_of(event.subject)

    def apply(self, document: Document, event: MetricsEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, MetricsTaken)
        nodes = document.get("nodes", {})
        if data.counter <= nodes.get(data.node, {}).get("counter", -1):
            return document
        entry = {**_fields(data, "node"), "taken_at": event.micros}
        return {**document, "nodes": {**nodes, data.node: entry}}


class NodeAlerts(Folding[AlertEvent]):
    """The alerts that are raised, of nodes and pools."""

    name = "node_alerts"
    topic = "node.alerts"
    kind = AlertEvent

    def subject(self, event: AlertEvent, record: Record) -> str | None:
        return event.subject

    def apply(self, document: Document, event: AlertEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, AlertChanged)
        alerts = {name: one for name, one in document.get("alerts", {}).items()
                  if name != data.alert}  # fmt: skip
        if data.state == "raised":
            entry = {"severity": data.severity, "reason": data.reason, "since": event.micros}
            alerts[data.alert] = entry
        return {**document, "alerts": alerts}


class Pools(Folding[PoolEvent]):
    """What a pool is, and the last hint for it."""

    name = "pools"
    topic = "node.pools"
    kind = PoolEvent

    def subject(self, event: PoolEvent, record: Record) -> str | None:
        return event.subject

    def apply(self, document: Document, event: PoolEvent, record: Record) -> Document:
        data = event.data
        if isinstance(data, ScalingHinted):
            return {**document, "hint": {**_fields(data, "pool"), "time": event.micros}}
        assert isinstance(data, PoolChanged)
        since = event.micros
        if document.get("state") == data.state:
            since = document["since"]
        return {**document, **_fields(data, "pool"), "since": since}


def work_key(node: str, day: int) -> str:
    """The `_id` of the document that has a node's work of a day."""
    return f"{day}/{shelf_of(node)}"


def pack(day: Day) -> str:
    """A day's cells as they are stored: deflated little-endian integers of 64 bits, in base64."""
    return b64encode(compress(day.cells.tobytes(), 1)).decode()


def unpack(document: Document | None, node: str) -> Day:
    """A node's day in a document; an empty one if it has none there."""
    text = (document or {}).get("nodes", {}).get(node)
    if text is None:
        return Day()
    cells = array("q")
    cells.frombytes(decompress(b64decode(text)))
    return Day(cells)


class NodeWork(Folding[WorkEvent]):
    """The slots of each node and day; the larger figure stands, so order does not matter."""

    name = "node_work"
    topic = "node.work"
    kind = WorkEvent

    def subject(self, event: WorkEvent, record: Record) -> str | None:
        data = event.data
        if not isinstance(data, WorkCounted) or not fits(data):
            return None
        return work_key(data.node, data.day)

    def apply(self, document: Document, event: WorkEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, WorkCounted)
        day = unpack(document, data.node)
        if not day.take(data):
            return document
        nodes = {**document.get("nodes", {}), data.node: pack(day)}
        return {**document, "nodes": nodes}


class Payouts(Folding[WorkEvent]):
    """The requests to pay of each node, the newest ones."""

    name = "payouts"
    topic = "node.work"
    kind = WorkEvent

    def subject(self, event: WorkEvent, record: Record) -> str | None:
        return event.subject if isinstance(event.data, PayoutChanged) else None

    def apply(self, document: Document, event: WorkEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, PayoutChanged)
        before = document.get("payouts", {})
        asked = before.get(data.payout, {}).get("requested", event.micros)
        entry = {**_fields(data, "node"), "requested": asked, "changed": event.micros}
        payouts = {**before, data.payout: entry}
        if len(payouts) > MOST_PAYOUTS:
            del payouts[min(payouts, key=lambda name: payouts[name]["requested"])]
        return {**document, "payouts": payouts}


NODES, NODE_FIGURES, NODE_ALERTS = Nodes(), NodeFigures(), NodeAlerts()
POOLS, NODE_WORK, PAYOUTS = Pools(), NodeWork(), Payouts()
BY_TOPIC: dict[str, list[Projection]] = {
    "node.lifecycle": [NODES], "node.metrics": [NODE_FIGURES], "node.alerts": [NODE_ALERTS],
    "node.pools": [POOLS], "node.work": [NODE_WORK, PAYOUTS],
}  # fmt: skip
"""The views by the topics that they are built from."""
