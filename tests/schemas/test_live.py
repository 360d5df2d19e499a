"""Live state from signs of life: rates, lag, and old news."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from schemas.canonical import Strict, decode, encode
from schemas.events import (
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    SessionPaused,
)
from schemas.live import LiveState, advanced

SESSION = "01890a5d-ac96-774b-bcce-b302099a8057"
T0 = 1_700_000_000


def event(data: Strict, at: float) -> SessionEvent:
    return SessionEvent(data, "lucid/recorder/h", SESSION, time=datetime.fromtimestamp(at, UTC))


def opened(at: float = T0) -> SessionEvent:
    return event(
        SessionOpened(session=SESSION, partition=0, offset=0, host="h", recorder="r",
                      codec="screen/1", source={}, started=1), at,
    )  # fmt: skip


def beat(at: float, seq: int, size: int, paused: bool = False) -> SessionEvent:
    return event(SessionHeartbeat(session=SESSION, next_seq=seq, raw_bytes=size, paused=paused), at)


def closed(at: float, seq: int, size: int) -> SessionEvent:
    return event(SessionClosed(session=SESSION, next_seq=seq, raw_bytes=size, reason="end"), at)


def after(*events: SessionEvent, lag: float = 0.25) -> LiveState:
    state: LiveState | None = None
    for one in events:
        state = advanced(state, one, one.micros + round(lag * 1_000_000)) or state
    assert state is not None
    return state


def test_rates_are_those_between_the_last_two_signs() -> None:
    state = after(opened(), beat(T0 + 5, 51, 5_000), beat(T0 + 10, 56, 15_000))
    assert (state.next_seq, state.raw_bytes) == (56, 15_000)
    assert (state.records_per_second, state.bytes_per_second) == (1.0, 2000.0)
    assert state.lag_seconds == 0.25
    assert state.at == (T0 + 10) * 1_000_000
    assert decode(LiveState, encode(state)) == state


def test_a_first_sign_has_no_rate() -> None:
    for one in (opened(), beat(T0, 7, 70), closed(T0, 9, 90)):
        state = after(one)
        assert (state.records_per_second, state.bytes_per_second) == (None, None)


def test_a_count_that_went_back_gives_no_rate() -> None:
    state = after(beat(T0, 50, 500), beat(T0 + 5, 40, 600))
    assert (state.next_seq, state.records_per_second) == (40, None)
    assert after(beat(T0, 50, 500), beat(T0 + 5, 60, 400)).bytes_per_second is None


def test_pauses_and_ends_show() -> None:
    assert after(beat(T0, 5, 5, paused=True)).paused
    state = after(beat(T0, 5, 5, paused=True), closed(T0 + 1, 6, 5))
    assert (state.paused, state.ended, state.records_per_second) == (False, True, 1.0)


def test_old_news_and_other_events_change_nothing() -> None:
    state: Any = after(beat(T0 + 5, 51, 5_000))
    assert advanced(state, beat(T0 + 5, 52, 5_100), 0) is None
    assert advanced(state, opened(), 0) is None
    assert advanced(None, event(SessionPaused(session=SESSION, reason="x"), T0), 0) is None
    ended = after(closed(T0, 9, 90))
    assert advanced(ended, beat(T0 + 9, 10, 100), 0) is None


def test_a_clock_that_is_behind_gives_no_negative_lag() -> None:
    assert after(beat(T0, 5, 5), lag=-3).lag_seconds == 0
