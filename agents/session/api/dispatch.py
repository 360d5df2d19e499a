"""From a request to its route's function without FastAPI in between, where that is possible.

    app = Dispatcher(make_app(…), routers)         ASGI; the same answers, in a quarter of the time

FastAPI describes the routes and answers whatever is not plain: another method, an address that
no route has, a parameter that is not what it has to be, a stream, a file. What it costs for each
request are its layers (docs/performance.md). Every request passes `guard.reader` here as there.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

import structlog
from fastapi import APIRouter, FastAPI, Request, params
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agents.session.api.guard import reader, visible, visible_name
from agents.session.api.problems import answer, translate
from schemas.errors import LucidError

log = structlog.get_logger(__name__)

LONGEST_KEPT, MOST_KEPT = 200, 500
"""Characters of a query string whose values are remembered, and how many of them of a route."""
Endpoint = Callable[..., Awaitable[Response]]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a route's function. key: its name in the request."""

    name: str
    key: str
    adapter: TypeAdapter[Any]
    default: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Plan:
    """How a route's function is called; each name is that of one of its parameters, or empty."""

    route: APIRoute
    request: str
    who: str
    session: str
    path: tuple[Parameter, ...]
    query: tuple[Parameter, ...]
    remembered: Callable[[str], Values | None]

    @property
    def endpoint(self) -> Endpoint:
        found: Endpoint = self.route.endpoint
        return found

    async def answer(self, request: Request) -> Response | None:
        """The route's answer, None where FastAPI has to say what is wrong; raises LucidError."""
        who = await reader(request)
        values = self._values(request.scope)
        if values is None:
            return None
        if self.session:
            row = visible_name(request, who, request.scope["path_params"]["session"])
            if row is None:
                return None
            values[self.session] = row
        if self.request:
            values[self.request] = request
        if self.who:
            values[self.who] = who
        return await self.endpoint(**values)

    def _values(self, scope: Scope) -> dict[str, Any] | None:
        found: dict[str, Any] = {}
        if self.query or scope["query_string"]:
            text = scope["query_string"].decode("latin-1")
            look = self.remembered if len(text) <= LONGEST_KEPT else self.read_query
            values = look(text)
            if values is None:
                return None
            found.update(values)
        for one in self.path:
            try:
                found[one.name] = one.adapter.validate_python(scope["path_params"][one.key])
            except ValidationError:
                return None
        return found

    def read_query(self, text: str) -> Values | None:
        """The parameters that a query string gives, None if one of them is wrong."""
        return _read_query(self.query, text)


def _read_query(parameters: Collection[Parameter], text: str) -> Values | None:
    given, found = QueryParams(text), {}
    if not given.keys() <= {one.key for one in parameters}:
        return None  # guard.only_known says which
    for one in parameters:
        value = given.get(one.key)
        if value is None:
            if one.default is inspect.Parameter.empty:
                return None
            found[one.name] = one.default
            continue
        try:
            found[one.name] = one.adapter.validate_python(value)
        except ValidationError:
            return None
    return found


def plan_of(route: APIRoute) -> Plan | None:
    """The plan of a route, None for one that is left to FastAPI."""
    if route.methods != {"GET"} or not isinstance(route.response_class, DefaultPlaceholder):
        return None
    names = dict.fromkeys(("request", "who", "session"), "")
    path: list[Parameter] = []
    query: list[Parameter] = []
    inner = {reader: "who", visible: "session"}
    for name, one in inspect.signature(route.endpoint, eval_str=True).parameters.items():
        kind, *notes = get_args(one.annotation) if _annotated(one) else (one.annotation,)
        if kind is Request:
            names["request"] = name
            continue
        about = next((note for note in notes if isinstance(note, params.Depends)), None)
        if about is not None:
            if about.dependency not in inner:
                return None
            names[inner[about.dependency]] = name
            continue
        note = next((note for note in notes if isinstance(note, params.Param)), None)
        if not isinstance(note, params.Path | params.Query):
            return None
        adapter: TypeAdapter[Any] = TypeAdapter(one.annotation)
        found = Parameter(name, note.alias or name, adapter, one.default)
        (path if isinstance(note, params.Path) else query).append(found)
    kept = tuple(query)
    return Plan(
        route, **names, path=tuple(path), query=kept,
        remembered=lru_cache(MOST_KEPT)(lambda text: _read_query(kept, text)),
    )  # fmt: skip


def _annotated(parameter: inspect.Parameter) -> bool:
    return get_origin(parameter.annotation) is Annotated


@dataclass(slots=True)
class Node:
    """What may follow a part of a path: certain words, or any part that is not empty."""

    words: dict[str, Node] = field(default_factory=dict)
    other: Node | None = None
    found: tuple[Plan, tuple[str, ...]] | None = None


class Tree:
    """Plans by their paths."""

    def __init__(self, plans: Iterable[Plan]) -> None:
        self._root = Node()
        for plan in plans:
            node, names = self._root, []
            for part in plan.route.path.split("/"):
                if part.startswith("{"):
                    names.append(part.strip("{}"))
                    node.other = node = node.other or Node()
                else:
                    node = node.words.setdefault(part, Node())
            node.found = plan, tuple(names)

    def find(self, path: str) -> tuple[Plan, dict[str, str]] | None:
        """The plan of a path, with what stands for each name."""
        node, values = self._root, []
        for part in path.split("/"):
            below = node.words.get(part)
            if below is None:
                if not part or node.other is None:
                    return None
                below = node.other
                values.append(part)
            node = below
        if node.found is None:
            return None
        plan, names = node.found
        return plan, dict(zip(names, values, strict=True))


class Dispatcher:
    """ASGI around the application: calls a route's function itself, or leaves it to FastAPI."""

    def __init__(self, app: FastAPI, routers: Iterable[APIRouter]) -> None:
        self._app: ASGIApp = app
        self._scope_app = app
        routes = [one for router in routers for one in router.routes if isinstance(one, APIRoute)]
        self.plans = [plan for route in routes if (plan := plan_of(route)) is not None]
        self._tree = Tree(self.plans)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        plan, names = found
        scope["app"], scope["route"], scope["path_params"] = self._scope_app, plan.route, names
        scope["endpoint"] = plan.route.endpoint
        request = Request(scope, receive, send)
        try:
            response = await plan.answer(request)
        except LucidError as error:
            response = answer(request, translate(error))
        except Exception as error:
            log.error("a route failed", error=error, exc_info=error, path=scope["path"])
            response = answer(request, translate(error))
        await (self._app if response is None else response)(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[Plan, dict[str, str]] | None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope.get("root_path"):
            return None
        return self._tree.find(scope["path"])
