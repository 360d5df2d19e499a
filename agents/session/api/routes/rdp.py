"""RDP servers: what they are, who is on them, what they use, and what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from agents.platform.catalog import Document
from agents.session.api import rdp_models as models
from agents.session.api.context import api_of
from agents.session.api.guard import (
    BASE,
    Reader,
    ReaderOf,
    VisibleServer,
    find_server,
    sees_server,
)
from agents.session.api.problems import ApiProblem, Code, responses
from agents.session.api.rdp_views import ROSTER, SLOTS, slot_key
from agents.session.api.support import Cursor, Micros, json_bytes, read_cursor, reply, write_cursor
from schemas.access import EVERYTHING
from schemas.rdp_states import PortState, ServerState

router = APIRouter(prefix=f"{BASE}/rdp", tags=["rdp"])
Text = Annotated[str, Query(max_length=300)]
MAX_LIMIT = 100


@router.get("/servers", response_model=models.RdpServerList, responses=responses())
async def list_rdp_servers(
    request: Request,
    who: ReaderOf,
    state: Annotated[ServerState | None, Query(description="Only servers in this state")] = None,
    host: Text = "",
    owner: Text = "",
    deleted: Annotated[bool, Query(description="With the newest 200 deleted ones")] = False,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    cursor: Cursor = None,
) -> Response:
    """RDP servers in the reader's scope, the newest first."""
    about = {"rdp": "servers", "state": state, "host": host, "owner": owner, "deleted": deleted}
    below = "~" if cursor is None else read_cursor(cursor, about, (str,))[0]
    found = [
        one for one in await _servers(request, who)
        if one["server"] < below
        and state in (None, one["state"])
        and host in ("", one["host"]) and owner in ("", one["owner"])
        and (deleted or state == "deleted" or one["state"] != "deleted")
    ]  # fmt: skip
    page = found[:limit]
    more = write_cursor([page[-1]["server"]], about) if len(found) > limit else None
    body = {"servers": [_server(one) for one in page], "next": more}
    return reply(request, json_bytes(body), items=len(page))


async def _servers(request: Request, who: Reader) -> list[dict[str, Any]]:
    """The listed RDP servers in the reader's scope, the newest first: ids tell of the time."""
    found = await api_of(request).catalog.get("rdp_roster", ROSTER) or {}
    servers = sorted(found.get("servers", {}).items(), reverse=True)
    return [one for _, one in servers if sees_server(who.claims, one)]


def _server(document: Document) -> dict[str, Any]:
    return _shown(document, models.RdpServerItem)


def _shown(fields: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """What a model has of an entry. changed: its event's time, if it has no such field itself."""
    known = {"changed": fields.get("time"), **fields}
    return {name: known.get(name) for name in model.model_fields}


@router.get(
    "/servers/{server}",
    response_model=models.RdpServerDetail,
    responses=responses(Code.SERVER_NOT_FOUND),
)
async def show_rdp_server(request: Request, server: VisibleServer) -> Response:
    """One RDP server, its configuration and its processes."""
    found = await api_of(request).catalog.get("rdp_processes", server["_id"])
    processes = None if found is None else _shown(found, models.RdpProcesses)
    return reply(request, json_bytes({**_server(server), "processes": processes}))


@router.get(
    "/servers/{server}/sessions",
    response_model=models.RdpSessionList,
    responses=responses(Code.SERVER_NOT_FOUND),
)
async def list_rdp_sessions(request: Request, server: VisibleServer) -> Response:
    """The desktop sessions of an RDP server: those that run, and the newest that are over."""
    items = await _desktops(request, server, "sessions", models.RdpSessionItem)
    return reply(request, json_bytes({"sessions": items}), items=len(items))


@router.get(
    "/servers/{server}/connections",
    response_model=models.RdpConnectionList,
    responses=responses(Code.SERVER_NOT_FOUND),
)
async def list_rdp_connections(request: Request, server: VisibleServer) -> Response:
    """The clients of an RDP server: those that are there, and the newest that were."""
    items = await _desktops(request, server, "connections", models.RdpConnectionItem)
    return reply(request, json_bytes({"connections": items}), items=len(items))


async def _desktops(
    request: Request, server: Document, kind: str, model: type[BaseModel]
) -> list[dict[str, Any]]:
    found = await api_of(request).catalog.get("rdp_desktops", server["_id"]) or {}
    entries = found.get("desktops", {}).get(kind, {})
    newest = sorted(entries.items(), key=lambda item: (item[1]["created"], item[0]), reverse=True)
    return [_shown(one, model) for _, one in newest]


@router.get(
    "/sessions/{desktop}",
    response_model=models.RdpSessionDetail,
    responses=responses(Code.SESSION_NOT_FOUND),
)
async def show_rdp_session(
    request: Request,
    who: ReaderOf,
    desktop: Annotated[UUID, Path(description="A desktop session's id, a UUID in lower case")],
) -> Response:
    """One desktop session, its recordings and what its user was told of them."""
    found = await api_of(request).catalog.get("rdp_sessions", str(desktop))
    problem = ApiProblem(
        Code.SESSION_NOT_FOUND, f"there is no desktop session {desktop} for you"
    )  # fmt: skip
    if found is None or "server" not in found:
        raise problem
    await find_server(request, who, found["server"], problem)
    return reply(request, json_bytes(_shown(found, models.RdpSessionDetail)))


@router.get(
    "/servers/{server}/metrics",
    response_model=models.RdpMetrics,
    responses=responses(Code.SERVER_NOT_FOUND),
)
async def rdp_metrics(
    request: Request,
    server: VisibleServer,
    since: Annotated[Micros, Query(description="Samples of this time or later")] = None,
    until: Annotated[Micros, Query(description="Samples before this time")] = None,
) -> Response:
    """What an RDP server and its sessions use: the newest sample, and those of four hours."""
    catalog, name = api_of(request).catalog, server["_id"]
    slots = [slot_key(name, 0).replace("/0", f"/{number}") for number in range(SLOTS)]
    newest, *pages = await asyncio.gather(
        catalog.get("rdp_metrics", name), *(catalog.get("rdp_history", slot) for slot in slots)
    )
    samples = [
        _shown(one, models.RdpSample)
        for page in pages if page is not None for one in page["samples"]
        if (since is None or one["time"] >= since) and (until is None or one["time"] < until)
    ]  # fmt: skip
    body = {
        "server": name,
        "limits": newest["limits"] if newest else None,
        "newest": _shown(newest, models.RdpSample) if newest else None,
        "samples": sorted(samples, key=lambda one: int(one["time"])),
    }
    return reply(request, json_bytes(body), items=len(samples))


@router.get(
    "/servers/{server}/alerts",
    response_model=models.RdpAlertList,
    responses=responses(Code.SERVER_NOT_FOUND),
)
async def list_server_alerts(request: Request, server: VisibleServer) -> Response:
    """The alerts of an RDP server: those that are raised, and the newest that are over."""
    found = await api_of(request).catalog.get("rdp_alerts", server["_id"]) or {}
    alerts = found.get("alerts", {"open": {}, "recent": []})
    return _alerts(request, [*alerts["open"].values(), *alerts["recent"]])


@router.get("/alerts", response_model=models.RdpAlertList, responses=responses())
async def list_open_alerts(request: Request, who: ReaderOf) -> Response:
    """The alerts that are raised now, of all RDP servers in the reader's scope."""
    catalog = api_of(request).catalog
    mine = [one["server"] for one in await _servers(request, who) if one["state"] != "deleted"]
    found = await asyncio.gather(*(catalog.get("rdp_alerts", server) for server in mine))
    opened = [one["alerts"]["open"].values() for one in found if one is not None]
    return _alerts(request, [alert for alerts in opened for alert in alerts])


def _alerts(request: Request, alerts: Iterable[dict[str, Any]]) -> Response:
    newest = sorted(alerts, key=lambda one: (one["raised"], one["id"]), reverse=True)
    items = [_shown(one, models.RdpAlertItem) for one in newest]
    return reply(request, json_bytes({"alerts": items}), items=len(items))


@router.get("/ports", response_model=models.RdpPortList, responses=responses())
async def list_rdp_ports(
    request: Request,
    who: ReaderOf,
    state: Annotated[PortState | None, Query(description="Only ports in this state")] = None,
    host: Text = "",
) -> Response:
    """The ports of RDP servers. One that no server has is shown to those who see everything."""
    everything = who.claims.owners == who.claims.projects == (EVERYTHING,)
    mine = {one["server"] for one in await _servers(request, who)}
    hosts = await api_of(request).catalog.find("rdp_port_states")
    found = [
        one for of_host in hosts for one in of_host["ports"].values()
        if (one["server"] in mine or everything)
        and state in (None, one["state"]) and host in ("", one["host"])
    ]  # fmt: skip
    items = [
        {**_shown(one, models.RdpPortItem), "until": one["until"] or None}
        for one in sorted(found, key=lambda one: (one["host"], one["port"]))
    ]
    return reply(request, json_bytes({"ports": items}), items=len(items))
