"""Metrics of the RDP controller, read from its sessions when they are asked for."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Gauge

from agents.rdp.controller.connections import Connections
from agents.rdp.controller.outbox import Outbox
from agents.rdp.controller.sessions import Sessions
from schemas.rdp_sessions import OVER

STATES = ("creating", "active", "idle", "suspended")


class ControllerMetrics:
    """Gauges over the sessions and connections that are there."""

    def __init__(
        self, registry: CollectorRegistry, sessions: Sessions, connections: Connections,
        outbox: Outbox,
    ) -> None:  # fmt: skip
        there = Gauge(
            "lucid_rdp_sessions", "Desktop sessions by state", ["state"], registry=registry
        )
        for state in STATES:
            there.labels(state).set_function(partial(_count, sessions, state))
        unseen = Gauge(
            "lucid_rdp_unrecorded_sessions", "Desktops that go on without a recording",
            registry=registry,
        )  # fmt: skip
        unseen.set_function(
            lambda: sum(
                one.session.recording is None and one.session.state not in ("creating", *OVER)
                for one in sessions.desktops
            )
        )
        clients = Gauge("lucid_rdp_connections", "Clients' connections", registry=registry)
        clients.set_function(lambda: len(connections.connections))
        waiting = Gauge(
            "lucid_rdp_events_waiting", "Events that the broker has not confirmed yet",
            registry=registry,
        )  # fmt: skip
        waiting.set_function(lambda: outbox.waiting)


def _count(sessions: Sessions, state: str) -> int:
    return sum(one.session.state == state for one in sessions.desktops)
