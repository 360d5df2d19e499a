"""The API's views: the same events give the same documents, however often and however cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.platform.catalog import Catalog, Document
from agents.platform.projections import Projection
from agents.session.api.audit_view import AUDIT
from agents.session.api.audit_view import PAGE as AUDIT_PAGE
from agents.session.api.views import (
    CHUNK_PAGES,
    MAX_EVENTS,
    PAGE,
    SESSION_EVENTS,
    STATISTICS,
    page_key,
)
from schemas.audit import AuditEvent, LetterDiscarded
from schemas.canonical import Strict
from schemas.errors import FormatError
from schemas.events import (
    ChunkConflict,
    ChunkStored,
    ChunkStoredV1,
    CommandRefused,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    SessionPaused,
    SessionResumed,
    SessionShredded,
    subject_of,
)
from schemas.sessions import new_session_id

ID = str(new_session_id(1_700_000_000_000_000, bytes(10)))
VIEWS: list[Projection] = [CHUNK_PAGES, STATISTICS, SESSION_EVENTS]
NO_CATALOG = cast(Catalog, None)


@dataclass(frozen=True)
class Placed:
    """A record at a place of its topic."""

    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    value: bytes | None
    offset: int
    partition: int = 2


def placed(data: Strict, offset: int, partition: int = 2) -> Placed:
    key, headers, value = SessionEvent(data, "lucid/test/h", subject_of(data)).to_kafka()
    return Placed(key, headers, value, offset, partition)


def chunk(index: int, leaf: str = "ab", size: int = 100) -> ChunkStored:
    return ChunkStored(
        session=ID, index=index, leaf=leaf * 32, size=size, records=10, missing=1,
        last=False, first_seq=index * 11, next_seq=index * 11 + 11, raw_size=1000,
        first_time=1_000_000 * (index + 1), last_time=1_000_000 * (index + 2),
    )  # fmt: skip


def old(index: int) -> ChunkStoredV1:
    fields = {name: getattr(chunk(index), name) for name in ChunkStoredV1.model_fields}
    return ChunkStoredV1(**fields)


async def folded(
    view: Projection, records: Sequence[Placed], start: dict[str, Document] | None = None
) -> dict[str, Document]:
    documents = dict(start or {})
    for record in records:
        key = view.key(record)
        if key is None:
            continue
        after = await view.fold(NO_CATALOG, documents.get(key), record)
        if after is not None:
            documents[key] = after
    return documents


EVENTS: list[Strict] = [
    chunk(0), chunk(1), old(2), chunk(2), chunk(1), chunk(5), chunk(PAGE + 3),
    SessionHeartbeat(session=ID, next_seq=7, raw_bytes=70),
    SessionHeartbeat(session=ID, next_seq=4, raw_bytes=40),
    SessionPaused(session=ID, reason="lunch"), SessionResumed(session=ID, reason="back"),
    ChunkConflict(session=ID, index=1, stored_leaf="ab" * 32, refused_leaf="cd" * 32),
    CommandRefused(action="start", host="h", session=None, code="X", reason="y"),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
async def test_events_that_come_again_change_nothing(view: Projection, data: st.DataObject) -> None:
    order = data.draw(st.permutations(EVENTS))
    records = [placed(one, offset) for offset, one in enumerate(order)]
    cut = data.draw(st.integers(0, len(records)))
    back = data.draw(st.integers(0, cut))
    once = await folded(view, records)
    again = await folded(view, records[back:], await folded(view, records[:cut]))
    assert again == once


async def test_a_page_has_each_chunk_once_with_what_the_newer_version_says() -> None:
    pages = await folded(CHUNK_PAGES, [placed(one, n) for n, one in enumerate(EVENTS)])
    assert pages.keys() == {f"{ID}/0", f"{ID}/1"}
    chunks = pages[page_key(ID, 2)]["chunks"]
    assert chunks.keys() == {"0", "1", "2", "5"}
    assert pages[page_key(ID, PAGE + 3)]["chunks"].keys() == {str(PAGE + 3)}
    assert chunks["2"]["first_seq"] == 22
    assert chunks["2"] == {"stored_at": chunks["2"]["stored_at"], **{
        name: value for name, value in chunk(2).model_dump().items() if name != "session"
    }}  # fmt: skip


async def test_the_first_chunk_of_an_index_stands() -> None:
    pages = await folded(CHUNK_PAGES, [placed(chunk(0), 0), placed(chunk(0, "cd", 999), 1)])
    assert pages[f"{ID}/0"]["chunks"]["0"]["leaf"] == "ab" * 32
    assert pages[f"{ID}/0"]["positions"] == {"2": 0}


async def test_statistics_count_each_chunk_once_whatever_the_order() -> None:
    found = (await folded(STATISTICS, [placed(one, n) for n, one in enumerate(EVENTS)]))[ID]
    wanted = {
        "chunks": 5, "records": 50, "missing": 5, "sealed_bytes": 500, "raw_bytes": 4000,
        "next_index": 3, "ahead": [5, PAGE + 3], "next_seq": 7, "captured_bytes": 70,
        "pauses": 1, "conflicts": 1, "first_time": 1_000_000,
        "last_time": 1_000_000 * (PAGE + 5),
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert found["slowest"] > 0


async def test_the_events_of_a_session_keep_the_first_and_the_newest() -> None:
    many = [placed(SessionPaused(session=ID, reason=f"r{n}"), n) for n in range(MAX_EVENTS + 20)]
    found = (await folded(SESSION_EVENTS, [*many, placed(EVENTS[-1], 5000)]))[ID]
    reasons = [one["data"]["reason"] for one in found["events"]]
    half = MAX_EVENTS // 2
    assert reasons[:half] == [f"r{n}" for n in range(half)]
    assert reasons[half:] == [f"r{n}" for n in range(half + 20, MAX_EVENTS + 20)]
    assert found["dropped"] == 20
    first = found["events"][0]
    assert (first["type"], first["partition"], first["offset"]) == (
        "lucid.session.paused.v1", 2, 0
    )  # fmt: skip


async def test_what_names_somebody_goes_with_the_metadata() -> None:
    opened = SessionOpened(
        session=ID, partition=2, offset=0, host="desk7", recorder="r", codec="bytes/1",
        source={"display": ":0"}, owner="Zoë", project="payroll", started=1,
    )  # fmt: skip
    content = SessionShredded(session=ID, stage="content", files=3, bytes=9, waiting=[])
    metadata = content.model_copy(update={"stage": "metadata"})
    records = [placed(one, n) for n, one in enumerate([opened, *EVENTS, content])]
    before = (await folded(SESSION_EVENTS, records))[ID]
    assert "Zoë" in str(before)
    after = (await folded(SESSION_EVENTS, [*records, placed(metadata, 90)]))[ID]
    assert [one["data"]["stage"] for one in after["events"]] == ["content", "metadata"]
    assert after["dropped"] == len(before["events"]) - 1
    assert "Zoë" not in str(after)


async def test_a_view_refuses_what_is_no_event() -> None:
    broken = Placed(b"x", [], b"{}", 0)
    for view in VIEWS:
        with pytest.raises(FormatError):
            view.key(broken)


async def test_a_rebuild_keeps_what_the_topic_has_lost_and_nothing_else() -> None:
    live = (await folded(STATISTICS, [placed(chunk(0), 3), placed(chunk(1), 7)]))[ID]
    rest = (await folded(STATISTICS, [placed(chunk(1), 7)]))[ID]
    assert live["first"] == {"2": 3}
    assert STATISTICS.keep(rest, live, {2: 4}) is live
    assert STATISTICS.keep(None, live, {2: 8}) is live
    assert STATISTICS.keep(live, live, {2: 3}) is None
    assert STATISTICS.same({**live, "version": 9}, live)
    assert not STATISTICS.same({**live, "chunks": 9}, live)
    assert STATISTICS.same({**live, "chunks": 9, "positions": {"2": 9}}, live)
    assert STATISTICS.settled(live)


async def test_audit_events_stand_in_pages_by_their_offset() -> None:
    def audit(offset: int) -> Placed:
        data = LetterDiscarded(origin="t/0/1", letter=4, session=ID, reason="no use")
        key, headers, value = AuditEvent(data, "lucid/cli/h", ID, user="ada").to_kafka()
        return Placed(key, headers, value, offset, 0)

    records = [audit(n) for n in (0, 1, AUDIT_PAGE - 1, AUDIT_PAGE, 1)]
    pages = await folded(AUDIT, records)
    offsets = {key: [one["offset"] for one in page["entries"]] for key, page in pages.items()}
    assert offsets == {"0/0": [0, 1, AUDIT_PAGE - 1], "0/1": [AUDIT_PAGE]}
    entry: dict[str, Any] = pages["0/0"]["entries"][0]
    assert (entry["user"], entry["subject"], UUID(entry["id"]).version) == ("ada", ID, 4)
    assert entry["data"]["reason"] == "no use"
