"""How a running session goes, from its last signs of life. Pure.

    state = advanced(before, event, handled_at)     None: the event changes nothing

Kept in Redis for a minute at a time (agents/platform/live.py); nothing rests on it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.canonical import Count, Strict
from schemas.events import SessionClosed, SessionEvent, SessionHeartbeat, SessionId, SessionOpened

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LiveState(Strict):
    """A session as its recorder told of it at event time `at`, in microseconds since 1970.

    next_seq: records sent so far; raw_bytes: their payloads. records_per_second and
    bytes_per_second: between the last two signs, null after the first. lag_seconds: from the
    event to its handling here. ended: the recorder closed it.
    """

    session: SessionId
    next_seq: Count
    raw_bytes: Count
    records_per_second: Rate | None
    bytes_per_second: Rate | None
    lag_seconds: Rate
    paused: bool
    ended: bool
    at: Count


def advanced(before: LiveState | None, event: SessionEvent, handled_at: int) -> LiveState | None:
    """The state after a sign of life; None for other events, and for one that is older.

    handled_at: now, in microseconds since 1970.
    """
    data, at = event.data, event.micros
    if before is not None and (at <= before.at or before.ended):
        return None
    if isinstance(data, SessionOpened):
        next_seq, raw_bytes = 1, 0
    elif isinstance(data, SessionHeartbeat | SessionClosed):
        next_seq, raw_bytes = data.next_seq, data.raw_bytes
    else:
        return None
    records = size = None
    if before is not None and next_seq >= before.next_seq and raw_bytes >= before.raw_bytes:
        seconds = (at - before.at) / 1_000_000
        records = round((next_seq - before.next_seq) / seconds, 3)
        size = round((raw_bytes - before.raw_bytes) / seconds, 3)
    return LiveState(
        session=event.subject, next_seq=next_seq, raw_bytes=raw_bytes,
        records_per_second=records, bytes_per_second=size,
        lag_seconds=round(max(0, handled_at - at) / 1_000_000, 3),
        paused=isinstance(data, SessionHeartbeat) and data.paused,
        ended=isinstance(data, SessionClosed), at=at,
    )  # fmt: skip
