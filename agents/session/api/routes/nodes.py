"""Nodes, pools and work credits, read from their views.

Roles decide who sees them; owners and projects of a token's scope are those of sessions.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from agents.platform.clock import wall_clock
from agents.session.api import node_models as models
from agents.session.api.context import Api, api_of
from agents.session.api.guard import BASE, ReaderOf
from agents.session.api.node_views import unpack, work_key
from agents.session.api.problems import ApiProblem, Code, responses
from agents.session.api.support import Cursor, json_bytes, read_cursor, reply, write_cursor
from schemas.node_base import shelf_of
from schemas.node_credits import WINDOW_SLOTS, rows_of, statement, statement_bytes
from schemas.node_events import Health, Registration
from schemas.node_health import SLOTS_A_DAY
from schemas.node_heartbeats import SLOT

router = APIRouter(prefix=BASE, tags=["nodes"])
LAST = 253_402_300_799 * 1_000_000  # of the year 9999
LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Node = Annotated[str, Path(max_length=63, pattern=LABEL, description="A node's id")]
Pool = Annotated[str, Path(max_length=63, pattern=LABEL, description="A pool's id")]


@router.get("/nodes", response_model=models.NodeList, responses=responses())
async def list_nodes(
    request: Request,
    who: ReaderOf,
    state: Registration | None = None,
    health: Health | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> Response:
    """Nodes by their ids."""
    api, about = api_of(request), {"state": state, "health": health}
    after = "" if cursor is None else read_cursor(cursor, about, (str,))[0]
    found, alerts, homes = await asyncio.gather(
        api.catalog.find("nodes"), api.catalog.find("node_alerts"), _homes(api)
    )
    raised = {one["_id"]: sorted(one["alerts"]) for one in alerts}
    wanted = [
        one for one in found
        if "state" in one and one["_id"] > after
        and state in (None, one["state"]) and health in (None, one.get("health", "unknown"))
    ]  # fmt: skip
    page = [{**_item(one, homes), "alerts": raised.get(one["_id"], [])} for one in wanted[:limit]]
    more = len(wanted) > limit
    body = {"nodes": page, "next": write_cursor([page[-1]["node"]], about) if more else None}
    return reply(request, json_bytes(body), items=len(page))


@router.get(
    "/nodes/{node}", response_model=models.NodeDetail, responses=responses(Code.NODE_NOT_FOUND)
)
async def one_node(request: Request, who: ReaderOf, node: Node) -> Response:
    """A node with all that is known of it."""
    api = api_of(request)
    found = await _node(api, node)
    figures, alerts, homes = await asyncio.gather(
        api.catalog.get("node_figures", shelf_of(node)), _alerts(api, node), _homes(api)
    )
    names = ("key", "hardware", "max_sessions", "registration", "reason", "decide_by",
             "state_since")  # fmt: skip
    latest = (figures or {}).get("nodes", {}).get(node)
    body = {
        **_item(found, homes), **{name: found[name] for name in names},
        "misses": found.get("misses", 0), "health_since": found.get("health_since"),
        "windows": found.get("windows", []), "alerts": alerts, "latest": latest,
    }  # fmt: skip
    return reply(request, json_bytes(body))


@router.get(
    "/nodes/{node}/credits", response_model=models.Credits,
    responses=responses(Code.NODE_NOT_FOUND),
)  # fmt: skip
async def node_credits(
    request: Request,
    who: ReaderOf,
    node: Node,
    as_of: Annotated[
        int | None, Query(ge=0, le=LAST, description="Microseconds since 1970; now by default")
    ] = None,
) -> Response:
    """Work credits of the 5040 slots of 120 s before a time, and the requests to pay."""
    api = api_of(request)
    await _node(api, node)
    behind = (wall_clock() if as_of is None else as_of) // SLOT
    first = max(0, behind - WINDOW_SLOTS)
    days = range(first // SLOTS_A_DAY, behind // SLOTS_A_DAY + 1)
    found = await asyncio.gather(
        *(api.catalog.get("node_work", work_key(node, day)) for day in days)
    )
    known = {
        day: unpack(one, node) for day, one in zip(days, found, strict=True) if one is not None
    }
    made = statement(node, first, behind, rows_of(known, first, behind))
    payouts = (await api.catalog.get("payouts", node) or {}).get("payouts", {})
    body = {
        "statement": made.model_dump(mode="json"),
        "sha256": hashlib.sha256(statement_bytes(made)).hexdigest(),
        "payouts": sorted(payouts.values(), key=lambda one: -one["requested"]),
    }  # fmt: skip
    return reply(request, json_bytes(body))


@router.get("/pools", response_model=models.PoolList, responses=responses())
async def list_pools(request: Request, who: ReaderOf) -> Response:
    """All pools."""
    found = await api_of(request).catalog.find("pools")
    pools = [_pool_item(one) for one in found if "state" in one]
    return reply(request, json_bytes({"pools": pools}), items=len(pools))


@router.get(
    "/pools/{pool}", response_model=models.PoolDetail, responses=responses(Code.POOL_NOT_FOUND)
)
async def one_pool(request: Request, who: ReaderOf, pool: Pool) -> Response:
    """A pool with its alerts and the last hint to scale it."""
    api = api_of(request)
    found = await api.catalog.get("pools", pool)
    if found is None or "state" not in found:
        raise ApiProblem(Code.POOL_NOT_FOUND, f"there is no pool {pool}")
    body = {
        **_pool_item(found), "reason": found["reason"], "alerts": await _alerts(api, pool),
        "hint": found.get("hint"),
    }  # fmt: skip
    return reply(request, json_bytes(body))


async def _node(api: Api, node: str) -> dict[str, Any]:
    found = await api.catalog.get("nodes", node)
    if found is None or "state" not in found:
        raise ApiProblem(Code.NODE_NOT_FOUND, f"there is no node {node}")
    return found


async def _homes(api: Api) -> dict[str, str]:
    """The pool that each node is in."""
    pools = await api.catalog.find("pools")
    return {node: pool["_id"] for pool in pools for node in pool.get("members", [])}


async def _alerts(api: Api, about: str) -> list[dict[str, Any]]:
    found = (await api.catalog.get("node_alerts", about) or {}).get("alerts", {})
    return [{"alert": name, **found[name]} for name in sorted(found)]


def _item(found: dict[str, Any], homes: dict[str, str]) -> dict[str, Any]:
    return {
        "node": found["_id"], "state": found["state"], "health": found.get("health", "unknown"),
        "in_maintenance": found.get("in_maintenance", False), "kind": found["kind"],
        "host": found["host"], "pool": homes.get(found["_id"]),
        "last_heard": found.get("last_heard"),
    }  # fmt: skip


def _pool_item(found: dict[str, Any]) -> dict[str, Any]:
    names = ("state", "since", "members", "active")
    return {"pool": found["_id"], **{name: found[name] for name in names}}
