"""Metrics of the xrdp room, read from its keepers when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.rdp_processes import ProcessChanged
from schemas.rdp_states import ProcessState


def _count(states: Callable[[], Iterable[ProcessState]], state: ProcessState) -> float:
    return sum(one == state for one in states())


class XrdpMetrics:
    """How many servers are in which state, and how often they were restarted."""

    def __init__(
        self, registry: CollectorRegistry, states: Callable[[], Iterable[ProcessState]]
    ) -> None:
        servers = Gauge(
            "lucid_xrdp_servers", "Servers of this host by the state of their processes",
            ["state"], registry=registry,
        )  # fmt: skip
        for state in get_args(ProcessState):
            servers.labels(state).set_function(partial(_count, states, state))
        self._restarts = Counter(
            "lucid_xrdp_restarts", "Restarts that nobody asked for", ["code"], registry=registry
        )

    def reported(self, change: ProcessChanged) -> None:
        """Count a report."""
        if change.state == "restarting":
            self._restarts.labels(change.code).inc()
