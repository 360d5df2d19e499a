"""Sessions: listed, shown, where they are in the pipeline, and what they add up to."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from agents.session.api import models
from agents.session.api.context import api_of
from agents.session.api.guard import BASE, ReaderOf, VisibleSession
from agents.session.api.index import Listed, Page, Sort, item_of
from agents.session.api.index import Query as Wanted
from agents.session.api.problems import ApiProblem, Code, responses
from agents.session.api.support import (
    Cursor,
    Micros,
    json_bytes,
    read_cursor,
    reply,
    tag_of,
    write_cursor,
)
from schemas.live import LiveState

router = APIRouter(prefix=BASE, tags=["sessions"])
Text = Annotated[str, Query(max_length=1000)]
MAX_LIMIT = 100
_OF_A_CURSOR = tuple(one.name for one in fields(Wanted) if one.name != "limit")


@router.get("/sessions", response_model=models.SessionList, responses=responses())
async def list_sessions(
    request: Request,
    who: ReaderOf,
    state: Annotated[models.State | None, Query(description="Only sessions in this state")] = None,
    owner: Text = "",
    project: Text = "",
    host: Text = "",
    since: Annotated[Micros, Query(description="Started at this time or later")] = None,
    until: Annotated[Micros, Query(description="Started before this time")] = None,
    sort: Annotated[Sort, Query(description="What the order is by")] = "started",
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    cursor: Cursor = None,
) -> Response:
    """Sessions in the reader's scope, the newest first."""
    query = Wanted(
        state=state or "", owner=owner, project=project, host=host, since=since, until=until,
        sort=sort, descending=order == "desc", limit=limit,
    )  # fmt: skip
    about = {name: getattr(query, name) for name in _OF_A_CURSOR}
    if cursor is not None:
        value, session = read_cursor(cursor, about, (int, str))
        query = replace(query, after=(value, session))

    def answer(page: Page) -> Listed:
        after = "null" if page.after is None else f'"{write_cursor(page.after, about)}"'
        body = b'{"sessions":[' + b",".join(page.bodies) + b'],"next":' + after.encode() + b"}"
        return Listed(body, tag_of(body), len(page.bodies))

    found = api_of(request).index.listed(query.seen_by(who.claims), answer)
    return reply(request, found.body, tag=found.tag, items=found.items)


@router.get("/statistics", response_model=models.Totals, responses=responses())
async def totals(
    request: Request, who: ReaderOf, owner: Text = "", project: Text = "", host: Text = "",
    since: Micros = None, until: Micros = None,
) -> Response:  # fmt: skip
    """Sessions, records and stored bytes by state."""
    query = Wanted(owner=owner, project=project, host=host, since=since, until=until)
    found = api_of(request).index.totals(query.seen_by(who.claims))
    return reply(request, json_bytes({"totals": found}), items=len(found))


@router.get(
    "/sessions/{session}",
    response_model=models.SessionDetail,
    responses=responses(Code.SESSION_NOT_FOUND),
)
async def show_session(request: Request, row: VisibleSession) -> Response:
    """One session with all that is known of it."""
    document = await api_of(request).reading.session(row)
    return reply(request, json_bytes(_detail(document)))


def _detail(document: dict[str, Any]) -> dict[str, Any]:
    opened = document.get("opened") or {}
    return {
        **item_of(document),
        "source": opened.get("source", {}),
        "recorder": opened.get("recorder", ""),
        "end_reason": document.get("end_reason"),
        "abandoned": document.get("abandoned", False),
        "shortcomings": document.get("shortcomings", []),
        "losses": document.get("losses", []),
        "damaged_files": document.get("damaged", []),
        "root": document.get("root"),
        "manifest_hash": document.get("manifest_hash"),
        "settled": document.get("settled_at"),
    }


@router.get(
    "/sessions/{session}/pipeline",
    response_model=models.PipelineState,
    responses=responses(Code.SESSION_NOT_FOUND),
)
async def pipeline(request: Request, row: VisibleSession) -> Response:
    """How far the session is on its way from the recorder to being counted."""
    document = await api_of(request).reading.session(row)
    names = ("state", "next_seq", "next_index", "ahead", "last_index", "last_sign")
    body = {"session": row.session, **{name: document.get(name) for name in names}}
    return reply(request, json_bytes({**body, "stages": _stages(document)}))


def _stages(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The four stages. Sealed is what is stored, for storage alone tells of chunks."""
    ended = document.get("ended_at") is not None
    chunks = document.get("next_index", 0) + len(document.get("ahead", []))
    everything = document.get("last_index") is not None and not document.get("ahead")
    settled = document.get("settled_at") is not None
    done = (ended, everything, everything and document.get("manifest_hash") is not None, settled)
    begun = (True, chunks > 0, chunks > 0, document.get("state") == "processing")
    counts = ((document.get("next_seq"), None), (None, chunks), (None, chunks),
              (document.get("records"), None))  # fmt: skip
    return [
        {"stage": stage, "state": "done" if over else "running" if runs else "waiting",
         "records": records, "chunks": stored}
        for stage, over, runs, (records, stored) in zip(
            ("recorded", "sealed", "stored", "settled"), done, begun, counts, strict=True
        )
    ]  # fmt: skip


@router.get(
    "/sessions/{session}/statistics",
    response_model=models.Statistics,
    responses=responses(Code.SESSION_NOT_FOUND),
)
async def statistics(request: Request, row: VisibleSession) -> Response:
    """What the session adds up to so far."""
    found = await api_of(request).reading.view("statistics", row.session)
    raw, sealed = found.get("raw_bytes", 0), found.get("sealed_bytes", 0)
    begin = found.get("first_time") or json.loads(row.body)["started"]
    seconds = max(0, found.get("last_time", begin) - begin) / 1e6
    counted = ("chunks", "records", "missing", "pauses", "conflicts", "findings", "losses")
    slowest = found.get("slowest")
    body = {
        "session": row.session,
        **{name: found.get(name, 0) for name in counted},
        "raw_bytes": raw,
        "sealed_bytes": sealed,
        "ratio": round(raw / sealed, 3) if raw and sealed else None,
        "seconds": seconds,
        "records_per_second": round(found.get("records", 0) / seconds, 3) if seconds else None,
        "sealed_bytes_per_second": round(sealed / seconds, 1) if seconds else None,
        "slowest_chunk_seconds": None if slowest is None else slowest / 1e6,
    }
    return reply(request, json_bytes(body))


@router.get(
    "/sessions/{session}/live",
    response_model=LiveState,
    responses=responses(Code.SESSION_NOT_FOUND, Code.NOT_YET),
)
async def live(request: Request, row: VisibleSession) -> Response:
    """How a running session goes, by its last heartbeats. It is in Redis, and gone with it."""
    found = await api_of(request).live.get(row.session)
    if found is None:
        raise ApiProblem(
            Code.NOT_YET, f"nothing was heard of session {row.session} in the last minute"
        )
    return reply(request, json_bytes(found.model_dump(mode="json")))
