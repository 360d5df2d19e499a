"""A session's state: the order of events of different services, and repetitions, change nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.session.pipeline.states import MAX_DAMAGED, SessionState, apply
from schemas.canonical import Strict
from schemas.events import (
    ChunkConflict,
    ChunkStored,
    ManifestStored,
    ScrubFinding,
    ScrubResolved,
    SessionAbandoned,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    SessionPaused,
    SessionResumed,
)

ID = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = 1_800_000_000_000_000
LEAF = "ab" * 32


def event(data: Strict, seconds: float = 0) -> SessionEvent:
    return SessionEvent(data, "lucid/test/host", ID, time=BEGIN + timedelta(seconds=seconds))


OPENED = event(
    SessionOpened(
        session=ID, partition=3, offset=0, host="desk", recorder="r", codec="bytes/1", source={},
        started=1,
    )
)  # fmt: skip
RECORDER = [
    OPENED,
    event(SessionHeartbeat(session=ID, next_seq=10, raw_bytes=100), 5),
    event(SessionPaused(session=ID, reason="lunch"), 6),
    event(SessionResumed(session=ID, reason="back"), 7),
    event(SessionClosed(session=ID, next_seq=30, raw_bytes=300, reason="done"), 8),
]


def stored(index: int, last: bool = False) -> SessionEvent:
    return event(
        ChunkStored(
            session=ID, index=index, leaf=LEAF, size=1000 + index, records=10, missing=0, last=last
        )
    )


STORAGE = [stored(0), stored(1), stored(2, last=True),
           event(ManifestStored(session=ID, manifest_hash=LEAF))]  # fmt: skip


def after(events: list[SessionEvent]) -> SessionState:
    state = SessionState(session=ID)
    for one in events:
        state = apply(state, one, NOW)
    return state


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_storage_and_recorder_may_speak_in_any_order_and_more_than_once(
    data: st.DataObject,
) -> None:
    storage = data.draw(st.permutations(STORAGE + STORAGE[:2]))
    places = sorted(
        data.draw(st.lists(st.integers(0, len(storage)), min_size=len(RECORDER), max_size=9))
    )[: len(RECORDER)]
    mixed = list(storage)
    for place, one in reversed(list(zip(places, RECORDER, strict=True))):
        mixed.insert(place, one)
    assert after(mixed) == after(RECORDER + STORAGE)


def test_a_session_is_ready_when_all_chunks_and_the_manifest_are_stored() -> None:
    whole = after(RECORDER + STORAGE)
    assert whole.ready
    assert (whole.state, whole.next_seq, whole.stored_bytes) == ("processing", 30, 3003)
    for missing in STORAGE:
        assert not after(RECORDER + [one for one in STORAGE if one is not missing]).ready


def test_the_phases_follow_the_recorder() -> None:
    phases = [after(RECORDER[: count + 1]).state for count in range(len(RECORDER))]
    assert phases == ["recording", "recording", "paused", "recording", "processing"]


def test_an_abandoned_session_keeps_its_first_end() -> None:
    abandoned = event(SessionAbandoned(session=ID, partition=3, offset=9, reason="silence"), 9)
    state = after([*RECORDER[:2], abandoned, RECORDER[-1]])
    assert (state.abandoned, state.end_reason, state.state) == (True, "silence", "processing")
    late = after([*RECORDER, abandoned])
    assert (late.abandoned, late.end_reason) == (True, "done")


def test_a_settled_session_stays_as_it_is_but_for_conflicts() -> None:
    settled = after(RECORDER + STORAGE).model_copy(update={"state": "completed"})
    for one in RECORDER + STORAGE:
        assert apply(settled, one, NOW + 1) == settled
    conflict = event(ChunkConflict(session=ID, index=1, stored_leaf=LEAF, refused_leaf="cd" * 32))
    assert apply(settled, conflict, NOW).conflicts == 1


def damage(name: str, verdict: str = "MissingFile") -> SessionEvent:
    return event(
        ScrubFinding.model_validate(
            {"session": ID, "name": name, "index": None, "verdict": verdict,
             "expected": "a", "found": "b"}
        )
    )  # fmt: skip


def mended(name: str) -> SessionEvent:
    return event(ScrubResolved(session=ID, name=name, index=None, verdict="MissingFile"))


def test_damaged_files_are_named_once_and_until_they_are_mended() -> None:
    state = SessionState(session=ID, state="completed", root=LEAF)
    for data in (damage("b"), damage("a"), damage("b"), damage("a", "SizeMismatch"), mended("c")):
        state = apply(state, data, NOW)
    assert (state.damaged, state.state) == (["a", "b"], "completed")
    for data in (mended("b"), mended("b")):
        state = apply(state, data, NOW)
    assert state.damaged == ["a"]
    for number in range(MAX_DAMAGED + 5):
        state = apply(state, damage(f"{number:08d}.chunk"), NOW)
    assert len(state.damaged) == MAX_DAMAGED
