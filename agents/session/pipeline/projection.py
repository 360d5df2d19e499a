"""The view `sessions`, built from `session.events` alone, for `lucid projections rebuild`.

Nothing is sent: whether a session is complete was said by its `completed` or `incomplete`
event. One that has everything and no such event is settled by the live pipeline, which
finds it ready at its next event. A loss that is told of a whole partition is noted with the
sessions that were open then, which only the live view knows: it is carried over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agents.platform.catalog import Catalog, Document
from agents.platform.projections import Record
from agents.session.pipeline.states import (
    FINAL,
    OF_FILES,
    OF_NO_SESSION,
    SessionState,
    apply,
    concluded,
    lost,
    read_state,
    state_document,
)
from agents.session.pipeline.transitions import check_partition, check_transition
from schemas.events import (
    RecordsExpired,
    SessionCompleted,
    SessionEvent,
    SessionIncomplete,
    event_from_kafka,
)
from schemas.manifests import read_manifest
from schemas.topics import Contract

_HEARD = ("last_sign", "changed")
_CLOCKED = ("version", "positions", "settled_at", *_HEARD)


@dataclass(frozen=True)
class SessionsView:
    """A Projection (agents/platform/projections.py)."""

    name: str = "sessions"
    topic: str = "session.events"
    partitions: int | None = None

    def under(self, contract: Contract) -> SessionsView:
        return replace(self, partitions=contract.topic("session.frames").partitions)

    def key(self, record: Record) -> str:
        return event_from_kafka(record.key, record.headers, record.value).subject

    async def fold(
        self, catalog: Catalog, document: Document | None, record: Record
    ) -> Document | None:
        event = event_from_kafka(record.key, record.headers, record.value)
        if isinstance(event.data, OF_NO_SESSION) or _tells_of_partition(event):
            return None
        if document is None and isinstance(event.data, OF_FILES):
            return None  # neither a stray folder nor what is left makes a session
        check_partition(event, self.partitions)
        state = read_state(document or {"_id": event.subject})
        if state.has(record.partition, record.offset):
            return None
        after = await _after(catalog, state, event)
        if after == state:
            return None
        version = state.version + 1
        return state_document(
            after.at(record.partition, record.offset).model_copy(update={"version": version})
        )

    def keep(
        self, rebuilt: Document | None, live: Document, firsts: Mapping[int, int]
    ) -> Document | None:
        if rebuilt is None:
            return live
        new, old = read_state(rebuilt), read_state(live)
        whole = not any(firsts.get(int(part), 0) for part in new.positions)
        if not whole and (new.opened is None or not _covers(new, old)):
            return live
        abandoned = new.abandoned
        for loss in old.losses:
            new = lost(new, loss, new.changed)
        if new.state in FINAL:
            kept = state_document(new.model_copy(update={"abandoned": abandoned}))
            return None if kept == rebuilt else kept
        # When the pipeline itself heard of a session stands in no event.
        changes = {name: max(getattr(new, name), getattr(old, name)) for name in _HEARD}
        kept = state_document(new.model_copy(update=changes))
        return None if kept == rebuilt else kept

    def settled(self, document: Document) -> bool:
        return document.get("state") in FINAL

    def same(self, rebuilt: Document, live: Document) -> bool:
        new, old = read_state(rebuilt), read_state(live)
        changes = {name: getattr(old, name) for name in _CLOCKED}
        return new.model_copy(update=changes) == old


def _tells_of_partition(event: SessionEvent) -> bool:
    return isinstance(event.data, RecordsExpired) and event.data.session is None


async def _after(catalog: Catalog, state: SessionState, event: SessionEvent) -> SessionState:
    at, data = event.micros, event.data
    if not isinstance(data, SessionCompleted | SessionIncomplete):
        check_transition(state, data)
        return apply(state, event, at)
    if state.state in FINAL:
        return state
    if isinstance(data, SessionCompleted):
        return concluded(state, [], data.root, data.records, data.stored_bytes, at)
    entry = await catalog.get("manifests", event.subject)
    manifest = read_manifest(entry["manifest"].encode()) if entry else None
    root, records = (manifest.root, manifest.next_seq) if manifest else (None, None)
    return concluded(state, data.shortcomings, root, records, state.stored_bytes, at)


def _covers(new: SessionState, old: SessionState) -> bool:
    """Whether the events that are left tell everything that the live view knows."""
    return (
        (new.state in FINAL or old.state not in FINAL)
        and new.next_index >= old.next_index
        and new.conflicts >= old.conflicts
        and (new.manifest_hash is not None or old.manifest_hash is None)
        and (new.ended_at is not None or old.ended_at is None)
    )


SESSIONS = SessionsView()
