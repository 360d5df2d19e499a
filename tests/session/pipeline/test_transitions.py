"""Events that contradict their session are refused; those that merely come late are not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.session.pipeline.states import SessionState, apply
from agents.session.pipeline.transitions import ImpossibleTransition, check_transition
from schemas.canonical import Strict
from schemas.events import (
    ManifestStored,
    SessionAbandoned,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
)
from tests.session.pipeline.test_states import ID, LEAF, NOW, OPENED, RECORDER, STORAGE, stored

WHOLE = [*RECORDER, *STORAGE]
ABANDONED = SessionAbandoned(session=ID, partition=3, offset=9, reason="silence")


def after(events: list[SessionEvent]) -> SessionState:
    state = SessionState(session=ID)
    for one in events:
        check_transition(state, one.data)
        state = apply(state, one, NOW)
    return state


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_order_of_services_and_no_repetition_is_refused(data: st.DataObject) -> None:
    storage = data.draw(st.permutations(STORAGE))
    cut = data.draw(st.integers(0, len(storage)))
    again = data.draw(st.lists(st.sampled_from(WHOLE), max_size=5))
    assert after([*storage[:cut], *RECORDER, *storage[cut:], *again]).closed_seq == 30


def test_an_open_record_that_was_sent_twice_is_no_second_session() -> None:
    assert isinstance(OPENED.data, SessionOpened)
    check_transition(after(WHOLE), OPENED.data.model_copy(update={"offset": 7}))


def test_an_abandoned_session_may_still_be_closed_by_its_recorder() -> None:
    silent = apply(after(RECORDER[:2]), SessionEvent(ABANDONED, "lucid/test/h", ID), NOW)
    check_transition(silent, SessionHeartbeat(session=ID, next_seq=12, raw_bytes=1))
    check_transition(silent, SessionClosed(session=ID, next_seq=40, raw_bytes=1, reason="done"))


IMPOSSIBLE: list[tuple[str, list[SessionEvent], Strict]] = [
    ("it was opened on partition 3 by r on desk", WHOLE,
     OPENED.data.model_copy(update={"recorder": "other"})),
    ("it was closed with 30 records", RECORDER,
     SessionHeartbeat(session=ID, next_seq=31, raw_bytes=1)),
    ("it was closed with 30 records before", RECORDER,
     SessionClosed(session=ID, next_seq=29, raw_bytes=300, reason="done")),
    ("chunk 2 is its last, and this is chunk 3", WHOLE, stored(3).data),
    ("chunk 2 is stored already, and chunk 1 cannot be the last",
     [*RECORDER, stored(2)], stored(1, last=True).data),
    ("chunk 1 is stored already, and chunk 0 cannot be the last",
     [*RECORDER, stored(0), stored(1)], stored(0, last=True).data),
    (f"its manifest has hash {LEAF}, not {'cd' * 32}", WHOLE,
     ManifestStored(session=ID, manifest_hash="cd" * 32)),
    ("it is on partition 3, not 4", RECORDER[:2],
     ABANDONED.model_copy(update={"partition": 4})),
]  # fmt: skip


@pytest.mark.parametrize(("problem", "before", "data"), IMPOSSIBLE, ids=lambda one: str(one)[:40])
def test_what_no_order_explains_is_refused(
    problem: str, before: list[SessionEvent], data: Strict
) -> None:
    with pytest.raises(ImpossibleTransition, match=ID) as refused:
        check_transition(after(before), data)
    assert problem in refused.value.what
