"""What the API answers about nodes, pools and credits; times are microseconds since 1970."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from agents.session.api.models import HASH, example
from schemas.node_base import NodeKind
from schemas.node_credits import CreditStatement
from schemas.node_events import (
    Health,
    PayoutStatus,
    PoolStatus,
    Registration,
    Severity,
    Window,
)
from schemas.node_heartbeats import Figures
from schemas.node_registration import Hardware

_ID = "8b1f0c9e-0f57-4a52-8d50-0a9d5d1c9a11"
ITEM: dict[str, Any] = {
    "node": "desk7", "state": "approved", "health": "healthy", "in_maintenance": False,
    "kind": "worker", "host": "desk7.example", "pool": "north", "last_heard": 1795000600000000,
    "alerts": [],
}  # fmt: skip
FIGURES: dict[str, int] = {
    "cpu": 120, "memory": 400, "disk": 250, "sent_bytes": 1000000, "received_bytes": 9000000,
    "processes": 180, "sessions": 2,
}  # fmt: skip
ALERT: dict[str, Any] = {
    "alert": "pool_degraded", "severity": "critical", "since": 1795000600000000,
    "reason": "2 of 3 members are active",
}  # fmt: skip
POOL: dict[str, Any] = {
    "pool": "north", "state": "degraded", "since": 1795000600000000,
    "members": ["desk7", "desk8", "desk9"], "active": ["desk7", "desk8"],
}  # fmt: skip
STATEMENT: dict[str, Any] = {
    "version": 1, "node": "desk7", "first_slot": 14953292, "behind_slot": 14958332,
    "slots": 5040, "relay_bytes": 7500000000, "storage_proofs": 40, "signatures": 12,
    "beats": 10080, "credits": "1039.1", "rows": HASH,
}  # fmt: skip
PAYOUT: dict[str, Any] = {
    "payout": _ID, "amount": "12.5", "state": "pending", "retries": 0, "reason": "requested",
    "requested": 1795000600000000, "changed": 1795000600000000,
}  # fmt: skip


class NodeItem(BaseModel):
    """A node as lists show it."""

    model_config = example(ITEM)

    node: str
    state: Registration
    health: Health = Field(description="By the heartbeats that the broker has; docs/nodes.md")
    in_maintenance: bool
    kind: NodeKind
    host: str
    pool: str | None
    last_heard: int | None = Field(description="The good heartbeat that made it what it is")
    alerts: list[str]


class NodeList(BaseModel):
    """A page of nodes by their ids. next: the cursor of the next page, null on the last."""

    model_config = example({"nodes": [ITEM], "next": None})

    nodes: list[NodeItem]
    next: str | None


class Alert(BaseModel):
    """An alert that is raised."""

    model_config = example(ALERT)

    alert: str
    severity: Severity
    since: int
    reason: str


class NodeFiguresNow(BaseModel):
    """The newest figures; cpu, memory and disk are parts in a thousand."""

    model_config = example({
        "counter": 41, "time": 1795000600000000, "taken_at": 1795000600200000,
        "figures": FIGURES,
    })  # fmt: skip

    counter: int
    time: int = Field(description="By the node's clock")
    taken_at: int = Field(description="By the broker's")
    figures: Figures


class NodeDetail(BaseModel):
    """A node with all that is known of it."""

    model_config = example({
        **{name: value for name, value in ITEM.items() if name != "alerts"},
        "key": "desk7/node+0123abcd+AbCd…", "hardware": {
            "cpus": 4, "memory_bytes": 8000000000, "disk_bytes": 1000000000000},
        "max_sessions": 10, "registration": _ID, "reason": "taken in",
        "decide_by": 1795000300000000, "state_since": 1795000100000000, "misses": 0,
        "health_since": 1795000160000000, "windows": [], "alerts": [],
        "latest": None,
    })  # fmt: skip

    node: str
    state: Registration
    health: Health
    in_maintenance: bool
    kind: NodeKind
    host: str
    pool: str | None
    last_heard: int | None
    key: str = Field(description="Verifier key (C2SP signed-note) of its heartbeats")
    hardware: Hardware
    max_sessions: int
    registration: str
    reason: str
    decide_by: int = Field(description="Until when an open registration may be approved")
    state_since: int
    misses: int
    health_since: int | None
    windows: list[Window]
    alerts: list[Alert]
    latest: NodeFiguresNow | None


class PoolItem(BaseModel):
    """A pool. active: the members that are healthy and not in maintenance."""

    model_config = example(POOL)

    pool: str
    state: PoolStatus
    since: int
    members: list[str]
    active: list[str]


class PoolList(BaseModel):
    """All pools by their ids, disbanded ones, too."""

    model_config = example({"pools": [POOL]})

    pools: list[PoolItem]


class Hint(BaseModel):
    """The last hint to scale; load and threshold are parts in a thousand."""

    model_config = example({
        "direction": "up", "load": 850, "threshold": 800, "active": 3, "time": 1795000600000000,
    })  # fmt: skip

    direction: str = Field(pattern="^(up|down)$")
    load: int
    threshold: int
    active: int
    time: int


class PoolDetail(PoolItem):
    """A pool with its alerts and the last hint."""

    model_config = example({**POOL, "reason": "requested", "alerts": [ALERT], "hint": None})

    reason: str
    alerts: list[Alert]
    hint: Hint | None


class Payout(BaseModel):
    """A request to pay. Nothing in Lucid pays."""

    model_config = example(PAYOUT)

    payout: str
    amount: str
    state: PayoutStatus
    retries: int
    reason: str
    requested: int
    changed: int


class Credits(BaseModel):
    """A node's work credits of 7 days, and its requests to pay, the newest first.

    sha256: of the statement's canonical JSON (RFC 8785): who counts the same events gets it, too.
    """

    model_config = example({
        "statement": STATEMENT, "sha256": HASH, "payouts": [PAYOUT],
    })  # fmt: skip

    statement: CreditStatement
    sha256: str
    payouts: list[Payout]
