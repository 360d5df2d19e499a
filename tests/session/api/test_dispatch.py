"""The short way to a route answers as FastAPI does, and asks the guard as it does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import APIRouter

from agents.platform.health import Health
from agents.platform.limiting import Limiter
from agents.platform.metrics import Metrics
from agents.platform.tokens import TokenExpired
from agents.session.api import guard
from agents.session.api.app import ROUTERS, make_app, serving
from agents.session.api.dispatch import Dispatcher, Node, Tree, plan_of
from agents.session.api.envelope import Envelope
from agents.session.api.guard import BASE, ROUTES
from agents.session.api.index import SessionIndex
from agents.session.api.metrics import ApiMetrics
from agents.session.api.settings import ApiSettings
from schemas.access import Claims, Role
from schemas.sessions import new_session_id

S = f"{BASE}/sessions"
SERVER = "01912d68-783e-7a03-8467-5661c1243ad4"
LEFT = {f"{BASE}/stream", f"{S}/{{session}}/chunks/{{index}}/data", f"{BASE}/nodes"}
"""A stream, a file, undeclared parameters; and whatever is about one RDP server."""


@dataclass
class Answer:
    """What an application has sent."""

    status: int
    fields: list[tuple[str, str]]
    content: bytes

    @property
    def headers(self) -> dict[str, str]:
        assert len(dict(self.fields)) == len(self.fields), "a header stands twice"
        return dict(self.fields)

    def json(self) -> Any:
        return json.loads(self.content)


async def ask(app: Any, method: str, address: str, headers: dict[str, str]) -> Answer:
    """A request to an ASGI application."""
    path, _, query = address.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": unquote(path), "raw_path": path.encode(), "root_path": "",
        "query_string": query.encode(), "client": ("10.0.0.1", 1), "server": ("h", 80),
        "headers": [(name.lower().encode(), text.encode()) for name, text in headers.items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    fields = [(name.decode(), text.decode()) for name, text in sent[0]["headers"]]
    return Answer(sent[0]["status"], fields, b"".join(one.get("body", b"") for one in sent))


class Trail:
    """An audit trail that keeps what it is told."""

    full = False

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def note(self, data: Any, subject: str, *, actor: Any) -> None:
        self.notes.append((data, subject, actor))


class Tokens:
    """Takes one token."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims

    def verify(self, token: str) -> Claims:
        if token != "good":
            raise TokenExpired("the token has expired")
        return self.claims


class House:
    """The API on what is in memory. `plain`: without the short way."""

    def __init__(self, *roles: Role, rate: int = 100_000) -> None:
        metrics = Metrics("api", version="0")
        self.app = make_app(
            Health("api", version="0", metrics=metrics), ApiMetrics(metrics.registry)
        )
        self.hers, self.his = str(new_session_id()), str(new_session_id())
        index = SessionIndex()
        index.put(
            {"_id": one, "state": "completed", "version": 1,
             "opened": {"owner": owner, "project": "p", "started": 1}}
            for one, owner in ((self.hers, "ada"), (self.his, "bob"))
        )  # fmt: skip
        self.trail = Trail()
        claims = Claims(
            issuer="i", audience="a", subject="ada", client="c", issued=1, not_before=1, expires=2,
            jti=str(new_session_id()), roles=roles or (Role.ADMIN,), owners=("ada",),
            projects=("p",),
        )  # fmt: skip

        async def session(row: Any) -> dict[str, Any]:
            if self.broken:
                raise self.broken
            return {"_id": row.session, "state": row.state, "next_index": 3}

        async def check(jti: str) -> None:
            assert jti == claims.jti

        self.broken: Exception | None = None
        self.index = index
        self.app.state.api = SimpleNamespace(
            section=ApiSettings(port=0, rate=rate), index=index, tokens=Tokens(claims),
            follower=SimpleNamespace(loaded=True), limiter=Limiter(None), audit=self.trail,
            revocations=SimpleNamespace(check=check), reading=SimpleNamespace(session=session),
        )  # fmt: skip

    async def get(
        self, path: str, *, short: bool = True, method: str = "GET", token: str = "good",
        **headers: str,
    ) -> Answer:  # fmt: skip
        envelope: Any = serving(self.app)
        if not short:
            envelope = Envelope(self.app, metrics=self.app.state.metrics)
        sent = {"Authorization": f"Bearer {token}", "X-Request-Id": "r", **headers}
        return await ask(envelope, method, path, sent)


def test_each_plain_route_has_a_short_way_and_the_guard_knows_it() -> None:
    found = {plan.route.path for plan in Dispatcher(House().app, ROUTERS).plans}
    assert found <= set(ROUTES)
    assert set(ROUTES) - found == LEFT | {one for one in ROUTES if "{server}" in one}


def shown(answer: Answer) -> tuple[int, dict[str, str], Any]:
    headers = {name: text for name, text in answer.headers.items() if name != "ratelimit"}
    body = answer.json() if "json" in answer.headers.get("content-type", "") else answer.content
    if isinstance(body, dict):
        body.pop("timestamp", None)
    return answer.status, headers, body


PATHS = [
    S, f"{S}?limit=1", f"{S}?limit=1&limit=2", f"{S}?limit=0", f"{S}?limit=x&sort=y",
    f"{S}?state=completed&owner=ada&order=asc", f"{S}?state=", f"{S}?cursor=x", f"{S}?unknown=1",
    f"{S}?owner=%C3%A4%00", f"{S}?owner={'x' * 300}", f"{S}?owner={'x' * 2000}", f"{S}?since=-1",
    f"{S}?limit=5;x", f"{S}?limit=%35", f"{S}?limit=+5", f"{S}/", f"{S}//", f"{S}/{{}}", f"{S}%0A",
    "{hers}", "{his}", "{none}", "{upper}", "{hers}/", "{hers}%2Fpipeline", "{hers}/pipeline?x=1",
    "{his}/pipeline", f"{S}/x", f"{S}/x/pipeline", "{hers}/chunks/x", "{hers}/chunks/x/proof",
    "{hers}/chunks/-1", "{his}/chunks/x", "{hers}/consistency", "{his}/consistency",
    "{hers}/consistency?old=x", "{hers}/nothing", f"{BASE}/statistics", f"{BASE}/nodes/A_B", BASE,
    f"{BASE}/nodes/{{node}}", "/", "/health/live", f"{BASE}/rdp/servers/x", "{hers}/chunks//proof",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", ["good", "bad"])
async def test_both_ways_answer_the_same_and_put_down_the_same(path: str, token: str) -> None:
    house = House()
    names = {"hers": f"{S}/{house.hers}", "his": f"{S}/{house.his}",
             "none": f"{S}/{new_session_id()}", "upper": f"{S}/{house.hers.upper()}"}  # fmt: skip
    for name, text in names.items():
        path = path.replace(f"{{{name}}}", text)
    found = await house.get(path, token=token)
    notes, house.trail.notes = house.trail.notes, []
    other = await house.get(path, token=token, short=False)
    assert shown(found) == shown(other)
    assert notes == house.trail.notes
    tag = found.headers.get("etag")
    if tag is not None:
        again = [
            await house.get(path, short=way, **{"If-None-Match": tag}) for way in (True, False)
        ]
        assert shown(again[0]) == shown(again[1])
        assert (again[0].status, again[0].content) == (304, b"")


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize(
    ("path", "name", "known"),
    [
        (f"{S}?ower=ada", "ower", "owner, project"),
        (f"{S}?owner=ada&unknown=1", "unknown", "owner"),
        (f"{S}?Owner=ada", "Owner", "owner"),
        ("{hers}/pipeline?x=1", "x", "it has no parameters"),
        ("{hers}/consistency?old=1&new=2&neu=2", "neu", "new, old"),
        (f"{BASE}/audit?tpye=x", "tpye", "type, until, user"),
        (f"{BASE}/stream?event_type=x", "event_type", "session, type"),
        ("{hers}/chunks/0/data?raw=1", "raw", "it has no parameters"),
        ("{hers}/verification?wiat=1", "wiat", "wait"),
        (f"{BASE}/rdp/servers/{SERVER}/metrics?sinse=1", "sinse", "since, until"),
    ],
)
async def test_an_unknown_parameter_is_refused_and_the_known_are_named(
    path: str, name: str, known: str, short: bool
) -> None:
    house = House()
    found = await house.get(path.replace("{hers}", f"{S}/{house.hers}"), short=short)
    body = found.json()
    assert (found.status, body["code"]) == (400, "LUCID_ERR_3002")
    assert f"no parameter '{name}'" in body["detail"]
    assert known in body["detail"]
    assert [one["name"] for one in body["details"]["parameters"]] == [name]
    assert body["details"]["known"] == sorted(body["details"]["known"])


def test_both_ways_know_the_same_parameters() -> None:
    for plan in Dispatcher(House().app, ROUTERS).plans:
        known = guard._parameters(plan.route.dependant)
        assert {one.key for one in plan.query} == known, plan.route.path


async def test_other_methods_are_refused_as_before() -> None:
    house = House()
    for method in ("HEAD", "POST", "DELETE", "OPTIONS"):
        for path in (S, f"{S}/{house.hers}"):
            assert (await house.get(path, method=method)).status == 405


async def test_no_route_is_answered_without_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    for plan in Dispatcher(house.app, ROUTERS).plans:
        path = plan.route.path.replace("{session}", house.hers).replace("{index}", "0")
        found = await house.get(path, token="bad")
        assert (found.status, found.json()["code"]) == (401, "LUCID_ERR_3011"), path
    assert {one.code for one, _, _ in house.trail.notes} == {"TokenExpired"}
    monkeypatch.delitem(ROUTES, S)
    assert (await house.get(S)).json()["code"] == "LUCID_ERR_3012"
    viewer = House(Role.SESSION_VIEWER)
    assert (await viewer.get(f"{S}/{viewer.hers}/pipeline")).status == 403
    assert (await viewer.get(f"{S}/{viewer.hers}")).status == 200


async def test_a_request_is_checked_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    house, checks = House(rate=2), []
    check = guard._check

    async def counted(request: Any) -> Any:
        checks.append(request.url.path)
        return await check(request)

    monkeypatch.setattr(guard, "_check", counted)
    # A wrong parameter goes both ways: the limit has one request less all the same.
    assert (await house.get(f"{S}?limit=x")).status == 400
    assert (await house.get(S)).status == 200
    refused = await house.get(S)
    assert (refused.status, len(checks)) == (429, 3)
    assert {"retry-after", "ratelimit", "ratelimit-policy"} <= refused.headers.keys()


async def test_a_bug_is_a_problem_with_the_request_id() -> None:
    house = House()
    house.broken = RuntimeError("secret")
    found = await house.get(f"{S}/{house.hers}")
    assert (found.status, found.json()["code"]) == (500, "LUCID_ERR_3017")
    assert b"secret" not in found.content
    assert found.headers["x-request-id"] == "r"


async def test_a_list_is_made_anew_when_a_session_changes() -> None:
    house = House()
    first = await house.get(S)
    assert (await house.get(S)).content == first.content
    house.index.put([{"_id": house.hers, "state": "incomplete", "version": 2,
                      "opened": {"owner": "ada", "project": "p", "started": 1}}])  # fmt: skip
    changed = await house.get(S)
    assert changed.json()["sessions"][0]["state"] == "incomplete"
    assert changed.headers["etag"] != first.headers["etag"]
    house.index.drop([house.hers])
    assert json.loads((await house.get(S)).content) == {"sessions": [], "next": None}


async def test_what_is_kept_of_lists_is_bounded() -> None:
    house = House()
    for number in range(260):
        await house.get(f"{S}?owner=o{number}")
    assert len(house.index._listed) == 200


def test_a_route_that_needs_more_than_the_plain_way_is_left_alone() -> None:
    router = APIRouter()

    @router.get("/bare")
    async def bare(x: int) -> None: ...

    @router.post("/post")
    async def post() -> None: ...

    assert [plan_of(route) for route in router.routes] == [None, None]  # type: ignore[arg-type]


def test_words_of_a_path_come_before_names() -> None:
    def plan(path: str) -> Any:
        return SimpleNamespace(route=SimpleNamespace(path=path))

    one, other = plan("/a/{x}"), plan("/a/b/{y}")
    tree = Tree([one, other])
    assert tree.find("/a/c") == (one, {"x": "c"})
    assert tree.find("/a/b/d") == (other, {"y": "d"})
    assert [tree.find(path) for path in ("", "/", "/a", "/a/", "/a/c/d", "a/c", "/a/b")] == [
        None
    ] * 7
    assert tree.find("/a/{}") == (one, {"x": "{}"})
    assert Node().found is None
