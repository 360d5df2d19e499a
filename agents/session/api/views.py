"""The views of `session.events` that the API reads beside `sessions`; docs/formats/views.md.

    chunk_pages      {_id: "<session>/<page>", chunks: {index: entry}}      PAGE chunks each
    statistics       {_id: session, chunks, bytes, …}                       what adds up
    session_events   {_id: session, events: […], dropped}                   what happened

None of them holds anything that only the catalog of storage knows, so each is built from the
topic alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.platform.catalog import Document
from agents.platform.folding import Folding
from agents.platform.projections import Record
from schemas.canonical import Strict
from schemas.events import (
    ChunkConflict,
    ChunkStored,
    ChunkStoredV1,
    ManifestConflict,
    RecordsExpired,
    ScrubFinding,
    SessionEvent,
    SessionHeartbeat,
    SessionPaused,
    SessionShredded,
)
from schemas.sessions import InvalidSessionId, parse_session_id

PAGE = 128
"""Chunks of one document: a catalog that finds documents by `_id` alone reads few of them."""
SAYS_NOTHING = frozenset({
    "lucid.session.erasing.v1", "lucid.session.shredded.v1", "lucid.session.erased.v1",
    "lucid.session.completed.v1", "lucid.manifest.stored.v1",
})  # fmt: skip
"""Types that stay when a session's metadata is erased: they name nobody."""
MAX_EVENTS = 1000
"""Events that are kept of a session: the first half of them, and the newest."""


def page_key(session: str, index: int) -> str:
    """The `_id` of the page that has a chunk."""
    return f"{session}/{index // PAGE}"


def _session(event: SessionEvent) -> str | None:
    """The session that an event speaks of; None for one of a partition or a host."""
    try:
        return str(parse_session_id(event.subject))
    except InvalidSessionId:
        return None


class ChunkPages(Folding[SessionEvent]):
    """Each stored chunk's entry. The first event of an index stands, as the first chunk does."""

    name = "chunk_pages"
    topic = "session.events"
    kind = SessionEvent

    def subject(self, event: SessionEvent, record: Record) -> str | None:
        if not isinstance(event.data, ChunkStoredV1):
            return None
        return page_key(event.subject, event.data.index)

    def apply(self, document: Document, event: SessionEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, ChunkStoredV1)
        chunks: Mapping[str, Any] = document.get("chunks", {})
        number, before = str(data.index), chunks.get(str(data.index))
        entry = {"stored_at": event.micros, **_fields(data)}
        if before is not None:
            if before["leaf"] != data.leaf or not entry.keys() - before.keys():
                return document
            entry["stored_at"] = before["stored_at"]
        return {**document, "session": event.subject, "chunks": {**chunks, number: entry}}


def _fields(data: Strict) -> dict[str, Any]:
    fields = data.model_dump(mode="json")
    del fields["session"]
    return fields


class Statistics(Folding[SessionEvent]):
    """What a session's events add up to. next_index, ahead: chunks that are counted already."""

    name = "statistics"
    topic = "session.events"
    kind = SessionEvent

    def subject(self, event: SessionEvent, record: Record) -> str | None:
        return _session(event)

    def apply(self, document: Document, event: SessionEvent, record: Record) -> Document:
        data = event.data
        if isinstance(data, ChunkStoredV1):
            return self._chunk(document, data, event.micros)
        if isinstance(data, SessionHeartbeat):
            return _raised(document, next_seq=data.next_seq, captured_bytes=data.raw_bytes)
        counted = {
            SessionPaused: "pauses", ChunkConflict: "conflicts", ManifestConflict: "conflicts",
            ScrubFinding: "findings", RecordsExpired: "losses",
        }.get(type(data))  # fmt: skip
        return document if counted is None else _added(document, {counted: 1})

    def _chunk(self, document: Document, data: ChunkStoredV1, at: int) -> Document:
        next_index, ahead = document.get("next_index", 0), document.get("ahead", [])
        if data.index < next_index or data.index in ahead:
            return document
        ahead = sorted([*ahead, data.index])
        while ahead and ahead[0] == next_index:
            next_index += 1
            ahead = ahead[1:]
        more = {"chunks": 1, "records": data.records, "missing": data.missing,
                "sealed_bytes": data.size}  # fmt: skip
        after = {**_added(document, more), "next_index": next_index, "ahead": ahead}
        if not isinstance(data, ChunkStored):
            return after
        after = _added(after, {"raw_bytes": data.raw_size})
        after = _raised(after, last_time=data.last_time, slowest=at - data.last_time)
        first = after.get("first_time")
        return {**after, "first_time": min(first or data.first_time, data.first_time)}


def _added(document: Document, more: Mapping[str, int]) -> Document:
    return {**document, **{name: document.get(name, 0) + count for name, count in more.items()}}


def _raised(document: Document, **values: int) -> Document:
    return {**document, **{name: max(document.get(name, 0), one) for name, one in values.items()}}


class SessionEvents(Folding[SessionEvent]):
    """What happened to a session, but for heartbeats and stored chunks, which are many."""

    name = "session_events"
    topic = "session.events"
    kind = SessionEvent

    def subject(self, event: SessionEvent, record: Record) -> str | None:
        if isinstance(event.data, SessionHeartbeat | ChunkStoredV1):
            return None
        return _session(event)

    def apply(self, document: Document, event: SessionEvent, record: Record) -> Document:
        entry = {
            "id": event.id, "type": event.type, "time": event.micros, "source": event.source,
            "partition": record.partition, "offset": record.offset, "data": _fields(event.data),
        }  # fmt: skip
        events = [*document.get("events", []), entry]
        dropped = document.get("dropped", 0)
        if isinstance(event.data, SessionShredded) and event.data.stage == "metadata":
            kept = [one for one in events if one["type"] in SAYS_NOTHING]
            return {**document, "events": kept, "dropped": dropped + len(events) - len(kept)}
        if len(events) > MAX_EVENTS:
            half = MAX_EVENTS // 2
            del events[half : half + len(events) - MAX_EVENTS]
            dropped += 1
        return {**document, "events": events, "dropped": dropped}


CHUNK_PAGES = ChunkPages()
STATISTICS = Statistics()
SESSION_EVENTS = SessionEvents()
