"""Errors as clients get them: problem details (RFC 9457) with Lucid's codes.

    raise problem(Code.SESSION_NOT_FOUND, f"there is no session {session}")

LucidError
└── ApiProblem        an answer that is an error; `code` says which
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from agents.platform.blobs import MissingFile
from agents.platform.retry import Transient
from schemas.errors import FormatError, LucidError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2


class Code(Enum):
    """Lucid's codes: number, HTTP status, title. Numbers are never used again."""

    SESSION_NOT_FOUND = ("LUCID_ERR_3001", 404, "No such session")
    INVALID_REQUEST = ("LUCID_ERR_3002", 400, "The request is not valid")
    CHUNK_NOT_FOUND = ("LUCID_ERR_3005", 404, "No such chunk")
    NOT_YET = ("LUCID_ERR_3006", 404, "The session has none yet")
    FILE_MISSING = ("LUCID_ERR_3007", 404, "The store has no such file")
    RATE_LIMITED = ("LUCID_ERR_3010", 429, "Too many requests")
    UNAUTHENTICATED = ("LUCID_ERR_3011", 401, "No valid token")
    FORBIDDEN = ("LUCID_ERR_3012", 403, "Not allowed")
    RANGE_UNSATISFIABLE = ("LUCID_ERR_3013", 416, "The range is not in the file")
    UNAVAILABLE = ("LUCID_ERR_3014", 503, "Not available now")
    NO_SUCH_ROUTE = ("LUCID_ERR_3015", 404, "No such resource")
    METHOD_NOT_ALLOWED = ("LUCID_ERR_3016", 405, "The API only reads")
    ERASED = ("LUCID_ERR_3018", 410, "Erased by policy")
    NODE_NOT_FOUND = ("LUCID_ERR_3030", 404, "No such node")
    POOL_NOT_FOUND = ("LUCID_ERR_3031", 404, "No such pool")
    SERVER_NOT_FOUND = ("LUCID_ERR_3019", 404, "No such RDP server")
    INTERNAL = ("LUCID_ERR_3017", 500, "An error of the service")

    def __init__(self, number: str, status: int, title: str) -> None:
        self.number, self.status, self.title = number, status, title


class Problem(BaseModel):
    """RFC 9457 problem details. Every error of this API is one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "type": "urn:lucid:problem:LUCID_ERR_3001", "title": "No such session", "status": 404,
        "detail": "there is no session 0193…", "instance": "/api/v1/sessions/0193…",
        "code": "LUCID_ERR_3001", "request_id": "6f1c…",
        "timestamp": "2026-11-25T20:00:00.000Z", "details": {},
    }]})  # fmt: skip

    type: str = Field(description="urn:lucid:problem: and the code")
    title: str = Field(description="The same for every problem of the code")
    status: int
    detail: str = Field(description="What happened here, and what to do")
    instance: str = Field(description="The path that was asked for")
    code: str = Field(pattern=r"^LUCID_ERR_3\d\d\d$")
    request_id: str = Field(description="The answer's header X-Request-Id; logs and audit have it")
    timestamp: str = Field(description="RFC 3339")
    details: dict[str, Any] = Field(description="More for machines, by code; often empty")


class ApiProblem(LucidError):
    """An answer that is an error."""

    def __init__(
        self, problem: Code, detail: str, *, headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.problem = problem
        self.headers = dict(headers or {})
        self.details = dict(details or {})


def responses(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of these errors, and of those that every route has."""
    every = (Code.INVALID_REQUEST, Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.METHOD_NOT_ALLOWED,
             Code.RATE_LIMITED, Code.UNAVAILABLE)  # fmt: skip
    found: dict[int | str, dict[str, Any]] = {}
    for code in (*every, *codes):
        entry = found.setdefault(code.status, {
            "description": "", "content": {MEDIA_TYPE: {"schema": {
                "$ref": "#/components/schemas/Problem"}}},
        })  # fmt: skip
        entry["description"] += f"{'; ' if entry['description'] else ''}{code.number} {code.title}"
    return found


def answer(request: Request, found: ApiProblem) -> JSONResponse:
    """The response of a problem."""
    request.state.code = found.problem.number
    body = Problem(
        type=f"urn:lucid:problem:{found.problem.number}",
        title=found.problem.title,
        status=found.problem.status,
        detail=str(found),
        instance=request.url.path[:1000],
        code=found.problem.number,
        request_id=getattr(request.state, "request_id", ""),
        timestamp=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        details=found.details,
    )
    headers = {"Cache-Control": "no-store", **found.headers}
    return JSONResponse(
        body.model_dump(), status_code=found.problem.status, headers=headers, media_type=MEDIA_TYPE
    )


def unavailable(error: Transient) -> ApiProblem:
    """A store that does not answer now."""
    seconds = max(RETRY_SECONDS, round(error.retry_after or 0))
    return ApiProblem(
        Code.UNAVAILABLE, error.what, headers={"Retry-After": str(seconds)},
        details={"cause": error.code},
    )  # fmt: skip


def translate(error: Exception) -> ApiProblem:
    """The problem that an exception of a route is."""
    if isinstance(error, ApiProblem):
        return error
    if isinstance(error, Transient):
        return unavailable(error)
    if isinstance(error, MissingFile):
        return ApiProblem(Code.FILE_MISSING, error.what)
    if isinstance(error, FormatError):
        return ApiProblem(Code.INVALID_REQUEST, str(error)[:500])
    if isinstance(error, RequestValidationError):
        return ApiProblem(
            Code.INVALID_REQUEST, "a parameter is not what it has to be",
            details={"parameters": [_parameter(one) for one in error.errors()[:20]]},
        )  # fmt: skip
    if isinstance(error, HTTPException):
        return _http(error)
    return ApiProblem(Code.INTERNAL, "look into the service's log for this request id")


def _parameter(error: Mapping[str, Any]) -> dict[str, str]:
    return {"name": ".".join(str(part) for part in error["loc"][1:]), "problem": error["msg"]}


def _http(error: HTTPException) -> ApiProblem:
    code = {404: Code.NO_SUCH_ROUTE, 405: Code.METHOD_NOT_ALLOWED}.get(
        error.status_code, Code.INVALID_REQUEST
    )
    detail = {
        Code.NO_SUCH_ROUTE: "this API has no such resource; /api/v1/openapi.json lists all",
        Code.METHOD_NOT_ALLOWED: "nothing can be changed here, only read with GET",
    }.get(code, str(error.detail))
    return ApiProblem(code, detail, headers=error.headers)
