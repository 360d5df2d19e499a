"""Chunks: listed, described, and their ciphertext, which nobody reads without a key."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import FileResponse, Response

from agents.platform.blobs import chunk_name
from agents.session.api import models
from agents.session.api.context import Api, api_of
from agents.session.api.guard import BASE, ReaderOf, VisibleSession
from agents.session.api.problems import ApiProblem, Code, responses
from agents.session.api.ranges import check_range
from agents.session.api.support import (
    Cursor,
    Micros,
    json_bytes,
    matches,
    read_cursor,
    reply,
    write_cursor,
)
from schemas.audit import ResourceRead

router = APIRouter(prefix=f"{BASE}/sessions/{{session}}", tags=["chunks"])
MAX_LIMIT = 1000
MAX_INDEX = 2**32 - 1
Index = Annotated[int, Path(ge=0, le=MAX_INDEX)]
OCTETS = "application/octet-stream"


class ChunkFile(FileResponse):
    """Larger reads: each is a turn through a thread and every layer around the route."""

    chunk_size = 1024 * 1024


@router.get("/chunks", response_model=models.ChunkList, responses=responses(Code.SESSION_NOT_FOUND))
async def list_chunks(
    request: Request,
    row: VisibleSession,
    since: Annotated[Micros, Query(description="With records at this event time or later")] = None,
    until: Annotated[Micros, Query(description="With records before this event time")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
    cursor: Cursor = None,
) -> Response:
    """The stored chunks of a session in the order of their index.

    A page looks at `limit` indexes; with times it may have fewer chunks and still a `next`.
    """
    about = {"session": row.session, "since": since, "until": until}
    first = 0 if cursor is None else read_cursor(cursor, about, (int,))[0]
    behind = first + limit
    found = await api_of(request).reading.chunks(row, first, behind + 1)
    entries = [
        {**dict.fromkeys(models.ChunkItem.model_fields), **entry}
        for entry in found
        if entry["index"] < behind
        and (since is None or entry.get("last_time", since) >= since)
        and (until is None or entry.get("first_time", 0) < until)
    ]
    more = behind < row.chunks or any(entry["index"] == behind for entry in found)
    body = {"chunks": entries, "next": write_cursor([behind], about) if more else None}
    return reply(request, json_bytes(body), items=len(entries))


@router.get(
    "/chunks/{index}",
    response_model=models.ChunkItem,
    responses=responses(Code.SESSION_NOT_FOUND, Code.CHUNK_NOT_FOUND),
)
async def show_chunk(request: Request, row: VisibleSession, index: Index) -> Response:
    """One chunk's entry."""
    entry = await api_of(request).reading.chunk(row, index)
    return reply(request, json_bytes({**dict.fromkeys(models.ChunkItem.model_fields), **entry}))


@router.get(
    "/chunks/{index}/data",
    response_class=FileResponse,
    responses={
        **responses(
            Code.SESSION_NOT_FOUND, Code.CHUNK_NOT_FOUND, Code.FILE_MISSING, Code.ERASED,
            Code.RANGE_UNSATISFIABLE,
        ),
        200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
              "description": "The chunk: header and ciphertext. The ETag is its leaf"},
        206: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
              "description": "The range that was asked for"},
        304: {"description": "The client has it already"},
    },
)  # fmt: skip
async def download_chunk(
    request: Request, who: ReaderOf, row: VisibleSession, index: Index
) -> Response:
    """A chunk's bytes as they are stored: whoever has the key opens them, anyone hashes them."""
    api = api_of(request)
    entry = await api.reading.chunk(row, index)
    headers = {"ETag": f'"{entry["leaf"]}"', "Cache-Control": "private, no-cache",
               "Accept-Ranges": "bytes"}  # fmt: skip
    if matches(request, entry["leaf"]):
        return Response(status_code=304, headers=headers)
    path = api.blobs.path(row.session, chunk_name(index))
    try:
        found = await asyncio.to_thread(path.stat)
    except FileNotFoundError:
        if "content" in row.erased:
            raise ApiProblem(
                Code.ERASED,
                f"the content of session {row.session} was erased; what proves it stays",
            ) from None
        raise ApiProblem(
            Code.FILE_MISSING, f"chunk {index} of session {row.session} is not in the store; "
            "`lucid scrub` and `lucid replay --repair` are for that",
        ) from None  # fmt: skip
    check_range(request, found.st_size, entry["leaf"])
    await _audit(api, request, who, row.session, found.st_size)
    request.state.audited = True
    return ChunkFile(path, media_type=OCTETS, headers=headers, stat_result=found)


async def _audit(api: Api, request: Request, who: ReaderOf, session: str, size: int) -> None:
    """Content leaves the house only once the audit trail has it."""
    data = ResourceRead(
        action="download_chunk", resource=request.url.path, session=session,
        request=request.state.request_id, bytes=size, items=1, outcome="200",
    )  # fmt: skip
    await api.audit.record(data, session, actor=who.actor)
