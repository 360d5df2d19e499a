"""The views of RDP servers: the same events give the same documents, however often they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.platform.catalog import PACKED, PROJECTED, Catalog, Document
from agents.platform.projections import REGISTRY, find_projection
from agents.rdp.server_manager import keeper, ports
from agents.session.api.rdp_views import (
    ALERTS,
    DESKTOPS,
    HISTORY,
    METRICS,
    MOST_OVER,
    MOST_RECENT,
    MOST_SAMPLES,
    PORTS,
    PROCESSES,
    RDP_VIEWS,
    ROSTER_VIEW,
    SERVERS,
    SESSIONS,
    SLOT_MINUTES,
    SLOTS,
    slot_key,
)
from schemas.envelope import Event
from schemas.errors import FormatError
from schemas.sessions import new_session_id
from tests.session.api import rdp_events as made
from tests.session.api.rdp_events import AT, CLIENT, DESKTOP, SERVER
from tests.session.api.test_views import Placed

NO_CATALOG = cast(Catalog, None)


async def fold(view: Any, events: Sequence[Event]) -> dict[str, Document]:
    """The documents that a view has after these events."""
    documents: dict[str, Document] = {}
    for offset, event in enumerate(events):
        record = Placed(*event.to_kafka(), offset)
        key = view.key(record)
        if key is None:
            continue
        after = await view.fold(NO_CATALOG, documents.get(key), record)
        if after is not None:
            documents[key] = after
            assert await view.fold(NO_CATALOG, after, record) is None
    return documents


def test_every_view_is_known_where_views_are_named() -> None:
    names = {view.name for view in RDP_VIEWS}
    assert names <= PROJECTED
    assert names == {name for name in REGISTRY if name.startswith("rdp_")}
    assert all(find_projection(view.name) is view for view in RDP_VIEWS)
    assert {
        "rdp_desktops",
        "rdp_history",
        "rdp_alerts",
        "rdp_roster",
        "rdp_port_states",
    } <= PACKED.keys()


def test_no_view_has_the_name_of_what_the_server_manager_writes() -> None:
    assert not {keeper.SERVERS, keeper.NAMES, ports.PORTS} & PROJECTED


async def test_a_server_is_as_its_newest_version_has_it() -> None:
    events = [made.server(1, "creating"), made.answered(), made.server(3), made.server(2, "failed")]
    (document,) = (await fold(SERVERS, [*events, *events])).values()
    assert (document["state"], document["revision"], document["owner"]) == ("running", 3, "ada")
    assert document["version"] == 2


async def test_processes_are_as_their_highest_sequence_number_has_them() -> None:
    events = [made.processes(5), made.processes(9, "failed"), made.processes(7)]
    (document,) = (await fold(PROCESSES, events)).values()
    assert (document["state"], document["seq"], document["config_version"]) == ("failed", 9, 1)
    assert document["pids"]["xrdp"] == {"pid": 7, "started": 70}


async def test_a_port_is_as_the_last_event_has_it() -> None:
    events = [made.port(), made.port(13390), made.port(13389, "reserved", SERVER, AT)]
    found = await fold(PORTS, events)
    assert found.keys() == {made.HOST}
    assert {key: one["state"] for key, one in found[made.HOST]["ports"].items()} == {
        "13389": "reserved", "13390": "allocated"}  # fmt: skip


async def test_the_roster_has_who_is_there_and_the_newest_that_were_deleted() -> None:
    names = sorted(str(new_session_id()) for _ in range(MOST_OVER + 3))
    gone = [made.server(1, "deleted", name=name) for name in names]
    events = [made.server(2), made.server(1, "creating"), *gone, made.answered()]
    (document,) = (await fold(ROSTER_VIEW, events)).values()
    assert document["servers"].keys() == {SERVER, *names[3:]}
    assert document["servers"][SERVER]["state"] == "running"
    assert document["servers"][SERVER]["revision"] == 2


async def test_a_session_has_its_notice_and_the_news_of_its_recording() -> None:
    events = [
        made.notice(), made.desktop(0), made.client(), made.recording(), made.recording("lost"),
        made.desktop(2, "idle"), made.desktop(1, "suspended"),
    ]  # fmt: skip
    found = await fold(SESSIONS, events)
    assert found.keys() == {DESKTOP}
    document = found[DESKTOP]
    assert (document["state"], document["notice"]) == ("idle", "accepted")
    assert document["recorded"]["what"] == "lost"
    assert document["recorded"]["time"] == AT
    assert "session" not in document["recorded"]


async def test_a_server_lists_what_runs_and_the_newest_that_is_over() -> None:
    many = [str(new_session_id()) for _ in range(MOST_OVER + 20)]
    gone = [
        made.desktop(0, "terminated", name, changed=AT + place) for place, name in enumerate(many)
    ]
    events = [made.desktop(0), made.client(1), made.client(0, "connecting"), *gone, made.notice()]
    (document,) = (await fold(DESKTOPS, events)).values()
    sessions = document["desktops"]["sessions"]
    assert sessions.keys() == {DESKTOP, *many[20:]}
    assert document["desktops"]["connections"][CLIENT]["state"] == "connected"


async def test_the_newest_sample_and_a_ring_of_the_others() -> None:
    times = [0, 0.5, 9.9, 10, SLOT_MINUTES * SLOTS, 5]
    events = [made.metrics(minutes, cpu=place) for place, minutes in enumerate(times)]
    (newest,) = (await fold(METRICS, events)).values()
    assert (newest["usage"]["cpu"], newest["limits"]["cpu"]) == (5, 2.0)
    history = await fold(HISTORY, events)
    assert {
        key: [one["usage"]["cpu"] for one in found["samples"]] for key, found in history.items()
    } == {
        # A turn later the slot begins anew, and so it does when the clock was set back.
        slot_key(SERVER, AT): [5],
        slot_key(SERVER, AT + 600_000_000): [3],
    }
    assert "limits" not in history[slot_key(SERVER, AT)]["samples"][0]
    (slot,) = (await fold(HISTORY, [made.metrics()] * (MOST_SAMPLES + 5))).values()
    assert len(slot["samples"]) == MOST_SAMPLES
    assert {slot_key(SERVER, n * 600_000_000) for n in range(100)} == {
        f"{SERVER}/{n}" for n in range(SLOTS)}  # fmt: skip


async def test_alerts_that_are_raised_and_those_that_are_over() -> None:
    events = [
        made.raised(1), made.raised(2), made.raised(1), made.over(1), made.raised(1),
        made.over(1), made.over(9),
    ]  # fmt: skip
    (document,) = (await fold(ALERTS, events)).values()
    alerts = document["alerts"]
    assert [one["id"] for one in alerts["open"].values()] == [made.alert(2).id]
    (ended,) = alerts["recent"]
    assert (ended["id"], ended["resolution"], ended["percent"]) == (
        made.alert(1).id, "below", 91.5)  # fmt: skip
    assert ended["resolved"] >= ended["raised"] > 0
    many = [one for number in range(MOST_RECENT + 3) for one in (made.raised(number),
                                                                 made.over(number))]  # fmt: skip
    (document,) = (await fold(ALERTS, many)).values()
    assert len(document["alerts"]["recent"]) == MOST_RECENT
    assert document["alerts"]["recent"][-1]["id"] == made.alert(MOST_RECENT + 2).id


@given(st.lists(st.sampled_from(made.EVENTS), max_size=20))
async def test_copies_of_events_change_nothing(events: list[tuple[str, Event]]) -> None:
    for view in RDP_VIEWS:
        mine = [event for topic, event in events if topic == view.topic]
        if view in (METRICS, HISTORY, PORTS):
            continue  # their last one stands, and these are all the same
        once = list({event.id: event for event in mine}.values())
        counts = ("version", "first", "positions")
        assert [
            {name: one for name, one in document.items() if name not in counts}
            for document in (await fold(view, mine)).values()
        ] == [
            {name: one for name, one in document.items() if name not in counts}
            for document in (await fold(view, once)).values()
        ]


@pytest.mark.parametrize("view", RDP_VIEWS, ids=lambda view: view.name)
def test_what_is_no_event_is_refused(view: Any) -> None:
    with pytest.raises(FormatError):
        view.key(Placed(b"x", [], b"{}", 0))
