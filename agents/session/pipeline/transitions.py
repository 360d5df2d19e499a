"""Transitions that no session makes: events that contradict what is known of it. Pure.

Services speak in any order and more than once (states.py), so what is refused here is only
what no order explains: two ends of different length, a chunk behind the last one.

FormatError
└── ImpossibleTransition    the event becomes a dead letter, the session stays as it is
"""

from __future__ import annotations

from agents.session.pipeline.states import SessionState
from schemas.canonical import Strict
from schemas.errors import FormatError
from schemas.events import (
    ChunkStoredV1,
    ManifestStored,
    SessionAbandoned,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
)


class ImpossibleTransition(FormatError):
    """An event contradicts what its session is known to be."""

    once_per_key = True


def check_partition(event: SessionEvent, partitions: int | None) -> None:
    """Raise ImpossibleTransition for an `opened` on a partition that `session.frames` lacks."""
    data = event.data
    if isinstance(data, SessionOpened) and partitions is not None and data.partition >= partitions:
        raise ImpossibleTransition(f"session {event.subject} names partition {data.partition}")


def check_transition(state: SessionState, data: Strict) -> None:
    """Raise ImpossibleTransition unless `data` can follow on `state`."""
    if isinstance(data, SessionOpened):
        problem = _reopened(state, data)
    elif isinstance(data, SessionHeartbeat | SessionClosed):
        problem = _counted(state, data)
    elif isinstance(data, ChunkStoredV1):
        problem = _stored(state, data)
    elif isinstance(data, ManifestStored):
        known = state.manifest_hash
        other = known is not None and known != data.manifest_hash
        problem = f"its manifest has hash {known}, not {data.manifest_hash}" if other else ""
    elif isinstance(data, SessionAbandoned):
        home = state.opened.partition if state.opened else data.partition
        other = home != data.partition
        problem = f"it is on partition {home}, not {data.partition}" if other else ""
    else:
        return
    if problem:
        raise ImpossibleTransition(
            f"session {state.session} cannot take {type(data).__name__}: {problem}",
            hint="Look for a second writer with this session id",
        )


def _reopened(state: SessionState, data: SessionOpened) -> str:
    # An `open` that was sent twice stands at two offsets.
    if state.opened is None or state.opened.model_copy(update={"offset": data.offset}) == data:
        return ""
    opened = state.opened
    return f"it was opened on partition {opened.partition} by {opened.recorder} on {opened.host}"


def _counted(state: SessionState, data: SessionHeartbeat | SessionClosed) -> str:
    """Records behind a `close`, or two of them."""
    end = state.closed_seq
    if end is None:
        return ""
    if isinstance(data, SessionClosed):
        return "" if data.next_seq == end else f"it was closed with {end} records before"
    return "" if data.next_seq <= end else f"it was closed with {end} records"


def _stored(state: SessionState, data: ChunkStoredV1) -> str:
    """Chunks behind the last one, or two last ones."""
    if state.last_index is not None and data.index > state.last_index:
        return f"chunk {state.last_index} is its last, and this is chunk {data.index}"
    newest = max([state.next_index - 1, *state.ahead])
    if data.last and data.index < newest:
        return f"chunk {newest} is stored already, and chunk {data.index} cannot be the last"
    return ""
