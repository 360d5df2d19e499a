"""Who may ask for what: the one table of routes and permissions, and the check of it.

Every route is in ROUTES or in PUBLIC; one that is in neither is refused, whoever asks. The
order of the checks: token, revocation, permission, limit. A session outside of the token's
scope does not exist for its holder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request
from fastapi.dependencies.models import Dependant

from agents.platform.audit import AuditFull
from agents.platform.catalog import Document
from agents.platform.revocation import RevocationsUnknown
from agents.platform.tokens import TokenRefused
from agents.session.api.context import Api, api_of
from agents.session.api.index import Row
from agents.session.api.problems import ApiProblem, Code
from schemas.access import Claims, Permission, Role, may, sees
from schemas.audit import AccessDenied, Actor, name_of
from schemas.errors import quoted
from schemas.sessions import InvalidSessionId, parse_session_id

BASE = "/api/v1"
_ONE = f"{BASE}/sessions/{{session}}"
_RDP = f"{BASE}/rdp"
_SERVER = f"{_RDP}/servers/{{server}}"
P = Permission

ROUTES: dict[str, Permission] = {
    f"{BASE}/sessions": P.SESSIONS_LIST,
    _ONE: P.SESSIONS_READ,
    f"{_ONE}/chunks": P.CHUNKS_READ,
    f"{_ONE}/chunks/{{index}}": P.CHUNKS_READ,
    f"{_ONE}/chunks/{{index}}/data": P.CHUNKS_DOWNLOAD,
    f"{_ONE}/chunks/{{index}}/proof": P.PROOFS_READ,
    f"{_ONE}/consistency": P.PROOFS_READ,
    f"{_ONE}/pipeline": P.PIPELINE_READ,
    f"{_ONE}/statistics": P.STATISTICS_READ,
    f"{_ONE}/manifest": P.MANIFESTS_READ,
    f"{_ONE}/checkpoint": P.MANIFESTS_READ,
    f"{_ONE}/verification": P.VERIFICATION_READ,
    f"{_ONE}/events": P.EVENTS_READ,
    f"{_ONE}/anchor": P.PROOFS_READ,
    f"{_ONE}/live": P.PIPELINE_READ,
    f"{BASE}/statistics": P.STATISTICS_READ,
    f"{BASE}/stream": P.STREAM_READ,
    f"{BASE}/audit": P.AUDIT_READ,
    f"{BASE}/nodes": P.NODES_READ,
    f"{BASE}/nodes/{{node}}": P.NODES_READ,
    f"{BASE}/nodes/{{node}}/credits": P.CREDITS_READ,
    f"{BASE}/pools": P.POOLS_READ,
    f"{BASE}/pools/{{pool}}": P.POOLS_READ,
    f"{_RDP}/servers": P.RDP_READ,
    _SERVER: P.RDP_READ,
    f"{_SERVER}/sessions": P.RDP_READ,
    f"{_SERVER}/connections": P.RDP_READ,
    f"{_SERVER}/metrics": P.RDP_READ,
    f"{_SERVER}/alerts": P.RDP_READ,
    f"{_RDP}/sessions/{{desktop}}": P.RDP_READ,
    f"{_RDP}/ports": P.RDP_READ,
    f"{_RDP}/alerts": P.RDP_READ,
}
"""What each route needs."""
PUBLIC = frozenset({
    f"{BASE}/openapi.json", f"{BASE}/jwks.json", "/health", "/health/live", "/health/ready",
    "/metrics",
})  # fmt: skip
HEAVY = frozenset({
    f"{BASE}/audit", f"{BASE}/statistics", f"{_ONE}/statistics", f"{_ONE}/verification",
    f"{_RDP}/servers", f"{_RDP}/ports", f"{_RDP}/alerts",
})  # fmt: skip
"""Routes with the lower limit, for they cost more."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who asks, and with which claims."""

    claims: Claims
    actor: Actor


async def reader(request: Request) -> Reader:
    """The reader of a request that may use its route, checked once; raises ApiProblem."""
    state = request.scope["state"]
    found: Reader | None = state.get("reader")
    if found is None:
        found = state["reader"] = await _check(request)
    return found


async def _check(request: Request) -> Reader:
    api = api_of(request)
    route = request.scope["route"].path
    permission = ROUTES.get(route)
    address = request.client.host if request.client else ""
    try:
        claims = await _claims(api, request)
    except ApiProblem as refusal:
        await _limit(api, request, f"address {address}", route)
        _denied(api, request, permission, refusal, Actor("", "anonymous", address))
        raise
    actor = _actor(claims.subject, address, claims.roles)
    request.scope["state"]["actor"] = actor
    if permission is None or not may(claims, permission):
        problem = ApiProblem(
            Code.FORBIDDEN, f"none of the token's roles has {permission or 'this route'}",
            headers={"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
        )  # fmt: skip
        _denied(api, request, permission, problem, actor)
        raise problem
    await _limit(api, request, claims.subject, route)
    if api.audit.full:
        raise ApiProblem(
            Code.UNAVAILABLE, "the audit trail does not take any more entries at the moment",
            headers={"Retry-After": "2"},
        )  # fmt: skip
    return Reader(claims, actor)


@lru_cache(1000)
def _actor(subject: str, address: str, roles: tuple[Role, ...]) -> Actor:
    return Actor(name_of(subject), "api", address, tuple(role.value for role in roles))


async def _claims(api: Api, request: Request) -> Claims:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise ApiProblem(
            Code.UNAUTHENTICATED, "a bearer token is needed; `lucid token issue` makes one",
            headers={"WWW-Authenticate": 'Bearer realm="lucid"'},
        )  # fmt: skip
    try:
        claims = api.tokens.verify(token)
        await api.revocations.check(claims.jti)
    except TokenRefused as error:
        raise ApiProblem(
            Code.UNAUTHENTICATED, str(error), details={"cause": error.code},
            headers={"WWW-Authenticate": 'Bearer realm="lucid", error="invalid_token"'},
        ) from error  # fmt: skip
    except RevocationsUnknown as error:
        raise ApiProblem(
            Code.UNAVAILABLE, str(error), details={"cause": error.code},
            headers={"Retry-After": "5"},
        ) from error  # fmt: skip
    return claims


async def _limit(api: Api, request: Request, subject: str, route: str) -> None:
    rate = api.section.heavy_rate if route in HEAVY else api.section.rate
    allowance = await api.limiter.hit(subject, route, rate)
    request.scope["state"]["allowance"] = allowance  # the envelope puts it into headers
    if not allowance.allowed:
        raise ApiProblem(Code.RATE_LIMITED, f"{allowance.limit} requests a minute are allowed here")


def _denied(
    api: Api, request: Request, permission: Permission | None, problem: ApiProblem, actor: Actor
) -> None:
    """Put down who was refused; a trail that is full refuses the request otherwise."""
    data = AccessDenied(
        permission=permission.value if permission else "none",
        resource=name_of(request.url.path), session=_session_or_none(request),
        code=problem.details.get("cause", problem.problem.number),
        request=request.state.request_id,
    )  # fmt: skip
    try:
        api.audit.note(data, data.session or data.resource, actor=actor)
    except AuditFull:
        raise ApiProblem(
            Code.UNAVAILABLE, "the audit trail is full", headers={"Retry-After": "2"}
        ) from None


def _session_or_none(request: Request) -> str | None:
    try:
        return str(parse_session_id(request.path_params.get("session", "")))
    except InvalidSessionId:
        return None


ReaderOf = Annotated[Reader, Depends(reader)]


async def only_known(request: Request) -> None:
    """Refuse a query parameter that the route does not have; raises ApiProblem.

    Whoever mistypes a filter would else take everything for what the filter leaves.
    """
    known = sorted(_parameters(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        one = quoted(unknown[0])
        has = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
        raise ApiProblem(
            Code.INVALID_REQUEST, f"this resource has no parameter {one}; {has}",
            details={
                "parameters": [{"name": name[:80], "problem": "unknown"} for name in unknown[:20]],
                "known": known,
            },
        )  # fmt: skip


def _parameters(dependant: Dependant) -> set[str]:
    """Names of the query parameters of a function and of all that it depends on."""
    own = {one.alias for one in dependant.query_params}
    return own.union(*map(_parameters, dependant.dependencies))


async def visible(
    request: Request, who: ReaderOf,
    session: Annotated[UUID, Path(description="A session id, a UUID in lower case")],
) -> Row:  # fmt: skip
    """The session of the path, if it is in the reader's scope; raises ApiProblem."""
    name = str(session)
    found = visible_name(request, who, name) if request.path_params["session"] == name else None
    if found is None:
        raise _unseen(name)
    return found


def visible_name(request: Request, who: Reader, name: str) -> Row | None:
    """The session of that name, None if there is none; raises ApiProblem for one out of scope."""
    found = api_of(request).index.get(name)
    if found is None:
        return None
    if sees(who.claims, found.owner, found.project):
        request.scope["state"]["session"] = name
        return found
    problem = _unseen(name)
    _denied(api_of(request), request, ROUTES[request.scope["route"].path], problem, who.actor)
    raise problem


def _unseen(name: str) -> ApiProblem:
    return ApiProblem(Code.SESSION_NOT_FOUND, f"there is no session {name} for you")


VisibleSession = Annotated[Row, Depends(visible)]


def sees_server(claims: Claims, server: Document | None) -> bool:
    """Whether an RDP server is in a token's scope. It has an owner, and no project."""
    return server is not None and sees(claims, server.get("owner", ""), "")


async def find_server(
    request: Request, who: Reader, server: str, problem: ApiProblem | None = None
) -> Document:
    """An RDP server in the reader's scope; raises ApiProblem, `problem` if there is one."""
    found = await api_of(request).catalog.get("rdp_server_states", server)
    if found is not None and sees_server(who.claims, found):
        return found
    missing = problem or ApiProblem(
        Code.SERVER_NOT_FOUND, f"there is no RDP server {server} for you"
    )
    if found is not None:
        _denied(api_of(request), request, Permission.RDP_READ, missing, who.actor)
    raise missing


async def visible_server(
    request: Request, who: ReaderOf,
    server: Annotated[UUID, Path(description="An RDP server's id, a UUID in lower case")],
) -> Document:  # fmt: skip
    """The RDP server of the path, if it is in the reader's scope; raises ApiProblem."""
    return await find_server(request, who, str(server))


VisibleServer = Annotated[Document, Depends(visible_server)]
