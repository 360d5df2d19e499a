"""Pools of nodes: states, and hints to scale. Pure.

    forming ─▶ active ◀─▶ degraded       by the number of active members: 3 or more, or fewer
    any of them ◀─▶ maintenance          by command
    any of them ─▶ disbanded             by command, for good

A hint is advice to people: the average load of the active members is over or under a
threshold, and none was given for the cooldown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from schemas.canonical import Strict
from schemas.node_base import SECOND, Amount, Micros, NodeId, PoolId
from schemas.node_commands import NodeCommand
from schemas.node_events import AlertChanged, PoolChanged, PoolStatus, ScalingHinted
from schemas.node_states import NodeRefused, NodeState

ENOUGH = 3
MAX_MEMBERS = 1000


@dataclass(frozen=True, slots=True)
class Scaling:
    """Thresholds in parts of a thousand, cooldown in microseconds."""

    up: int = 800
    down: int = 300
    cooldown: int = 300 * SECOND


class PoolState(Strict):
    """All that the manager knows of a pool. seen: that it was active once."""

    pool: PoolId
    version: Amount = 0
    positions: dict[str, int] = Field(default_factory=dict)
    state: PoolStatus = "forming"
    members: list[NodeId] = Field(default_factory=list)
    active: list[NodeId] = Field(default_factory=list)
    seen: bool = False
    maintenance: bool = False
    disbanded: bool = False
    hinted_at: Micros | None = None
    created: str = ""

    def has(self, topic: str, offset: int) -> bool:
        return offset <= self.positions.get(topic, -1)

    def at(self, topic: str, offset: int) -> PoolState:
        return self.model_copy(update={"positions": {**self.positions, topic: offset}})


@dataclass(frozen=True, slots=True)
class PoolStep:
    """A pool and what has to be told of the way to it."""

    state: PoolState
    events: tuple[Strict, ...] = ()


def load_of(state: NodeState) -> int:
    """A node's load in parts of a thousand: the fullest of processor, memory and sessions."""
    figures = state.figures
    if figures is None or state.registration is None:
        return 0
    most = state.registration.max_sessions
    sessions = min(1000, figures.sessions * 1000 // most) if most else 0
    return max(figures.cpu, figures.memory, sessions)


def command_pool(
    pool: PoolState | None, command: NodeCommand, nodes: Mapping[str, NodeState],
    homes: Mapping[str, str],
) -> PoolState:  # fmt: skip
    """The pool after a command; raises NodeRefused. homes: the pool that each node is in."""
    action, name = command.action, str(command.pool)
    if action == "pool_create":
        if pool is not None and not pool.disbanded and pool.created != command.id:
            raise NodeRefused("PoolExists", f"there is a pool {name} already")
        if pool is not None and not pool.disbanded:
            return pool
        fresh = PoolState(pool=name, created=command.id)
        if pool is None:
            return fresh
        return fresh.model_copy(update={"version": pool.version, "positions": pool.positions})
    if pool is None or (pool.disbanded and action != "pool_disband"):
        raise NodeRefused("NoSuchPool", f"there is no pool {name}",
                          hint="`lucid node pool create` makes one")  # fmt: skip
    if action == "pool_add":
        return _added(pool, str(command.node), nodes, homes)
    if action == "pool_remove":
        if command.node not in pool.members:
            raise NodeRefused("NotAMember", f"node {command.node} is not in pool {name}")
        left = [one for one in pool.members if one != command.node]
        return pool.model_copy(update={"members": left})
    if action == "pool_disband":
        return pool.model_copy(update={"disbanded": True, "members": []})
    return pool.model_copy(update={"maintenance": action == "pool_maintain"})


def _added(
    pool: PoolState, node: str, nodes: Mapping[str, NodeState], homes: Mapping[str, str]
) -> PoolState:
    if node in pool.members:
        return pool
    if node not in nodes or nodes[node].state != "approved":
        raise NodeRefused("NotApproved", f"node {node} is not approved")
    if node in homes:
        raise NodeRefused("InAnotherPool", f"node {node} is in pool {homes[node]}",
                          hint="Remove it there first")  # fmt: skip
    if len(pool.members) >= MAX_MEMBERS:
        raise NodeRefused("PoolFull", f"pool {pool.pool} has {MAX_MEMBERS} members")
    return pool.model_copy(update={"members": sorted([*pool.members, node])})


def refreshed(
    pool: PoolState, nodes: Mapping[str, NodeState], now: int, scaling: Scaling,
    *, reason: str = "the state of members changed", told: bool = False,
) -> PoolStep:  # fmt: skip
    """The pool as its members are now, and a hint if it is time for one."""
    active = [one for one in pool.members if one in nodes and nodes[one].active]
    seen = pool.seen or len(active) >= ENOUGH
    status = _status(pool, len(active), seen)
    after = pool.model_copy(update={"active": active, "seen": seen, "state": status})
    events: list[Strict] = []
    if told or (status, active) != (pool.state, pool.active):
        events.append(PoolChanged(
            pool=pool.pool, state=status, members=after.members, active=active, reason=reason,
        ))  # fmt: skip
    if (status == "degraded") != (pool.state == "degraded"):
        events.append(AlertChanged(
            about=pool.pool, alert="pool_degraded", severity="critical",
            state="raised" if status == "degraded" else "resolved",
            reason=f"{len(active)} of {len(after.members)} members are active",
        ))  # fmt: skip
    hint = _hint(after, nodes, now, scaling)
    if hint is not None:
        events.append(hint)
        after = after.model_copy(update={"hinted_at": now})
    return PoolStep(after, tuple(events))


def _status(pool: PoolState, active: int, seen: bool) -> PoolStatus:
    if pool.disbanded:
        return "disbanded"
    if pool.maintenance:
        return "maintenance"
    if active >= ENOUGH:
        return "active"
    return "degraded" if seen else "forming"


def _hint(
    pool: PoolState, nodes: Mapping[str, NodeState], now: int, scaling: Scaling
) -> ScalingHinted | None:
    if pool.state not in ("active", "degraded") or not pool.active:
        return None
    # A clock that was set back would otherwise keep hints away for as long.
    if pool.hinted_at is not None and abs(now - pool.hinted_at) < scaling.cooldown:
        return None
    load = sum(load_of(nodes[one]) for one in pool.active) // len(pool.active)
    if load >= scaling.up:
        return ScalingHinted(pool=pool.pool, direction="up", load=load, threshold=scaling.up,
                             active=len(pool.active))  # fmt: skip
    if load <= scaling.down and len(pool.active) > ENOUGH:
        return ScalingHinted(pool=pool.pool, direction="down", load=load,
                             threshold=scaling.down, active=len(pool.active))  # fmt: skip
    return None
