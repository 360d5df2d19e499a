"""Nodes, pools and credits over the API, and their views, live and built anew."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from agents.platform.projection_commands import rebuild
from agents.session.api import node_views
from agents.session.api.guard import ROUTES
from agents.session.api.node_views import BY_TOPIC, MOST_PAYOUTS, PAYOUTS
from schemas.access import Role
from schemas.canonical import Strict, encode
from schemas.node_base import subject_of
from schemas.node_credits import Ledger, statement_bytes
from schemas.node_events import (
    BY_TOPIC as KINDS,
)
from schemas.node_events import (
    AlertChanged,
    HealthChanged,
    LifecycleEvent,
    MaintenanceChanged,
    MetricsTaken,
    NodeCommandDone,
    PayoutChanged,
    PoolChanged,
    RegistrationChanged,
    ScalingHinted,
    Window,
    WorkCounted,
    WorkEvent,
)
from schemas.node_health import work_of
from schemas.node_heartbeats import SLOT
from tests.node.factories import BEGIN, HARDWARE, figures, heartbeat, ids, signer, slot_work
from tests.session.api.conftest import BASE, Running

pytestmark = pytest.mark.stack
WHEN = datetime.fromtimestamp(BEGIN / 1e6, UTC)


def registered(node: str, state: Any = "approved") -> RegistrationChanged:
    return RegistrationChanged(
        node=node, state=state, registration=ids(1), key=str(signer(node).verifier),
        kind="worker", host="h", hardware=HARDWARE, max_sessions=10, decide_by=BEGIN,
        reason="requested",
    )  # fmt: skip


def paid(number: int, state: Any = "pending") -> PayoutChanged:
    return PayoutChanged(
        node="desk7", payout=ids(number), amount="0.5", state=state, retries=0, reason="r"
    )


def work() -> list[WorkCounted]:
    found = []
    for counter in range(30):
        at = BEGIN + counter * 60 * 10**6
        rows = [slot_work(at // SLOT, 10**9 + counter, 1, 2)]
        found += work_of(heartbeat(counter, at, work=rows))
    return found


STORY: list[Strict] = [
    registered("desk7", "verified"), registered("desk7"), registered("desk8"),
    registered("desk9", "challenged"),
    HealthChanged(node="desk7", health="healthy", misses=0, last_heard=BEGIN),
    HealthChanged(node="desk8", health="offline", misses=5, last_heard=BEGIN),
    MaintenanceChanged(node="desk8", active=True, windows=[
        Window(id=ids(8), begins=BEGIN, ends=BEGIN + 9, reason="disks")]),
    NodeCommandDone(about="desk8", action="maintain"),
    MetricsTaken(node="desk7", counter=4, time=BEGIN, figures=figures()),
    MetricsTaken(node="desk7", counter=3, time=BEGIN, figures=figures(cpu=9)),
    AlertChanged(about="desk8", alert="node_stale", severity="warning", state="raised",
                 reason="x"),
    AlertChanged(about="desk8", alert="node_offline", severity="critical", state="raised",
                 reason="no heartbeat"),
    AlertChanged(about="desk8", alert="node_stale", severity="warning", state="resolved",
                 reason="x"),
    PoolChanged(pool="p", state="forming", members=["desk7"], active=["desk7"], reason="r"),
    PoolChanged(pool="p", state="forming", members=["desk7", "desk8"], active=["desk7"],
                reason="r"),
    ScalingHinted(pool="p", direction="up", load=900, threshold=800, active=3),
    paid(1), paid(1, "processing"), paid(2),
]  # fmt: skip


async def tell(api: Running, *data: Strict) -> None:
    """Events as the manager writes them."""
    homes = {model: (topic, kind) for topic, kind in KINDS.items() for model in kind.types.values()}
    for one in data:
        topic, kind = homes[type(one)]
        event = kind(one, "lucid/t/h", subject_of(one), time=WHEN)
        await api.yard.producer.send_event(api.yard.contract.topic(topic).full_name, event)


async def tell_of_nodes(api: Running) -> None:
    """The story of three nodes and a pool, and the views have it."""
    await tell(api, *STORY, *work())
    path = f"{BASE}/nodes/desk7/credits?as_of={BEGIN + 10**10}"
    await api.until(path, lambda one: one.status == 200 and one.json["statement"]["beats"] == 30
                    and len(one.json["payouts"]) == 2)  # fmt: skip
    await api.until(f"{BASE}/pools/p", lambda one: one.status == 200 and one.json["hint"])
    await api.until(f"{BASE}/nodes/desk7", lambda one: bool(one.json["latest"]))
    await api.until(f"{BASE}/nodes/desk8", lambda one: [
        alert["alert"] for alert in one.json["alerts"]] == ["node_offline"])  # fmt: skip


async def test_nodes_pools_and_credits_are_read_and_their_views_are_built_anew(
    api: Running,
) -> None:
    await tell_of_nodes(api)
    listed = (await api.get(f"{BASE}/nodes")).json
    assert [(one["node"], one["state"], one["health"], one["pool"], one["alerts"])
            for one in listed["nodes"]] == [
        ("desk7", "approved", "healthy", "p", []),
        ("desk8", "approved", "offline", "p", ["node_offline"]),
        ("desk9", "challenged", "unknown", None, []),
    ]  # fmt: skip
    for query, names in (
        ("state=approved", ["desk7", "desk8"]), ("health=offline", ["desk8"]),
        ("state=approved&health=unknown", []), ("limit=1", ["desk7"]),
    ):  # fmt: skip
        found = (await api.get(f"{BASE}/nodes?{query}")).json
        assert [one["node"] for one in found["nodes"]] == names
    cursor = (await api.get(f"{BASE}/nodes?limit=1")).json["next"]
    rest = (await api.get(f"{BASE}/nodes?limit=5&cursor={cursor}")).json
    assert ([one["node"] for one in rest["nodes"]], rest["next"]) == (["desk8", "desk9"], None)
    assert (await api.get(f"{BASE}/nodes?health=stale&cursor={cursor}")).status == 400

    one = (await api.get(f"{BASE}/nodes/desk7")).json
    assert one["key"] == str(signer("desk7").verifier)
    assert (one["latest"]["counter"], one["latest"]["figures"]["cpu"]) == (4, 120)
    other = (await api.get(f"{BASE}/nodes/desk8")).json
    assert other["in_maintenance"]
    assert [window["id"] for window in other["windows"]] == [ids(8)]
    assert other["latest"] is None
    pools = (await api.get(f"{BASE}/pools")).json["pools"]
    assert [(pool["pool"], pool["members"]) for pool in pools] == [("p", ["desk7", "desk8"])]
    assert (await api.get(f"{BASE}/pools/p")).json["hint"]["load"] == 900

    as_of = BEGIN + 10**10
    credits = (await api.get(f"{BASE}/nodes/desk7/credits?as_of={as_of}")).json
    ledger = Ledger()
    for data in work():
        ledger.take(data)
    text = statement_bytes(ledger.statement("desk7", as_of))
    assert json.loads(text) == credits["statement"]
    assert hashlib.sha256(text).hexdigest() == credits["sha256"]
    assert [(p["payout"], p["state"]) for p in credits["payouts"]] == [
        (ids(1), "processing"), (ids(2), "pending"),
    ]  # fmt: skip
    assert (await api.get(f"{BASE}/nodes/desk7/credits?as_of=0")).json["statement"]["slots"] == 0
    assert (await api.get(f"{BASE}/nodes/desk8/credits")).json["payouts"] == []

    for views in BY_TOPIC.values():
        for view in views:
            result = await rebuild(api.yard.settings, view.name)
            assert (result.corrected, result.carried) == ([], []), view.name
            assert result.equal >= 1, view.name
    again = (await api.get(f"{BASE}/nodes/desk7/credits?as_of={as_of}")).json
    assert again == credits


async def test_what_is_not_there_and_who_may_not_read(api: Running) -> None:
    for path, code in (
        ("nodes/nobody", "LUCID_ERR_3030"), ("nodes/nobody/credits", "LUCID_ERR_3030"),
        ("pools/none", "LUCID_ERR_3031"), ("nodes/No_Body", "LUCID_ERR_3002"),
        ("pools/-", "LUCID_ERR_3002"), ("nodes?state=gone", "LUCID_ERR_3002"),
        ("nodes/nobody/credits?as_of=-1", "LUCID_ERR_3002"),
    ):  # fmt: skip
        assert (await api.get(f"{BASE}/{path}")).json["code"] == code, path
    assert (await api.get(f"{BASE}/pools")).json == {"pools": []}
    routes = [route for route in ROUTES if "/nodes" in route or "/pools" in route]
    assert len(routes) == 5
    for role in (Role.SESSION_OPERATOR, Role.SESSION_VIEWER):
        assert (await api.get(f"{BASE}/nodes", token=api.yard.token(role))).status == 403


@dataclass(frozen=True)
class Place:
    partition: int
    offset: int
    key: bytes
    headers: Any
    value: bytes


def record(data: Strict, offset: int) -> Place:
    kind = WorkEvent if isinstance(data, WorkCounted | PayoutChanged) else LifecycleEvent
    key, headers, value = kind(data, "lucid/t/h", subject_of(data), time=WHEN).to_kafka()
    return Place(0, offset, key, tuple(headers), value)


async def folded(view: Any, data: list[Strict]) -> dict[str, Any]:
    documents: dict[str, Any] = {}
    for offset, one in enumerate(data):
        made = record(one, offset)
        if (key := view.key(made)) is not None:
            after = await view.fold(None, documents.get(key), made)
            documents[key] = documents.get(key) if after is None else after
    return documents


async def test_work_in_any_order_and_twice_makes_the_same_document() -> None:
    events: list[Strict] = [*work(), *work()]
    plain = await folded(node_views.NODE_WORK, [*work()])
    random.Random(3).shuffle(events)
    mixed = await folded(node_views.NODE_WORK, events)
    assert {key: one["nodes"] for key, one in plain.items()} == {
        key: one["nodes"] for key, one in mixed.items()
    }
    bad = work()[0].model_copy(update={"day": 1})
    assert node_views.NODE_WORK.key(record(bad, 0)) is None  # type: ignore[arg-type]


async def test_a_rejected_node_has_no_health_and_old_payouts_go_first() -> None:
    out = await folded(node_views.NODES, [
        registered("desk7"), HealthChanged(node="desk7", health="stale", misses=1, last_heard=1),
        registered("desk7", "rejected"),
    ])  # fmt: skip
    assert (out["desk7"]["health"], out["desk7"]["state"]) == ("unknown", "rejected")
    many = await folded(PAYOUTS, [paid(number) for number in range(MOST_PAYOUTS + 2)])
    assert len(many["desk7"]["payouts"]) == MOST_PAYOUTS
    assert ids(0) not in many["desk7"]["payouts"]
    assert encode(registered("desk7"))
