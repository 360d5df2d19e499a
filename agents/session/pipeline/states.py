"""The state of a session on its way through the pipeline. Pure.

    recording ⇄ paused ──▶ processing ──▶ completed | incomplete
                                ▲                           │
                                └── a chunk or the manifest comes after all

A session is `processing` from its close or abandon until everything is counted, or until it
is certain, or nobody has any patience left, that some of it will not come. Events of
different services may arrive in any order and more than once; applying one twice changes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from schemas.canonical import Strict
from schemas.events import (
    ChunkConflict,
    ChunkStoredV1,
    CommandDone,
    CommandRefused,
    HoldReleased,
    HoldSet,
    ManifestConflict,
    ManifestStored,
    RecordsExpired,
    ScrubFinding,
    ScrubResolved,
    SessionAbandoned,
    SessionClosed,
    SessionErased,
    SessionErasing,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    SessionPaused,
    SessionResumed,
    SessionShredded,
    SessionSpared,
    SessionUnsealed,
)

Stage = Literal["content", "metadata"]
Erasure = Literal["erasing", "shredded", "erased"]
ERASURES: tuple[Erasure, ...] = ("erasing", "shredded", "erased")
State = Literal["recording", "paused", "processing", "completed", "incomplete"]
FINAL: frozenset[State] = frozenset({"completed", "incomplete"})
LIVE: frozenset[State] = frozenset({"recording", "paused"})
MAX_DAMAGED = 1000

FRAMES = frozenset({"session.frames"})
EVENTS = frozenset({"session.events"})
STORED_FROM = frozenset({"session.chunks", "session.manifests"})
MAX_LOSSES = 100
OF_NO_SESSION = (CommandDone, CommandRefused, HoldSet, HoldReleased)
"""Events that change no session's state."""
OF_FILES = (
    ScrubFinding, ScrubResolved, SessionErasing, SessionShredded, SessionErased, SessionSpared,
)  # fmt: skip
"""Events of what is on disk, which make no session: it may be a stray folder, or a remnant."""
PATIENCE = 10
"""How many times longer than for a sign of a recorder one waits for what is behind a backlog."""


class Loss(BaseModel):
    """Offsets first_offset to next_offset - 1 that retention took before they were read.

    topic: its name in the contract. next_seq: records of the session may be gone from there
    on; None when only the partition is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    next_seq: int | None


class SessionState(BaseModel):
    """The catalog's document of a session; `_id` is the session id.

    opened: what the recorder said at its start; None while only other services have spoken.
    next_seq, raw_bytes: the recorder's own count. last_sign: wall time in microseconds at
    which something of the recorder was last seen. ended_at: event time of the end's event.
    closed_seq: records by the recorder's `close`; None while it has not said so.
    next_index: chunks 0 to next_index - 1 are stored; ahead: stored beyond that.
    losses: what expired on the topics that the session's records, chunks and manifest take;
    the first MAX_LOSSES. unsealed: the processor met its `abandon` without its `open`.
    changed: wall time in microseconds of the last news that its end depends on.
    damaged: names of stored files that a scrub found wrong, at most MAX_DAMAGED of them.
    erasures: how far the erasure of content or metadata is, by stage; the state stays what it
    was. Once the metadata is shredded, nothing is left here that names a person or a host.
    version: counts the writes of this document. positions: the offset of the last event that
    changed it, for each partition of the events' topic; what is not behind it was applied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str
    state: State = "recording"
    opened: SessionOpened | None = None
    next_seq: int = 0
    raw_bytes: int = 0
    last_sign: int = 0
    ended_at: int | None = None
    end_reason: str | None = None
    closed_seq: int | None = None
    abandoned: bool = False
    next_index: int = 0
    ahead: list[int] = []
    stored_bytes: int = 0
    last_index: int | None = None
    manifest_hash: str | None = None
    conflicts: int = 0
    losses: list[Loss] = []
    unsealed: bool = False
    changed: int = 0
    damaged: list[str] = []
    shortcomings: list[str] = []
    root: str | None = None
    records: int | None = None
    settled_at: int | None = None
    erasures: dict[Stage, Erasure] = {}
    version: int = 0
    positions: dict[str, int] = {}

    def has(self, partition: int, offset: int) -> bool:
        """Whether the event at that place is in here already."""
        return offset <= self.positions.get(str(partition), -1)

    def at(self, partition: int, offset: int) -> SessionState:
        """This state, marked as the one after the event at that place."""
        return _with(self, positions={**self.positions, str(partition): offset})

    def lost_from(self, topics: Set[str]) -> bool:
        """Whether something expired on one of these topics."""
        return any(loss.topic in topics for loss in self.losses)

    @property
    def ready(self) -> bool:
        """All chunks up to the last one and the manifest are stored: time to reconcile."""
        return (
            self.manifest_hash is not None
            and self.last_index is not None
            and self.next_index == self.last_index + 1
        )


def read_state(document: Mapping[str, Any]) -> SessionState:
    """The state of a catalog document."""
    fields = {name: value for name, value in document.items() if name != "_id"}
    return SessionState.model_validate({"session": document["_id"], **fields})


def state_document(state: SessionState) -> dict[str, Any]:
    """The catalog document of a state."""
    return {"_id": state.session, **state.model_dump(mode="json")}


def concluded(
    state: SessionState, shortcomings: Sequence[str], root: str | None, records: int | None,
    stored_bytes: int, at: int,
) -> SessionState:  # fmt: skip
    """The state of a session once everything was counted; at: wall time in microseconds."""
    return _with(
        state,
        state="incomplete" if shortcomings else "completed",
        shortcomings=list(shortcomings), root=root, records=records, stored_bytes=stored_bytes,
        settled_at=at,
    )  # fmt: skip


def silent(state: SessionState, now: int, silent_us: int, since: int) -> bool:
    """Whether a session is to be ended by an `abandon`: no sign of its recorder for `silent_us`.

    One that was closed and is still not sealed after ten times as long has lost its `close`
    record, and is ended, too; sooner when it is known to have lost records. since: no
    silence counts before this time.
    """
    sealed = state.manifest_hash is not None or state.last_index is not None
    if state.state in FINAL or state.opened is None or state.abandoned or sealed:
        return False
    soon = state.state in LIVE or state.lost_from(FRAMES)
    patience = silent_us if soon else PATIENCE * silent_us
    return now - max(state.last_sign, state.ended_at or 0, since) >= patience


def overdue(state: SessionState, now: int, silent_us: int, settle_us: int, since: int) -> bool:
    """Whether an ended session is counted although not everything is stored.

    It is when nothing has come for `silent_us` and what is missing is known to be lost; or,
    when no loss is known, for `settle_us`. A session of which neither the last chunk nor the
    manifest is stored is the processor's to end, and waits, unless the processor has said
    that it does not know it. since: no silence counts before this time.
    """
    if state.state != "processing":
        return False
    quiet = now - max(state.changed, state.last_sign, state.ended_at or 0, since)
    if state.last_index is not None or state.manifest_hash is not None:
        certain = state.ready or state.lost_from(STORED_FROM)
        return quiet >= (silent_us if certain else settle_us)
    if state.unsealed:
        return quiet >= (silent_us if state.lost_from(FRAMES) else PATIENCE * silent_us)
    return state.lost_from(STORED_FROM) and quiet >= settle_us


def apply(state: SessionState, event: SessionEvent, now: int) -> SessionState:
    """The state after `event`, handled at wall time `now` in microseconds.

    Events of other types, and late ones of a settled session, leave it as it is but for
    conflicts and damaged files, which are always counted, and for what was missing and is
    stored after all. Of an erased session only erasure and damaged files count.
    """
    data = event.data
    if isinstance(data, SessionErasing | SessionShredded | SessionErased | SessionSpared):
        return _erased(state, data)
    if isinstance(data, ScrubFinding | ScrubResolved):
        return _scrubbed(state, data)
    if state.erasures:
        return state
    if isinstance(data, ChunkConflict | ManifestConflict):
        return _with(state, conflicts=state.conflicts + 1)
    if state.state == "completed":
        return state
    if isinstance(data, ChunkStoredV1):
        return _reopened(state, _stored(state, data), now)
    if isinstance(data, ManifestStored):
        return _reopened(state, _with(state, manifest_hash=data.manifest_hash), now)
    return state if state.state in FINAL else _unsettled(state, event, now)


def _unsettled(state: SessionState, event: SessionEvent, now: int) -> SessionState:
    """What is told of a session that is not settled yet, but for what was stored."""
    data = event.data
    if isinstance(data, RecordsExpired):
        return lost(state, data, now)
    if isinstance(data, SessionUnsealed):
        return state if state.unsealed else _with(state, unsealed=True, changed=now)
    if isinstance(data, SessionClosed):
        ended = _ended(
            state, event.micros, data.reason, next_seq=data.next_seq, raw_bytes=data.raw_bytes
        )
        return _with(ended, closed_seq=data.next_seq)
    if isinstance(data, SessionAbandoned):
        return _with(_ended(state, event.micros, data.reason), abandoned=True)
    return _alive(state, data, now)


def lost(state: SessionState, data: RecordsExpired | Loss, now: int) -> SessionState:
    """The state after a loss; one that names the session takes the place of one that does not."""
    loss = Loss.model_validate({name: getattr(data, name) for name in Loss.model_fields})
    bare = loss.model_copy(update={"next_seq": None})
    known = {one.model_copy(update={"next_seq": None}): one for one in state.losses}
    if bare in known and (loss.next_seq is None or known[bare].next_seq is not None):
        return state
    if bare not in known and len(known) >= MAX_LOSSES:
        return state
    losses = sorted({**known, bare: loss}.values(), key=lambda one: (one.topic, one.first_offset))
    # An `abandon` that is behind the session's records may be among those that are gone.
    abandoned = state.abandoned and data.topic not in FRAMES
    return _with(state, losses=losses, abandoned=abandoned, changed=now)


def recounted(
    state: SessionState, stored: Sequence[tuple[int, int, bool]], manifest_hash: str | None
) -> SessionState:
    """The state by the catalog's account. stored: index, size and whether it is the last."""
    indexes = sorted(index for index, _, _ in stored)
    next_index = 0
    while next_index < len(indexes) and indexes[next_index] == next_index:
        next_index += 1
    return _with(
        state,
        next_index=next_index,
        ahead=indexes[next_index:],
        stored_bytes=sum(size for _, size, _ in stored),
        last_index=next((index for index, _, last in stored if last), state.last_index),
        manifest_hash=manifest_hash or state.manifest_hash,
    )


def _reopened(before: SessionState, after: SessionState, now: int) -> SessionState:
    """What is stored counts when it is news; a settled session is then counted anew."""
    if after == before:
        return before
    if before.state == "incomplete":
        return _with(after, state="processing", shortcomings=[], settled_at=None, changed=now)
    return _with(after, changed=now)


def _alive(state: SessionState, data: Strict, now: int) -> SessionState:
    """What a recorder says while it records."""
    live = state.state in LIVE
    if isinstance(data, SessionOpened):
        return _with(state, opened=data, last_sign=now)
    if isinstance(data, SessionHeartbeat):
        return _with(
            state,
            last_sign=now,
            next_seq=max(state.next_seq, data.next_seq),
            raw_bytes=max(state.raw_bytes, data.raw_bytes),
        )
    if isinstance(data, SessionPaused):
        return _with(state, last_sign=now, state="paused" if live else state.state)
    if isinstance(data, SessionResumed):
        return _with(state, last_sign=now, state="recording" if live else state.state)
    return state


def _ended(state: SessionState, at: int, reason: str, **changes: object) -> SessionState:
    if state.ended_at is not None:
        return state
    return _with(state, state="processing", ended_at=at, end_reason=reason, **changes)


def _stored(state: SessionState, data: ChunkStoredV1) -> SessionState:
    if data.index < state.next_index or data.index in state.ahead:
        return state
    ahead = sorted([*state.ahead, data.index])
    next_index = state.next_index
    while ahead and ahead[0] == next_index:
        ahead.pop(0)
        next_index += 1
    return _with(
        state,
        ahead=ahead,
        next_index=next_index,
        stored_bytes=state.stored_bytes + data.size,
        last_index=data.index if data.last else state.last_index,
    )


def _erased(
    state: SessionState, data: SessionErasing | SessionShredded | SessionErased | SessionSpared
) -> SessionState:
    """An erasure goes on, never back, unless it was withdrawn before anything was destroyed."""
    if isinstance(data, SessionSpared):
        begun = state.erasures.get("content") == "erasing"
        kept = {stage: far for stage, far in state.erasures.items() if stage != "content"}
        return _with(state, erasures=kept) if begun else state
    names: dict[type[Strict], Erasure] = {
        SessionErasing: "erasing", SessionShredded: "shredded", SessionErased: "erased",
    }  # fmt: skip
    far, known = names[type(data)], state.erasures.get(data.stage)
    if known is not None and ERASURES.index(known) >= ERASURES.index(far):
        return state
    after = _with(state, erasures={**state.erasures, data.stage: far})
    if far == "erasing":
        return after
    if data.stage == "metadata":
        return _with(after, opened=None, end_reason=None, shortcomings=[])
    return _with(after, stored_bytes=0)


def _scrubbed(state: SessionState, data: ScrubFinding | ScrubResolved) -> SessionState:
    names = set(state.damaged) - {data.name}
    if isinstance(data, ScrubFinding):
        names.add(data.name)
    return _with(state, damaged=sorted(names)[:MAX_DAMAGED])


def _with(before: SessionState, /, **changes: object) -> SessionState:
    return before.model_copy(update=changes)
