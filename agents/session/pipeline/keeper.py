"""Sessions in the catalog: events applied, settled when all is there, abandoned when silent.

Each write is a compare-and-set on the document's version, so that two pipelines never lose a
change; a document knows the last event it has, so that none is applied twice. A rebuild of
the view may change its place at any time (agents/platform/projections.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from agents.platform.catalog import Catalog, Document
from agents.platform.clock import wall_clock
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer, SendRefused
from agents.platform.projections import View
from agents.platform.retry import Transient
from agents.session.pipeline.reconciliation import StoredChunk, reconcile, without_manifest
from agents.session.pipeline.states import (
    EVENTS,
    FINAL,
    FRAMES,
    LIVE,
    OF_FILES,
    SessionState,
    apply,
    concluded,
    lost,
    overdue,
    read_state,
    recounted,
    silent,
    state_document,
)
from agents.session.pipeline.transitions import check_transition
from schemas.anchors import anchor_of
from schemas.canonical import encode
from schemas.controls import Abandon
from schemas.events import (
    RecordsExpired,
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
OPEN_STATES = [*sorted(LIVE), "processing"]


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
    ) -> SessionState | None:
        """Apply an event to its session; settles the session once nothing is outstanding.

        place: its partition and offset, by which it is known when it comes again. None when
        the event speaks of a whole partition.
        """
        view = View(self.catalog, SESSIONS, self.clock)
        alias = await view.open()
        if isinstance(event.data, RecordsExpired) and event.data.session is None:
            await self._lose(event.data, alias.collection)
            state = None
        else:
            state = await self._apply(event, place, alias.collection)
        await view.check(alias)
        return state

    async def _apply(
        self, event: SessionEvent, place: tuple[int, int] | None, collection: str
    ) -> SessionState:
        before = await self.load(event.subject, collection)
        if isinstance(event.data, SessionCompleted | SessionIncomplete):
            return before
        if isinstance(event.data, OF_FILES) and not before.version:
            return before  # neither a stray folder nor what is left makes a session
        after = before
        if place is None or not before.has(*place):
            check_transition(before, event.data)
            after = apply(before, event, self.clock())
        if place is not None and after != before:
            after = after.at(*place)
        # A rebuilt view may have the event already, and nobody has settled the session yet.
        if after.ready and after.state not in FINAL and not after.erasures:
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

    async def _lose(self, data: RecordsExpired, collection: str) -> None:
        """Note a loss with each session that may have had something there."""
        for document in await self.catalog.find(collection, {"state": {"$in": OPEN_STATES}}):
            before = read_state(document)
            if data.topic in EVENTS or _may_have_lost(before, data):
                after = lost(before, data, self.clock())
                if after != before:
                    await self._write(after, collection)

    async def _settle(self, state: SessionState, collection: str) -> SessionState:
        """Count everything; the results are sent before the document says that they were."""
        entry = await self.catalog.get("manifests", state.session)
        chunks = [_stored(document) async for document in self.catalog.chunks(state.session)]
        if entry is None:
            if state.manifest_hash is not None:
                raise NotYet(f"the catalog does not show the manifest of {state.session} yet")
            return await self._settle_without_manifest(state, chunks, collection)
        manifest = read_manifest(entry["manifest"].encode())
        if len(chunks) < manifest.chunks and state.next_index >= manifest.chunks:
            raise NotYet(f"the catalog does not show all chunks of session {state.session} yet")
        found = reconcile(
            state, manifest, entry["manifest"].encode(), entry["checkpoint"], chunks, self.trusted
        )
        size = sum(chunk.size for chunk in chunks)
        if found:
            event = await self._announce_incomplete(state.session, found)
        else:
            event = await self._announce_completed(manifest, size)
        log.info("session settled", session=state.session, complete=not found, chunks=len(chunks))
        done = concluded(
            state, found[:MAX_SHORTCOMINGS], manifest.root, manifest.next_seq, size, event.micros
        )
        return await self._write(done, collection)

    async def _settle_without_manifest(
        self, state: SessionState, chunks: Sequence[StoredChunk], collection: str
    ) -> SessionState:
        found = without_manifest(state, chunks)
        event = await self._announce_incomplete(state.session, found)
        log.error("session settled without a manifest", session=state.session, chunks=len(chunks))
        size = sum(chunk.size for chunk in chunks)
        done = concluded(state, found[:MAX_SHORTCOMINGS], None, None, size, event.micros)
        return await self._write(done, collection)

    async def _announce_incomplete(self, session: str, found: list[str]) -> SessionEvent:
        event = SessionIncomplete(session=session, shortcomings=found[:MAX_SHORTCOMINGS])
        return await self.events.emit(event, session)

    async def _announce_completed(self, manifest: Manifest, size: int) -> SessionEvent:
        session, anchor = manifest.session, encode(anchor_of(manifest))
        await self.producer.send(self.topics.anchors, anchor, key=session.encode())
        return await self.events.emit(
            SessionCompleted(
                session=session, chunks=manifest.chunks, records=manifest.next_seq,
                stored_bytes=size, root=manifest.root,
            ),
            session,
        )  # fmt: skip

    # -- silent sessions -----------------------------------------------------------------------

    async def look_after(self, silent_us: int, settle_us: int, since: int) -> list[str]:
        """End each session without a sign, count each of which something will not come.

        Returns those that were ended or counted. since: no silence counts before this time,
        when nobody was listening.
        """
        view = View(self.catalog, SESSIONS, self.clock)
        alias = await view.open()
        done = []
        for document in await self.catalog.find(alias.collection, {"state": {"$in": OPEN_STATES}}):
            state = read_state(document)
            if state.lost_from(EVENTS):
                state = await self._recount(state)
            try:
                if silent(state, self.clock(), silent_us, since):
                    event = await self._abandon(state, self.clock() - max(state.last_sign, since))
                    # At once, or the next look would end it again before the event is handled.
                    await self._write(apply(state, event, self.clock()), alias.collection)
                elif overdue(state, self.clock(), silent_us, settle_us, since):
                    await self._settle(state, alias.collection)
                else:
                    continue
            except SendRefused as error:
                # Of one session: the others are looked after all the same.
                log.error("session cannot be ended", session=state.session, error=error)
                continue
            except NotYet as error:
                log.info("looked at again later", session=state.session, error=str(error))
                continue
            done.append(state.session)
        await view.check(alias)
        return done

    async def _recount(self, state: SessionState) -> SessionState:
        """What the catalog knows of a session whose events may be lost."""
        chunks = [document async for document in self.catalog.chunks(state.session)]
        entry = await self.catalog.get("manifests", state.session)
        stored = [(document["index"], document["size"], document["last"]) for document in chunks]
        return recounted(state, stored, entry["hash"] if entry else None)

    async def _abandon(self, state: SessionState, silence: int) -> SessionEvent:
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
        return await self.events.emit(event, state.session)


def _may_have_lost(state: SessionState, data: RecordsExpired) -> bool:
    """Whether a session had, or may have had, something in a range of its partition.

    Of `session.frames` it is told by itself, unless its `open` is in the range. Where a
    session is whose `opened` event expired nobody knows.
    """
    opened = state.opened
    if opened is None:
        return data.topic not in FRAMES
    if opened.partition != data.partition:
        return False
    return data.topic not in FRAMES or data.first_offset <= opened.offset < data.next_offset


def _stored(document: Document) -> StoredChunk:
    names = ("index", "size", "first_seq", "next_seq", "records", "missing", "raw_size")
    return StoredChunk(
        leaf=bytes.fromhex(document["leaf"]), **{name: document[name] for name in names}
    )
