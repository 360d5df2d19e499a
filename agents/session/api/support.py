"""Small things that all routes need: parameters, cursors, entity tags, conditional answers."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from agents.session.api.problems import ApiProblem, Code
from schemas.canonical import LARGEST

CHECK_BYTES = 6
MAX_CURSOR = 512
Micros = Annotated[int | None, Query(ge=0, le=LARGEST)]
"""Event time in microseconds."""
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR)]


def write_cursor(place: Sequence[int | str], about: Mapping[str, Any]) -> str:
    """An opaque cursor: where a page ended, of the list that `about` describes."""
    payload = json.dumps(place, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_check(payload, about) + payload).rstrip(b"=").decode()


def read_cursor(text: str, about: Mapping[str, Any], kinds: Sequence[type]) -> list[Any]:
    """Where a cursor says that a page ended; raises ApiProblem for any other text."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        data = base64.b64decode(padded, altchars=b"-_", validate=True)
        check, payload = data[:CHECK_BYTES], data[CHECK_BYTES:]
        place = json.loads(payload)
        whole = check == _check(payload, about) and write_cursor(place, about) == text
        if whole and [type(one) for one in place] == list(kinds):
            return list(place)
    except (ValueError, TypeError, RecursionError):
        pass
    raise ApiProblem(
        Code.INVALID_REQUEST,
        "the cursor is none that this list has given, or was given for other filters",
        details={"parameters": [{"name": "cursor", "problem": "unknown"}]},
    )


def _check(payload: bytes, about: Mapping[str, Any]) -> bytes:
    text = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(text + b"\x00" + payload).digest()[:CHECK_BYTES]


def tag_of(body: bytes) -> str:
    """A strong entity tag of these bytes."""
    return hashlib.sha256(body).hexdigest()[:32]


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def matches(request: Request, tag: str) -> bool:
    """Whether the client has this representation already (RFC 9110, 13.1.2)."""
    header = request.headers.get("if-none-match")
    if header is None:
        return False
    known = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in known or f'"{tag}"' in known


def reply(
    request: Request, body: bytes, *, media_type: str = "application/json", tag: str = "",
    items: int = 1,
) -> Response:  # fmt: skip
    """The answer with these bytes, or 304 when the client has them already."""
    tag = tag or tag_of(body)
    request.scope["state"]["items"] = items
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if matches(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)
