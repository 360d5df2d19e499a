"""What happened: a session's events, the audit trail, and the stream of live events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agents.session.api import models
from agents.session.api.audit_view import PAGE, page_key
from agents.session.api.context import Api, api_of
from agents.session.api.guard import BASE, ReaderOf, VisibleSession
from agents.session.api.metrics import ApiMetrics
from agents.session.api.problems import ApiProblem, Code, responses
from agents.session.api.streams import Positions, Watching, live_events
from agents.session.api.support import Cursor, Micros, json_bytes, read_cursor, reply, write_cursor
from schemas.access import EVERYTHING, Claims

router = APIRouter(prefix=BASE, tags=["activity"])
MOST_PAGES = 40
Text = Annotated[str, Query(max_length=300)]


@router.get(
    "/sessions/{session}/events",
    response_model=models.EventList,
    responses=responses(Code.SESSION_NOT_FOUND),
)
async def session_events(request: Request, row: VisibleSession) -> Response:
    """What happened to a session, in order."""
    found = await api_of(request).reading.view("session_events", row.session)
    events = found.get("events", [])
    body = {"session": row.session, "events": events, "dropped": found.get("dropped", 0)}
    return reply(request, json_bytes(body), items=len(events))


@router.get("/audit", response_model=models.AuditList, responses=responses())
async def audit(
    request: Request,
    who: ReaderOf,
    session: Text = "",
    user: Text = "",
    event_type: Annotated[str, Query(alias="type", max_length=100)] = "",
    since: Micros = None,
    until: Micros = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> Response:
    """Who did what, the newest first. A page may have few entries and still a `next`."""
    api = api_of(request)
    about = {"session": session, "user": user, "type": event_type, "since": since, "until": until}
    below = await _audit_end(api) if cursor is None else read_cursor(cursor, about, (int,))[0]
    entries: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        if below <= 0 or len(entries) >= limit:
            break
        page = await api.catalog.get("audit", page_key(0, below - 1))
        for entry in reversed((page or {}).get("entries", [])):
            if entry["offset"] < below and len(entries) < limit:
                below = entry["offset"]
                if _wanted(entry, about) and _in_scope(api, who.claims, entry):
                    entries.append(entry)
        if len(entries) < limit:
            below = min(below, (below - 1) // PAGE * PAGE)
    body = {
        "entries": entries,
        "next": write_cursor([below], about) if below > 0 else None,
    }  # fmt: skip
    return reply(request, json_bytes(body), items=len(entries))


async def _audit_end(api: Api) -> int:
    """The offset behind the newest entry that the view has."""
    known = api.audit_pages
    while await api.catalog.get("audit", page_key(0, known.newest * PAGE)) is not None:
        known.newest += 1
    page = await api.catalog.get("audit", page_key(0, max(0, known.newest - 1) * PAGE))
    return int(page["entries"][-1]["offset"]) + 1 if page else 0


def _wanted(entry: dict[str, Any], about: dict[str, Any]) -> bool:
    return (
        about["session"] in ("", entry["subject"], entry["data"].get("session"))
        and about["user"] in ("", entry["user"])
        and about["type"] in ("", entry["type"])
        and (about["since"] is None or entry["time"] >= about["since"])
        and (about["until"] is None or entry["time"] < about["until"])
    )


def _in_scope(api: Api, claims: Claims, entry: dict[str, Any]) -> bool:
    """Of acts on a session, those on one that the reader may see; others with all of them."""
    if claims.owners == claims.projects == (EVERYTHING,):
        return True
    row = api.index.get(entry["data"].get("session") or "")
    return row is not None and api.sees(claims, row)


@router.get(
    "/stream",
    response_class=EventSourceResponse,
    responses={
        **responses(),
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}},
              "description": "Server-sent events: `id` says where to go on with Last-Event-ID, "
                             "`event` is the type, `data` a CloudEvent in JSON. A comment comes "
                             "when nothing else does"},
    },
)  # fmt: skip
async def stream(
    request: Request,
    who: ReaderOf,
    session: Annotated[str, Query(max_length=36, description="Only of this session")] = "",
    event_type: Annotated[
        str, Query(alias="type", max_length=100, description="Only types that begin so")
    ] = "",
    last_event_id: Annotated[str | None, Header(max_length=400)] = None,
) -> EventSourceResponse:
    """Events as they happen, from now on or from Last-Event-ID on.

    A reader that is too slow is cut off, and goes on with its last id.
    """
    api = api_of(request)
    watching = Watching(who.claims, session, event_type)
    positions = Positions.parse(last_event_id) if last_event_id else None
    metrics: ApiMetrics = request.app.state.metrics
    if not api.streams.take():
        raise ApiProblem(Code.UNAVAILABLE, "all streams are in use", headers={"Retry-After": "30"})

    metrics.streams.inc()

    def ended() -> None:
        api.streams.give()
        metrics.streams.dec()

    return LiveStream(
        live_events(api, watching, positions), ended, ping=api.section.heartbeat, sep="\n",
        send_timeout=api.section.heartbeat,
    )  # fmt: skip


class LiveStream(EventSourceResponse):
    """Gives its place back however it ends, also when nobody has read a byte of it."""

    def __init__(
        self, events: AsyncIterator[dict[str, str]], ended: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(events, **options)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
