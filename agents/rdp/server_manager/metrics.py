"""Metrics of the server manager, read from what it last saw when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge

from schemas.rdp_states import ServerState


def _count(states: Mapping[str, str], state: str) -> float:
    return sum(one == state for one in states.values())


class ManagerMetrics:
    """How many servers are in which state."""

    def __init__(self, registry: CollectorRegistry, states: Mapping[str, str]) -> None:
        servers = Gauge("lucid_rdp_servers", "RDP servers by state", ["state"], registry=registry)
        for state in get_args(ServerState):
            servers.labels(state).set_function(partial(_count, states, state))
