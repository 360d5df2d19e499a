"""Who may see what: every route walked with every role, forged tokens, limits, Redis gone."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import jwt
import pytest
from starlette.routing import Route

from agents.platform.health import Health
from agents.platform.metrics import Metrics
from agents.platform.redis_client import RedisClient
from agents.platform.revocation import Revocations, revoked_lately
from agents.platform.service import make_service, serve
from agents.platform.token_keys import signing_key
from agents.session.api.agent import Room
from agents.session.api.app import make_app
from agents.session.api.guard import PUBLIC, ROUTES
from agents.session.api.metrics import ApiMetrics
from agents.session.api.settings import ApiSettings
from schemas.access import PERMISSIONS, Role
from schemas.sessions import new_session_id
from tests.conftest import Stack
from tests.session.api.conftest import BASE, Running, Yard, a_yard, running, settings_of
from tests.session.api.rdp_events import DESKTOP, SERVER
from tests.session.api.test_nodes import tell_of_nodes
from tests.session.api.test_rdp import told

pytestmark = pytest.mark.stack
S = f"{BASE}/sessions"


def test_every_route_is_in_the_table_or_public() -> None:
    metrics = Metrics("api", version="0")
    app = make_app(Health("api", version="0", metrics=metrics), ApiMetrics(metrics.registry))
    found = {route.path: route.methods for route in _routes(app.routes)}
    assert set(found) == set(ROUTES) | PUBLIC
    assert not set(ROUTES) & PUBLIC
    assert all(methods <= {"GET", "HEAD"} for methods in found.values())


def _routes(routes: Any) -> list[Any]:
    found = [one for one in routes if isinstance(one, Route)]
    for one in routes:
        if (router := getattr(one, "original_router", None)) is not None:
            found += _routes(router.routes)
    return found


def path_of(route: str, session: str) -> str:
    more = "?old=0" if route.endswith("consistency") else ""
    for name, value in (("session", session), ("index", "0"), ("node", "desk7"), ("pool", "p"),
                        ("server", SERVER), ("desktop", DESKTOP)):  # fmt: skip
        route = route.replace(f"{{{name}}}", value)
    return route + more


async def test_each_role_gets_what_its_permissions_say_and_nothing_else(api: Running) -> None:
    session = await api.yard.whole()
    await tell_of_nodes(api)
    await told(api)
    await api.until(f"{S}/{session}/chunks/0/proof", lambda one: one.status == 200)
    for role in Role:
        token = api.yard.token(role)
        for route, permission in ROUTES.items():
            if route.endswith("/stream"):
                continue
            found = await api.get(path_of(route, session), token=token)
            allowed = permission in PERMISSIONS[role]
            assert (found.status == 403) is not allowed, (role, route, found.body)
            if allowed:
                assert found.status in (200, 202) or route.endswith("/live"), (role, route)
            else:
                assert found.json["code"] == "LUCID_ERR_3012"
    for route in ROUTES:
        found = await api.get(path_of(route, session), token="")
        assert (found.status, found.json["code"]) == (401, "LUCID_ERR_3011"), route
        assert found.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_route_that_nobody_declared_is_refused(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ROUTES, S)
    found = await api.get(S)
    assert (found.status, found.json["code"]) == (403, "LUCID_ERR_3012")


async def test_a_session_outside_of_the_scope_does_not_exist(api: Running) -> None:
    hers = await api.yard.whole("ada", "payroll")
    his = await api.yard.whole("bob", "payroll")
    other = await api.yard.whole("ada", "secret")
    await api.until(S, lambda one: len(one.json["sessions"]) == 3)
    token = api.yard.token(Role.SESSION_MANAGER, owners=["ada"], projects=["payroll"])
    listed = (await api.get(S, token=token)).json["sessions"]
    assert [one["session"] for one in listed] == [hers]
    for session, status in ((hers, 200), (his, 404), (other, 404), (str(new_session_id()), 404)):
        for tail in ("", "/chunks", "/statistics", "/events"):
            assert (await api.get(f"{S}/{session}{tail}", token=token)).status == status
    totals = (await api.get(f"{BASE}/statistics", token=token)).json["totals"]
    assert [one["sessions"] for one in totals] == [1]
    nothing = api.yard.token(Role.ADMIN, owners=[], projects=[])
    assert (await api.get(S, token=nothing)).json == {"sessions": [], "next": None}
    auditor = api.yard.token(Role.AUDITOR, owners=["ada"], projects=["payroll"])
    trail = await api.until(f"{BASE}/audit", lambda one: len(one.json["entries"]) > 5)
    assert {entry["data"].get("session") for entry in trail.json["entries"]} > {hers, his}
    seen = (await api.get(f"{BASE}/audit", token=auditor)).json["entries"]
    assert {entry["data"].get("session") for entry in seen} == {hers}


def forged(yard: Yard) -> dict[str, str]:
    """Tokens that look like one, by what is wrong with them."""
    kid, key = signing_key(yard.settings)
    good = yard.token()
    header, payload, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    now = int(time.time())
    public = key.public_key().public_bytes_raw()

    def signed(changes: dict[str, Any], alg: str = "EdDSA", secret: Any = key, **head: Any) -> str:
        headers = {"typ": "at+jwt", "kid": kid, **head}
        return jwt.encode({**claims, **changes}, secret, algorithm=alg, headers=headers)

    none = urlsafe_b64encode(json.dumps({"alg": "none", "typ": "at+jwt", "kid": kid}).encode())
    return {
        "another signature": f"{header}.{payload}.{signature[:-4]}AAAA",
        "no signature": f"{header}.{payload}.",
        "alg none": f"{none.rstrip(b'=').decode()}.{payload}.",
        "the public key as a secret": signed({}, "HS256", public),
        "expired": signed({"iat": now - 900, "nbf": now - 900, "exp": now - 300}),
        "not yet": signed({"iat": now + 600, "nbf": now + 600, "exp": now + 900}),
        "an hour": signed({"exp": claims["iat"] + 3600}),
        "another audience": signed({"aud": "other"}),
        "another issuer": signed({"iss": "other"}),
        "another type": signed({}, typ="JWT"),
        "another key": signed({}, kid="A" * 43),
        "critical header": signed({}, crit=["b64"], b64=False),
        "a role that is none": signed({"roles": ["root"]}),
        "a claim more": signed({"admin": True}),
        "huge": "a" * 20_000,
        "not one": "abc",
        "dots": "..",
        "spaces": "a b.c",
    }


async def test_no_forged_token_is_taken_and_none_is_shown(api: Running, capfd: Any) -> None:
    for what, token in forged(api.yard).items():
        found = await api.get(S, token=token)
        assert found.status in (400, 401, 431), what
        if found.status == 401:
            assert found.json["code"] == "LUCID_ERR_3011", what
            assert token not in found.body.decode() or len(token) < 5, what
    for scheme in ("Basic YTpi", "Bearer", "bearer  "):
        assert (await api.get(S, token="", headers={"Authorization": scheme})).status == 401
    assert (await api.get(S)).status == 200


async def test_a_revoked_token_is_refused_within_two_seconds(api: Running) -> None:
    yard, token = api.yard, api.yard.token()
    assert (await api.get(S, token=token)).status == 200
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    async with RedisClient(yard.settings) as redis:
        past = lambda: revoked_lately(yard.settings, yard.contract)  # noqa: E731
        async with Revocations(redis, past) as revocations:
            await revocations.revoke(jti, "lost")
    async with asyncio.timeout(5):
        while (found := await api.get(S, token=token)).status == 200:
            await asyncio.sleep(0.05)
    assert (found.status, found.json["details"]) == (401, {"cause": "TokenRevoked"})
    assert (await api.get(S)).status == 200


async def test_limits_are_each_subjects_and_each_routes(yard: Yard) -> None:
    async with running(yard, rate=5, heavy_rate=2) as api:
        ada, bob = (yard.token(subject=f"{name}-{uuid4()}") for name in ("ada", "bob"))
        answers = [await api.get(S, token=ada) for _ in range(7)]
        assert [one.status for one in answers] == [200] * 5 + [429] * 2
        assert answers[0].headers["RateLimit"].startswith('"default";r=4;')
        assert answers[-1].json["code"] == "LUCID_ERR_3010"
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert (await api.get(S, token=bob)).status == 200
        heavy = [(await api.get(f"{BASE}/statistics", token=ada)).status for _ in range(3)]
        assert heavy == [200, 200, 429]
        strangers = [(await api.get(S, token="")).status for _ in range(7)]
        assert strangers == [401] * 5 + [429] * 2


async def test_without_redis_limits_hold_and_tokens_end_after_the_grace(
    stack: Stack, tmp_path: Path
) -> None:
    settings = settings_of(stack, tmp_path, redis="redis://127.0.0.1:9/0", revocation_grace=1)
    async with a_yard(settings) as yard:
        # Nothing was ever read of the list, so no token is good.
        room = Room()
        service = make_service("api", settings, ApiSettings(port=0))
        task = asyncio.create_task(serve(service, room.build, front=room.front))
        try:
            async with aiohttp.ClientSession() as client, asyncio.timeout(30):
                while not service.started:
                    await asyncio.sleep(0.05)
                api = Running(yard, service.port, client, yard.token(), service.stop.set)
                found = await api.until(S, lambda one: "cause" in one.json.get("details", {}))
                assert (found.status, found.json["details"]["cause"]) == (
                    503, "RevocationsUnknown"
                )  # fmt: skip
                assert int(found.headers["Retry-After"]) > 0
                ready = (await api.get("/health/ready", token="")).json
                assert ready["checks"]["revocations"]["ok"] is False
                assert ready["checks"]["limits"]["advisory"] is True
                assert (await api.get("/health/live", token="")).status == 200
        finally:
            service.stop.set()
            await asyncio.wait_for(task, 20)


@pytest.mark.parametrize(("proxies", "believed"), [("", False), ("127.0.0.1", True)])
async def test_whose_word_is_taken_for_an_address(yard: Yard, proxies: str, believed: bool) -> None:
    async with running(yard, proxies=proxies) as api:
        who = f"ada-{uuid4()}"
        token = yard.token(subject=who)
        await api.get(S, token=token, headers={"X-Forwarded-For": "203.0.113.9"})
        found = await api.until(f"{BASE}/audit?user={who}", lambda one: bool(one.json["entries"]))
        address = found.json["entries"][0]["address"]
        assert address == ("203.0.113.9" if believed else "127.0.0.1")
