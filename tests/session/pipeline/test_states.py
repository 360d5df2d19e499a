"""A session's state: the order of events of different services, and repetitions, change nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.session.pipeline.states import (
    MAX_DAMAGED,
    MAX_LOSSES,
    SessionState,
    apply,
    overdue,
    recounted,
    silent,
)
from schemas.canonical import Strict
from schemas.events import (
    ChunkConflict,
    ChunkStoredV1,
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
        ChunkStoredV1(
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


SECOND = 1_000_000
SILENT, SETTLE = 60 * SECOND, 3600 * SECOND


def expired(topic: str, first: int = 4, next_seq: int | None = None) -> SessionEvent:
    return event(
        RecordsExpired(
            session=ID if next_seq is not None else None, topic=topic, partition=3,
            first_offset=first, next_offset=9, next_seq=next_seq,
        )
    )  # fmt: skip


def test_what_comes_after_all_opens_an_incomplete_session_again() -> None:
    without = after([*RECORDER, *[one for one in STORAGE if one is not STORAGE[1]]])
    settled = without.model_copy(
        update={"state": "incomplete", "shortcomings": ["chunk 1"], "settled_at": 1}
    )
    for again in (STORAGE[0], STORAGE[3], RECORDER[0], RECORDER[4], expired("session.chunks")):
        assert apply(settled, again, NOW) == settled
    whole = apply(settled, STORAGE[1], NOW + 1)
    assert (whole.state, whole.ready, whole.shortcomings) == ("processing", True, [])
    assert whole.settled_at is None
    completed = settled.model_copy(update={"state": "completed"})
    assert apply(completed, STORAGE[1], NOW) == completed


def test_losses_are_noted_once_and_the_one_that_names_the_session_counts() -> None:
    state = after([OPENED, expired("session.frames"), expired("session.frames")])
    assert [loss.next_seq for loss in state.losses] == [None]
    for order in (
        [expired("session.frames"), expired("session.frames", next_seq=7)],
        [expired("session.frames", next_seq=7), expired("session.frames")],
    ):
        state = after([OPENED, *order, expired("session.chunks"), order[0]])
        assert [(loss.topic, loss.next_seq) for loss in state.losses] == [
            ("session.chunks", None), ("session.frames", 7),
        ]  # fmt: skip
    many = after([expired("session.chunks", first=n) for n in range(MAX_LOSSES + 5)])
    assert len(many.losses) == MAX_LOSSES


def test_an_abandon_that_may_have_expired_is_put_again() -> None:
    abandoned = event(SessionAbandoned(session=ID, partition=3, offset=9, reason="silence"), 9)
    state = after([OPENED, abandoned])
    assert not silent(state, NOW + 10 * SILENT, SILENT, 0)
    state = apply(state, expired("session.frames", next_seq=3), NOW)
    assert silent(state, NOW + SILENT, SILENT, 0)
    assert not silent(state, NOW + SILENT - 1, SILENT, 0)
    assert not silent(state, NOW + SILENT, SILENT, since=NOW + 1)


def test_a_closed_session_that_lost_records_is_ended_without_more_patience() -> None:
    closed, ended = after(RECORDER), int((BEGIN + timedelta(seconds=8)).timestamp() * SECOND)
    at = max(closed.last_sign, ended)
    assert not silent(closed, at + 2 * SILENT, SILENT, 0)
    assert silent(closed, at + 10 * SILENT, SILENT, 0)
    lossy = apply(closed, expired("session.frames", next_seq=3), NOW)
    assert silent(lossy, at + SILENT, SILENT, 0)
    sealed = after([*RECORDER, STORAGE[3], expired("session.frames", next_seq=3)])
    assert not silent(sealed, at + 99 * SILENT, SILENT, 0)


@pytest.mark.parametrize(
    ("events", "patience"),
    [
        (STORAGE, SILENT),
        (STORAGE[1:], SETTLE),
        (STORAGE[:3], SETTLE),
        ([*STORAGE[1:], expired("session.chunks")], SILENT),
        ([*STORAGE[:3], expired("session.manifests")], SILENT),
        ([expired("session.chunks")], SETTLE),
        ([event(SessionUnsealed(session=ID, partition=3, offset=9))], 10 * SILENT),
        (
            [
                event(SessionUnsealed(session=ID, partition=3, offset=9)),
                expired("session.frames"),
            ],
            SILENT,
        ),
        ([], None),
        (STORAGE[:2], None),
    ],
)
def test_how_long_an_ended_session_waits_for_what_is_missing(
    events: list[SessionEvent], patience: int | None
) -> None:
    state = after([*RECORDER, *events])
    last = max(state.changed, state.last_sign)
    if patience is None:
        assert not overdue(state, last + 99 * SETTLE, SILENT, SETTLE, 0)
        return
    assert not overdue(state, last + patience - 1, SILENT, SETTLE, 0)
    assert overdue(state, last + patience, SILENT, SETTLE, 0)
    assert not overdue(state, last + patience, SILENT, SETTLE, since=last + 1)
    assert not overdue(after(events), last + 99 * SETTLE, SILENT, SETTLE, 0)


def test_a_recount_takes_the_catalogs_word() -> None:
    state = recounted(after(RECORDER), [(3, 7, True), (0, 5, False), (1, 6, False)], None)
    assert (state.next_index, state.ahead, state.last_index, state.stored_bytes) == (2, [3], 3, 18)
    assert state.manifest_hash is None
    assert recounted(state, [], LEAF).manifest_hash == LEAF


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


# Erasure --------------------------------------------------------------------------------------


def erasing(stage: str = "content") -> SessionEvent:
    data = SessionErasing(session=ID, stage=stage, scope="default", keep_days=30, record=LEAF)  # type: ignore[arg-type]
    return event(data, 100)


def shredded(stage: str = "content") -> SessionEvent:
    return event(SessionShredded(session=ID, stage=stage, files=4, bytes=9, waiting=[]), 101)  # type: ignore[arg-type]


def erased(stage: str = "content") -> SessionEvent:
    return event(SessionErased(session=ID, stage=stage), 102)  # type: ignore[arg-type]


SPARED = event(SessionSpared(session=ID, hold="everything"), 103)


def settled(state: str) -> SessionState:
    return after([*RECORDER, *STORAGE]).model_copy(update={"state": state, "shortcomings": ["x"]})


@pytest.mark.parametrize("state", ["completed", "incomplete"])
def test_an_erased_session_keeps_its_state(state: str) -> None:
    before = settled(state)
    steps = [before]
    for one in (erasing(), erasing(), shredded(), erasing(), erased(), shredded()):
        steps.append(apply(steps[-1], one, NOW))
    assert [step.erasures.get("content") for step in steps] == [
        None, "erasing", "erasing", "shredded", "shredded", "erased", "erased",
    ]  # fmt: skip
    assert {step.state for step in steps} == {state}
    assert steps[-1].opened == before.opened
    assert (steps[1].stored_bytes, steps[3].stored_bytes) == (before.stored_bytes, 0)


@pytest.mark.parametrize("late", [*RECORDER, *STORAGE, stored(7)])
def test_nothing_late_opens_an_erased_session_again(late: SessionEvent) -> None:
    begun = apply(settled("incomplete"), erasing(), NOW)
    assert apply(begun, late, NOW) == begun


def test_without_metadata_nothing_names_a_person_or_a_host() -> None:
    state = apply(settled("incomplete"), shredded(), NOW)
    state = apply(state, erasing("metadata"), NOW)
    assert state.opened is not None, "the files are still there"
    state = apply(state, shredded("metadata"), NOW)
    assert (state.opened, state.end_reason, state.shortcomings) == (None, None, [])
    assert state.erasures == {"content": "shredded", "metadata": "shredded"}
    assert state.manifest_hash == LEAF


def test_a_session_is_spared_only_before_anything_is_destroyed() -> None:
    begun = apply(settled("completed"), erasing(), NOW)
    assert apply(begun, SPARED, NOW) == settled("completed")
    gone = apply(begun, shredded(), NOW)
    assert apply(gone, SPARED, NOW) == gone
    assert apply(settled("completed"), SPARED, NOW) == settled("completed")
