"""The routes of RDP servers on the real servers: from the events of their rooms to the answers."""

from __future__ import annotations

from typing import Any

import pytest

from agents.platform.projection_commands import rebuild
from agents.session.api.rdp_views import ALERTS, DESKTOPS, HISTORY, RDP_VIEWS
from schemas.access import Role
from schemas.envelope import Event
from schemas.sessions import new_session_id
from tests.session.api import rdp_events as made
from tests.session.api.conftest import BASE, Answer, Running, Yard
from tests.session.api.rdp_events import AT, CLIENT, DESKTOP, EVENTS, SERVER

pytestmark = pytest.mark.stack
R = f"{BASE}/rdp"
ONE = f"{R}/servers/{SERVER}"


async def tell(yard: Yard, *events: tuple[str, Event]) -> None:
    """What the rooms of RDP servers say."""
    for topic, event in events:
        await yard.producer.send_event(yard.contract.topic(topic).full_name, event)


async def told(api: Running) -> None:
    """A server on which something goes on, in all views."""
    await tell(api.yard, *EVENTS)
    await api.until(ONE, lambda one: one.status == 200 and one.json["processes"] is not None)
    await api.until(f"{R}/sessions/{DESKTOP}", lambda one: bool((one.json).get("recorded")))
    await api.until(f"{ONE}/metrics", lambda one: bool(one.json["samples"]))
    for path, name in ((f"{R}/alerts", "alerts"), (f"{R}/ports", "ports"),
                       (f"{ONE}/connections", "connections")):  # fmt: skip
        await api.until(path, lambda one, name=name: bool(one.json[name]))  # type: ignore[misc]


async def test_a_server_is_shown_with_all_that_is_known_of_it(api: Running) -> None:
    await told(api)
    shown = (await api.get(ONE)).json
    assert (shown["server"], shown["state"], shown["port"]) == (SERVER, "running", 13389)
    assert shown["config"]["limits"] == {"cpu": 2.0, "memory_mb": 2048, "disk_gb": 10}
    assert shown["processes"]["pids"]["xrdp"] == {"pid": 7, "started": 70}
    assert shown["processes"]["changed"] == shown["changed"] == AT
    (session,) = (await api.get(f"{ONE}/sessions")).json["sessions"]
    assert (session["session"], session["state"], session["user"]) == (DESKTOP, "active", "ada")
    assert session["recordings"] == [made.RECORDING]
    (client,) = (await api.get(f"{ONE}/connections")).json["connections"]
    assert (client["connection"], client["session"]) == (CLIENT, DESKTOP)
    detail = (await api.get(f"{R}/sessions/{DESKTOP}")).json
    assert {name: detail[name] for name in session} == session
    assert (detail["notice"], detail["recorded"]["what"]) == ("accepted", "started")
    (port,) = (await api.get(f"{R}/ports")).json["ports"]
    assert (port["port"], port["state"], port["until"]) == (13389, "allocated", None)
    metrics = (await api.get(f"{ONE}/metrics")).json
    assert metrics["newest"] == metrics["samples"][0]
    assert metrics["newest"]["sessions"][0]["session"] == DESKTOP
    assert metrics["limits"]["cpu"] == 2.0
    (alert,) = (await api.get(f"{R}/alerts")).json["alerts"]
    assert (alert["metric"], alert["percent"], alert["resolved"]) == ("cpu", 91.5, None)
    await _what_happens_next_is_shown(api)


async def _what_happens_next_is_shown(api: Running) -> None:
    await tell(
        api.yard, ("rdp.server.events", made.server(2, "stopped")), ("rdp.alerts", made.over()),
        ("rdp.session.events", made.desktop(1, "terminated")),
        ("rdp.metrics", made.metrics(1, cpu=1.5)), ("rdp.metrics", made.metrics(20)),
    )  # fmt: skip
    await api.until(ONE, lambda one: one.json["state"] == "stopped")
    await api.until(f"{R}/alerts", lambda one: one.json["alerts"] == [])
    (alert,) = (await api.get(f"{ONE}/alerts")).json["alerts"]
    assert (alert["resolution"], alert["percent"]) == ("below", 91.5)
    await api.until(f"{ONE}/metrics", lambda one: len(one.json["samples"]) == 3)
    some = (await api.get(f"{ONE}/metrics?since={AT + 1}&until={AT + 20 * 60_000_000}")).json
    assert [one["usage"]["cpu"] for one in some["samples"]] == [1.5]
    assert some["newest"]["time"] == AT + 20 * 60_000_000
    await api.until(f"{ONE}/sessions", lambda one: one.json["sessions"][0]["state"] == "terminated")


async def test_servers_and_ports_are_listed_filtered_and_paged(api: Running) -> None:
    names = sorted(str(new_session_id()) for _ in range(5))
    for place, name in enumerate(names):
        state = ("running", "stopped", "deleted", "running", "failed")[place]
        owner = "ada" if place % 2 else "bob"
        await tell(
            api.yard, ("rdp.server.events", made.server(1, state, owner, name)),
            ("rdp.port.events", made.port(13390 + place, "allocated", name)),
        )  # fmt: skip
    await tell(api.yard, ("rdp.port.events", made.port(14000, "blocked", None)))
    await api.until(f"{R}/servers?deleted=true", lambda one: len(one.json["servers"]) == 5)

    async def listed(query: str = "") -> list[str]:
        return [one["server"] for one in (await api.get(f"{R}/servers{query}")).json["servers"]]

    assert await listed() == [names[4], names[3], names[1], names[0]]
    assert await listed("?state=deleted") == [names[2]]
    assert await listed("?owner=ada&host=desk7") == [names[3], names[1]]
    assert await listed("?host=other") == []
    first = (await api.get(f"{R}/servers?limit=2&deleted=true")).json
    again = f"{R}/servers?limit=2&deleted=true&cursor="
    second = (await api.get(again + first["next"])).json
    third = (await api.get(again + second["next"])).json
    pages = [one["server"] for page in (first, second, third) for one in page["servers"]]
    assert pages == names[::-1]
    assert third["next"] is None
    refused = await api.get(f"{R}/servers?limit=2&cursor={first['next']}")
    assert refused.status == 400
    assert (await api.get(f"{R}/servers?state=odd")).status == 400
    ports = (await api.until(f"{R}/ports", lambda one: len(one.json["ports"]) == 6)).json["ports"]
    assert [one["port"] for one in ports] == [13390, 13391, 13392, 13393, 13394, 14000]
    blocked = (await api.get(f"{R}/ports?state=blocked&host=desk7")).json["ports"]
    assert [one["port"] for one in blocked] == [14000]


async def _of_a_server_that_nobody_has_heard_of_more_the_rest_is_empty(api: Running) -> None:
    await tell(api.yard, ("rdp.server.events", made.server()),
               ("rdp.session.events", made.notice()))  # fmt: skip
    shown = await api.until(ONE, lambda one: one.status == 200)
    assert shown.json["processes"] is None
    for what in ("sessions", "connections", "alerts"):
        assert (await api.get(f"{ONE}/{what}")).json == {what: []}
    assert (await api.get(f"{ONE}/metrics")).json == {
        "server": SERVER, "limits": None, "newest": None, "samples": []}  # fmt: skip
    found = await api.get(f"{R}/sessions/{DESKTOP}")
    assert (found.status, found.json["code"]) == (404, "LUCID_ERR_3001")


async def test_a_server_outside_of_the_scope_does_not_exist(api: Running) -> None:
    await _of_a_server_that_nobody_has_heard_of_more_the_rest_is_empty(api)
    await told(api)
    token = api.yard.token
    hers = token(Role.SESSION_OPERATOR, owners=["ada"])
    theirs = token(Role.SESSION_MANAGER, owners=["bob"])
    of_project = token(Role.AUDITOR, owners=["ada"], projects=["payroll"])
    paths = [ONE, f"{R}/sessions/{DESKTOP}", *(f"{ONE}/{what}" for what in (
        "sessions", "connections", "metrics", "alerts"))]  # fmt: skip
    for path in paths:
        assert (await api.get(path, token=hers)).status == 200, path
        for other in (theirs, of_project):
            missing = await api.get(path, token=other)
            nothing = await api.get(_unknown(path), token=other)
            assert (missing.status, nothing.status) == (404, 404), path
            assert _same(missing, nothing), path
    await tell(api.yard, ("rdp.port.events", made.port(14000, "blocked", None)))
    await api.until(f"{R}/ports", lambda one: len(one.json["ports"]) == 2)
    for name, seen in (("servers", 1), ("ports", 1), ("alerts", 1)):
        assert len((await api.get(f"{R}/{name}", token=hers)).json[name]) == seen
        assert (await api.get(f"{R}/{name}", token=theirs)).json[name] == []
    viewer = await api.get(ONE, token=token(Role.SESSION_VIEWER))
    assert (viewer.status, viewer.json["code"]) == (403, "LUCID_ERR_3012")


def _unknown(path: str) -> str:
    return path.replace(SERVER, str(new_session_id())).replace(DESKTOP, str(new_session_id()))


def _same(one: Answer, other: Answer) -> bool:
    """Whether two problems differ by nothing but what was asked for."""
    return (one.json["code"], one.json["title"]) == (other.json["code"], other.json["title"])


async def test_a_record_that_is_no_event_is_a_dead_letter_of_the_api(api: Running) -> None:
    topics = {view.topic for view in RDP_VIEWS}
    for topic in topics:
        full = api.yard.contract.topic(topic).full_name
        await api.yard.producer.send(full, b"{}", key=b"x", headers=[])
    await told(api)

    def refused(text: Answer) -> float:
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.body.decode().splitlines()
            if line.startswith("lucid_records_dead_lettered_total")
        )  # fmt: skip

    await api.until("/metrics", lambda one: refused(one) == len(topics))
    await _every_view_is_built_anew_to_the_same(api.yard)


async def _every_view_is_built_anew_to_the_same(yard: Yard) -> None:

    async def documents(name: str) -> dict[str, dict[str, Any]]:
        return {one["_id"]: {**one, "version": 0} for one in await yard.catalog.find(name)}

    # One of each kind: a list that forgets, a ring, what is folded from two events.
    for view in (DESKTOPS, HISTORY, ALERTS):
        before = await documents(view.name)
        assert before, view.name
        await rebuild(yard.settings, view.name)
        assert await documents(view.name) == before, view.name
