"""Sessions in the catalog: events applied, settled when everything is there, given up when silent.

Each write is a compare-and-set on the document's version, so that two pipelines never lose a
change; a document knows the last event it has, so that none is applied twice. A rebuild of
the view may change its place at any time (agents/platform/projections.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from agents.platform.catalog import Catalog, Document
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.projections import View, wall_clock
from agents.platform.retry import Transient
from agents.session.pipeline.reconciliation import StoredChunk, reconcile
from agents.session.pipeline.states import (
    FINAL,
    LIVE,
    SessionState,
    apply,
    concluded,
    read_state,
    state_document,
)
from schemas.anchors import anchor_of
from schemas.canonical import encode
from schemas.controls import Abandon
from schemas.events import (
    SessionAbandoned,
    SessionCompleted,
    SessionEvent,
    SessionIncomplete,
)
from schemas.frames import FrameRecord, Kind, to_kafka
from schemas.manifests import Manifest, read_manifest
from schemas.notes import Verifier
from schemas.sessions import parse_session_id

log = structlog.get_logger(__name__)

SESSIONS = "sessions"
MAX_SHORTCOMINGS = 2000
PATIENCE = 10


class NotYet(Transient):
    """The catalog does not show yet what an event spoke of, or another pipeline was faster."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Full names of the topics that a pipeline writes to."""

    frames: str
    anchors: str


@dataclass(frozen=True, slots=True)
class SessionKeeper:
    """The sessions' documents. Every method raises Transient while catalog or broker fail.

    trusted: the keys of which one has to have signed each checkpoint; none: anybody's will do.
    """

    catalog: Catalog
    producer: Producer
    events: EventBus
    topics: Topics
    host: str
    trusted: Sequence[Verifier] = ()
    clock: Callable[[], int] = wall_clock

    async def handle(
        self, event: SessionEvent, place: tuple[int, int] | None = None
    ) -> SessionState:
        """Apply an event to its session; settles the session once nothing is outstanding.

        place: its partition and offset, by which it is known when it comes again.
        """
        view = View(self.catalog, SESSIONS, self.clock)
        alias = await view.open()
        state = await self._apply(event, place, alias.collection)
        await view.check(alias)
        return state

    async def _apply(
        self, event: SessionEvent, place: tuple[int, int] | None, collection: str
    ) -> SessionState:
        before = await self.load(event.subject, collection)
        if isinstance(event.data, SessionCompleted | SessionIncomplete):
            return before
        after = before
        if place is None or not before.has(*place):
            after = apply(before, event, self.clock())
        if place is not None and after != before:
            after = after.at(*place)
        # A rebuilt view may have the event already, and nobody has settled the session yet.
        if after.ready and after.state not in FINAL:
            return await self._settle(after, collection)
        if after != before:
            return await self._write(after, collection)
        return after

    async def load(self, session: str, collection: str = SESSIONS) -> SessionState:
        """The state of a session; a new one when the catalog has none."""
        return read_state(await self.catalog.get(collection, session) or {"_id": session})

    async def _write(self, state: SessionState, collection: str = SESSIONS) -> SessionState:
        state = state.model_copy(update={"version": state.version + 1})
        if not await self.catalog.put_version(collection, state_document(state)):
            raise NotYet(f"session {state.session} was changed by another pipeline", retry_after=0)
        return state

    async def _settle(self, state: SessionState, collection: str) -> SessionState:
        """Count everything; the results are sent before the document says that they were."""
        entry = await self.catalog.get("manifests", state.session)
        if entry is None:
            raise NotYet(f"the catalog does not show the manifest of session {state.session} yet")
        manifest = read_manifest(entry["manifest"].encode())
        chunks = [_stored(document) async for document in self.catalog.chunks(state.session)]
        if len(chunks) < manifest.chunks and state.next_index >= manifest.chunks:
            raise NotYet(f"the catalog does not show all chunks of session {state.session} yet")
        found = reconcile(
            state, manifest, entry["manifest"].encode(), entry["checkpoint"], chunks, self.trusted
        )
        size = sum(chunk.size for chunk in chunks)
        event = await self._announce(state.session, manifest, found, len(chunks), size)
        log.info("session settled", session=state.session, complete=not found, chunks=len(chunks))
        at = round(event.time.timestamp() * 1_000_000)
        shortcomings = found[:MAX_SHORTCOMINGS]
        done = concluded(state, shortcomings, manifest.root, manifest.next_seq, size, at)
        return await self._write(done, collection)

    async def _announce(
        self, session: str, manifest: Manifest, found: list[str], chunks: int, size: int
    ) -> SessionEvent:
        if found:
            incomplete = SessionIncomplete(session=session, shortcomings=found[:MAX_SHORTCOMINGS])
            return await self.events.emit(incomplete, session)
        anchor = encode(anchor_of(manifest))
        await self.producer.send(self.topics.anchors, anchor, key=session.encode())
        return await self.events.emit(
            SessionCompleted(
                session=session, chunks=chunks, records=manifest.next_seq,
                stored_bytes=size, root=manifest.root,
            ),
            session,
        )  # fmt: skip

    # -- silent sessions -----------------------------------------------------------------------

    async def abandon_silent(self, silent_us: int, since: int) -> list[str]:
        """End every session without a sign for `silent_us`; those that were ended.

        A session that was closed and is still without a manifest after ten times as long
        has lost its `close` record. since: no silence counts before this time, when nobody
        was listening.
        """
        ended = []
        open_states = [*sorted(LIVE), "processing"]
        for document in await self.catalog.find(SESSIONS, {"state": {"$in": open_states}}):
            state = read_state(document)
            patience = silent_us if state.state in LIVE else PATIENCE * silent_us
            silence = self.clock() - max(state.last_sign, state.ended_at or 0, since)
            waiting = state.manifest_hash is None and not state.abandoned
            if state.opened is not None and waiting and silence >= patience:
                await self._abandon(state, silence)
                ended.append(state.session)
        return ended

    async def _abandon(self, state: SessionState, silence: int) -> None:
        """Put `abandon` behind the session's records; a second one is a no-op downstream."""
        assert state.opened is not None
        reason = f"no sign of the recorder for {silence // 1_000_000} s"
        record = FrameRecord(
            session=parse_session_id(state.session),
            kind=Kind.ABANDON,
            seq=-1,
            time=self.clock(),
            chain=b"",
            payload=encode(
                Abandon(reason=reason, by=f"pipeline/{self.host}", last_seen=state.last_sign)
            ),
        )
        key, headers, value = to_kafka(record)
        placed = await self.producer.send(
            self.topics.frames, value, key=key, headers=[*headers],
            partition=state.opened.partition,
        )  # fmt: skip
        log.warning("session abandoned", session=state.session, reason=reason)
        event = SessionAbandoned(
            session=state.session, partition=placed.partition, offset=placed.offset, reason=reason
        )
        await self.events.emit(event, state.session)


def _stored(document: Document) -> StoredChunk:
    names = ("index", "size", "first_seq", "next_seq", "records", "missing", "raw_size")
    return StoredChunk(
        leaf=bytes.fromhex(document["leaf"]), **{name: document[name] for name in names}
    )
