"""Metrics of node management."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.node_events import Health
from schemas.node_states import NodeState


class ManagementMetrics:
    """Heartbeats as they come, and the nodes as the last tick saw them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._taken = Counter(
            "lucid_node_heartbeats", "Good heartbeats of nodes", registry=registry
        )
        self._refused = Counter(
            "lucid_node_heartbeats_refused", "Heartbeats that were not taken", ["cause"],
            registry=registry,
        )  # fmt: skip
        self._nodes = Gauge(
            "lucid_node_nodes", "Approved nodes by health", ["health"], registry=registry
        )
        self._maintenance = Gauge(
            "lucid_node_in_maintenance", "Approved nodes in maintenance", registry=registry
        )

    def taken(self) -> None:
        self._taken.inc()

    def refused(self, cause: str) -> None:
        self._refused.labels(cause).inc()

    def seen(self, nodes: Mapping[str, NodeState]) -> None:
        """All nodes, at a tick."""
        approved = [one for one in nodes.values() if one.state == "approved"]
        found = Tally(one.health for one in approved)
        for health in get_args(Health):
            self._nodes.labels(health).set(found[health])
        self._maintenance.set(sum(one.in_maintenance for one in approved))
