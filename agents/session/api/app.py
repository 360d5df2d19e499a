"""The FastAPI application: routes, errors, and the OpenAPI document.

app = make_app(service, metrics)
serving(app)                    what a server gets
app.state.api = Api(…)          set by agent.py; until then every route answers 503
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from agents.platform.health import METRICS_TYPE, Answer, Health
from agents.session.api.context import api_of
from agents.session.api.dispatch import Dispatcher
from agents.session.api.envelope import Envelope
from agents.session.api.guard import BASE, ROUTES, only_known, reader
from agents.session.api.metrics import ApiMetrics
from agents.session.api.problems import Problem, answer, translate
from agents.session.api.routes import activity, chunks, evidence, nodes, rdp, sessions
from schemas.errors import LucidError

log = structlog.get_logger(__name__)

ABOUT = """Reads recorded sessions, what proves them, and who read them. Nothing can be changed.

Every answer to a token that may not see a session is as if there were none. Times are
microseconds since 1970, hashes lower-case hex. Errors are problem details (RFC 9457).
A query parameter that a resource does not have is refused with 400, and the known ones are named.
Answers carry an ETag; `If-None-Match` saves their bytes."""


ROUTERS = tuple(module.router for module in (sessions, chunks, evidence, activity, nodes, rdp))


def serving(app: FastAPI) -> ASGIApp:
    """What is served: the application, with the short way to its routes, in the envelope."""
    return Envelope(Dispatcher(app, ROUTERS), metrics=app.state.metrics)


def make_app(health: Health, metrics: ApiMetrics) -> FastAPI:
    """The application, without anything behind its routes yet."""
    app = FastAPI(
        title="Lucid query API", version="1", description=ABOUT, docs_url=None, redoc_url=None,
        openapi_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.metrics = metrics
    for router in ROUTERS:
        # Here, and not at each route, so that none can be added without.
        app.include_router(router, dependencies=[Depends(reader), Depends(only_known)])
    _add_public(app, health)
    for kind in (LucidError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _problem)
    app.add_exception_handler(Exception, _bug)
    return app


async def _problem(request: Request, error: Exception) -> Response:
    return answer(request, translate(error))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("a route failed", error=error, exc_info=error, path=request.url.path)
    return answer(request, translate(error))


def _add_public(app: FastAPI, health: Health) -> None:
    """What needs no token: how the service is, its keys, and its own description."""

    def respond(found: Answer) -> JSONResponse:
        return JSONResponse(found[1], found[0], headers={"Cache-Control": "no-store"})

    async def summary() -> Response:
        return respond(await health.summary())

    async def live() -> Response:
        return respond(await health.live())

    async def ready() -> Response:
        return respond(await health.readiness())

    async def metrics(request: Request) -> Response:
        if (api := getattr(request.app.state, "api", None)) is not None:
            request.app.state.metrics.look_at(api)
        body = await asyncio.to_thread(health.metrics.exposition)
        return Response(body, headers={"Content-Type": METRICS_TYPE})

    async def jwks(request: Request) -> Response:
        keys = api_of(request).tokens.jwks()
        return JSONResponse(keys, headers={"Cache-Control": "public, max-age=60"})

    async def openapi() -> Response:
        return JSONResponse(openapi_document(app))

    for path, route in (
        ("/health", summary), ("/health/live", live), ("/health/ready", ready),
        ("/metrics", metrics), (f"{BASE}/jwks.json", jwks), (f"{BASE}/openapi.json", openapi),
    ):  # fmt: skip
        app.add_api_route(path, route, methods=["GET"], include_in_schema=False)


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document: routes, examples, every error, the bearer token."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                   "description": "EdDSA, 30 minutes at most; docs/formats/token.md"},
    }  # fmt: skip
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["security"] = [{"bearer": []}]
            operation["x-permission"] = ROUTES[path].value
            operation["responses"].pop("422", None)
            _describe_not_modified(operation)
    app.openapi_schema = document
    return document


def _describe_not_modified(operation: dict[str, Any]) -> None:
    """Every answer but a stream has an entity tag."""
    responses = operation["responses"]
    if "text/event-stream" in responses["200"].get("content", {}):
        return
    responses.setdefault("304", {"description": "The client has it already"})
    operation.setdefault("parameters", []).append({
        "name": "If-None-Match", "in": "header", "required": False,
        "schema": {"type": "string"},
        "description": "Entity tags that the client has",
    })  # fmt: skip
