"""The state of a session on its way through the pipeline. Pure.

    recording ⇄ paused ──▶ processing ──▶ completed | incomplete

A session is `processing` from its close or abandon until everything is counted. Events of
different services may arrive in any order and more than once; applying one twice changes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from schemas.canonical import Strict
from schemas.events import (
    ChunkConflict,
    ChunkStored,
    ManifestConflict,
    ManifestStored,
    SessionAbandoned,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    SessionPaused,
    SessionResumed,
)

State = Literal["recording", "paused", "processing", "completed", "incomplete"]
FINAL: frozenset[State] = frozenset({"completed", "incomplete"})
LIVE: frozenset[State] = frozenset({"recording", "paused"})


class SessionState(BaseModel):
    """The catalog's document of a session; `_id` is the session id.

    opened: what the recorder said at its start; None while only other services have spoken.
    next_seq, raw_bytes: the recorder's own count. last_sign: wall time in microseconds at
    which something of the recorder was last seen. ended_at: event time of the end's event.
    next_index: chunks 0 to next_index - 1 are stored; ahead: stored beyond that.
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
    abandoned: bool = False
    next_index: int = 0
    ahead: list[int] = []
    stored_bytes: int = 0
    last_index: int | None = None
    manifest_hash: str | None = None
    conflicts: int = 0
    shortcomings: list[str] = []
    root: str | None = None
    records: int | None = None
    settled_at: int | None = None
    version: int = 0
    positions: dict[str, int] = {}

    def has(self, partition: int, offset: int) -> bool:
        """Whether the event at that place is in here already."""
        return offset <= self.positions.get(str(partition), -1)

    def at(self, partition: int, offset: int) -> SessionState:
        """This state, marked as the one after the event at that place."""
        return _with(self, positions={**self.positions, str(partition): offset})

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


Data = TypeVar("Data", bound=Strict)


def apply(state: SessionState, event: SessionEvent, now: int) -> SessionState:
    """The state after `event`, handled at wall time `now` in microseconds.

    Events of other types, and late ones of a settled session, leave it as it is but for
    conflicts, which are always counted.
    """
    data = event.data
    if isinstance(data, ChunkConflict | ManifestConflict):
        return _with(state, conflicts=state.conflicts + 1)
    if state.state in FINAL:
        return state
    if isinstance(data, ChunkStored):
        return _stored(state, data)
    if isinstance(data, ManifestStored):
        return _with(state, manifest_hash=data.manifest_hash)
    at = int(event.time.timestamp() * 1_000_000)
    if isinstance(data, SessionClosed):
        return _ended(state, at, data.reason, next_seq=data.next_seq, raw_bytes=data.raw_bytes)
    if isinstance(data, SessionAbandoned):
        return _with(_ended(state, at, data.reason), abandoned=True)
    return _alive(state, data, now)


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


def _stored(state: SessionState, data: ChunkStored) -> SessionState:
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


def _with(before: SessionState, /, **changes: object) -> SessionState:
    return before.model_copy(update=changes)
