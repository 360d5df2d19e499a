"""What every request gets around its route: an id, limits in headers, metrics, an audit entry.

Plain ASGI, so that a stream passes through without being held up.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents.platform.audit import AuditFull
from agents.session.api.context import Api
from agents.session.api.metrics import ApiMetrics
from schemas.audit import ResourceRead, name_of

log = structlog.get_logger(__name__)

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
NO_SNIFF = (b"x-content-type-options", b"nosniff")
_STREAM = "/api/v1/stream"


class Envelope:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = _request_id(scope)
        begin, status, sent = time.perf_counter(), 500, 0

        async def answer(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message.get("headers", ()),
                    (b"x-request-id", state["request_id"].encode()),
                    NO_SNIFF,
                ]
                if (allowance := state.get("allowance")) is not None:
                    headers += allowance.fields()
                message = {**message, "headers": headers}
                if _path(scope) == _STREAM and status == 200:
                    _put_down(scope, status, 0)  # a stream may last for days
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            self._count(scope, status, time.perf_counter() - begin)
            if not state.get("put_down"):
                _put_down(scope, status, sent)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = _path(scope)
        self._metrics.answered(route, _method(scope), status, seconds)
        if code := scope["state"].get("code"):
            self._metrics.refused.labels(code).inc()


def _request_id(scope: Scope) -> str:
    """The client's own id if it is a decent one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode())
    return os.urandom(16).hex()


def _path(scope: Scope) -> str:
    """The route's pattern: metrics have as many labels as there are routes."""
    return getattr(scope.get("route"), "path", "none")


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in ("GET", "HEAD") else "other"


def _put_down(scope: Scope, status: int, size: int) -> None:
    """Leave an audit entry of what a known reader was given."""
    state = scope["state"]
    api: Api | None = getattr(scope["app"].state, "api", None) if "app" in scope else None
    actor = state.get("actor")
    state["put_down"] = True
    if api is None or actor is None or status not in (200, 206, 304):
        return
    session = state.get("session")
    data = ResourceRead(
        action=name_of(getattr(scope.get("endpoint"), "__name__", "none")),
        resource=name_of(scope["path"]), session=session, request=state["request_id"],
        bytes=size, items=state.get("items", 1), outcome=str(status),
    )  # fmt: skip
    try:
        api.audit.note(data, session or data.resource, actor=actor)
    except AuditFull as error:
        # The next request is refused for it; this one was let in while there was room.
        log.error("an act is in no audit trail", error=error, resource=data.resource)
