"""Nothing that is held is ever due, nothing goes a microsecond early, a plan is one plan."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.canonical import decode, encode
from schemas.retention import (
    DAY,
    FOREVER,
    STAGES,
    Candidate,
    Hold,
    Keep,
    Periods,
    Policies,
    audit_cutoff,
    days_text,
    due_at,
    holding,
    make_plan,
    session_end,
)

NOW = 1_800_000_000_000_000
IDS = [f"01a20c5b-f2fa-7557-ac1e-5c33970900{n:02d}" for n in range(6)]
PROJECTS = ["", "ada", "lovelace"]
KEEPS = st.one_of(st.integers(1, 365), st.just(FOREVER))
PERIODS = st.builds(Periods, sessions=st.none() | KEEPS, chunks=st.none() | KEEPS)
POLICIES = st.builds(
    Policies, sessions=KEEPS, chunks=KEEPS, audit=KEEPS,
    projects=st.dictionaries(st.sampled_from(PROJECTS[1:]), PERIODS),
    by_session=st.dictionaries(st.sampled_from(IDS), PERIODS),
)  # fmt: skip


def hold(session: str | None = None, project: str | None = None, number: int = 0) -> Hold:
    return Hold(
        id=f"hold-{number:012x}", session=session, project=project, reason="case 7",
        set_by="ada", set_at=1,
    )  # fmt: skip


HOLDS = st.lists(
    st.one_of(
        st.builds(hold, session=st.sampled_from(IDS), number=st.integers(0, 9)),
        st.builds(hold, project=st.sampled_from(PROJECTS[1:]), number=st.integers(10, 19)),
        st.builds(hold, number=st.integers(20, 29)),
    ),
    max_size=3,
    unique_by=lambda one: one.id,
)
AGES = st.integers(0, 400 * DAY)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        session=st.sampled_from(IDS),
        project=st.sampled_from(PROJECTS),
        state=st.sampled_from(["recording", "paused", "processing", "completed", "incomplete"]),
        settled_at=st.none() | AGES.map(lambda age: NOW - age),
        last_time=st.none() | AGES.map(lambda age: NOW - age),
        damage=st.sampled_from([(), ("chunk 3 is rotten",)]),
        erased=st.sampled_from([frozenset(), frozenset({"content"})]),
        waiting=st.sampled_from([{}, {"content": ["session.frames"]}]),
    ),
    unique_by=lambda one: one.session,
)


@given(CANDIDATES, POLICIES, HOLDS)
def test_nothing_is_erased_that_is_held_young_running_or_damaged(
    candidates: list[Candidate], policies: Policies, holds: list[Hold]
) -> None:
    known = {one.session: one for one in candidates}
    for row in make_plan(candidates, policies, holds, NOW).rows:
        one = known[row.session]
        assert one.state in ("completed", "incomplete")
        assert one.settled_at is not None
        if row.action == "erase":
            assert holding(holds, row.session, row.project) == []
            assert isinstance(row.rule.keep, int)
            assert row.ended + row.rule.keep * DAY == row.due <= NOW
            assert not one.damage
            assert row.stage not in one.erased
        if row.action in ("wait", "finish"):
            assert row.stage in one.erased


@given(CANDIDATES, POLICIES, HOLDS, st.randoms())
def test_a_plan_does_not_depend_on_any_order(
    candidates: list[Candidate], policies: Policies, holds: list[Hold], noise: random.Random
) -> None:
    first = make_plan(candidates, policies, holds, NOW)
    mixed, others = list(candidates), list(holds)
    noise.shuffle(mixed)
    noise.shuffle(others)
    assert make_plan(mixed, policies, others, NOW) == first


@given(POLICIES, st.sampled_from(IDS), st.sampled_from(PROJECTS))
def test_metadata_never_goes_before_content(policies: Policies, session: str, project: str) -> None:
    content, metadata = (policies.rule(stage, session, project).keep for stage in STAGES)
    if content == FOREVER:
        assert metadata == FOREVER
    assert metadata == FOREVER or int(metadata) >= int(content)


@given(st.integers(1, 365))
def test_the_boundary_is_exact(days: int) -> None:
    policies = Policies(chunks=days, sessions=FOREVER)
    one = Candidate(IDS[0], "", "completed", settled_at=NOW - days * DAY, last_time=None)
    assert [row.action for row in make_plan([one], policies, [], NOW).rows] == ["erase"]
    assert make_plan([one], policies, [], NOW - 1).rows == ()


def test_the_nearest_policy_decides_each_period_by_itself() -> None:
    policies = Policies(
        projects={"ada": Periods(chunks=7)},
        by_session={IDS[1]: Periods(sessions=FOREVER)},
    )
    rules = {
        (session, project, stage): (rule.keep, rule.scope)
        for session, project in ((IDS[0], ""), (IDS[0], "ada"), (IDS[1], "ada"))
        for stage in STAGES
        if (rule := policies.rule(stage, session, project))
    }
    assert list(rules.values()) == [
        (30, "default"), (90, "default"), (7, "project"), (90, "default"), (7, "project"),
        (FOREVER, "session"),
    ]  # fmt: skip
    longer = Policies(projects={"ada": Periods(chunks=300)})
    assert longer.rule("metadata", IDS[0], "ada").keep == 300


def test_the_end_is_the_recorders_if_the_catalog_bears_it_out() -> None:
    assert session_end(NOW, NOW - 3600) == NOW - 3600
    assert session_end(NOW, NOW - DAY) == NOW - DAY
    assert session_end(NOW, NOW - DAY - 1) == NOW, "a clock that is behind makes nothing due"
    assert session_end(NOW, NOW + 1) == NOW, "a clock that is ahead keeps nothing for ever"
    assert session_end(NOW, None) == NOW


@pytest.mark.parametrize(
    ("text", "keep"), [("1d", 1), ("365d", 365), ("forever", FOREVER), (30, 30)]
)
def test_periods_are_read(text: Any, keep: Any) -> None:
    assert TypeAdapter(Keep).validate_python(text) == keep
    assert TypeAdapter(Keep).validate_python(days_text(keep)) == keep


@pytest.mark.parametrize("text", ["", "0d", "366d", "30", "1y", "-1d", "d", "²d", "never", 0, True,
                                  1.5, None, "30dd"])  # fmt: skip
def test_other_periods_are_refused(text: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Keep).validate_python(text)


def test_a_hold_is_on_a_session_a_project_or_everything() -> None:
    on_session, on_project, on_all = (
        hold(IDS[0], number=3), hold(project="ada", number=2), hold(number=1)
    )  # fmt: skip
    assert [one.scope for one in (on_session, on_project, on_all)] == [
        f"session/{IDS[0]}", "project/ada", "everything",
    ]  # fmt: skip
    assert holding([on_session, on_project, on_all], IDS[0], "ada") == [
        on_all, on_project, on_session,
    ]  # fmt: skip
    assert holding([on_session, on_project], IDS[1], "") == []
    assert decode(Hold, encode(on_project)) == on_project
    with pytest.raises(ValidationError, match="on a session or on a project"):
        hold(IDS[0], "ada")


def test_what_was_begun_is_finished_or_waits_also_under_a_hold() -> None:
    begun = Candidate(
        IDS[0], "", "completed", settled_at=NOW, last_time=None, erased=frozenset({"content"})
    )
    plan = make_plan([begun], Policies(), [hold()], NOW)
    assert [(row.stage, row.action) for row in plan.rows] == [("content", "finish")]
    waits = Candidate(
        IDS[0], "", "completed", settled_at=NOW, last_time=None, erased=frozenset({"content"}),
        waiting={"content": ["session.frames holds it"]},
    )  # fmt: skip
    assert [row.why for row in make_plan([waits], Policies(), [], NOW).of("wait")] == [
        "session.frames holds it"
    ]
    done = Candidate(
        IDS[0], "", "completed", settled_at=NOW - 50 * DAY, last_time=None,
        erased=frozenset({"content"}), finished=frozenset({"content"}),
    )  # fmt: skip
    assert make_plan([done], Policies(), [], NOW).rows == ()


def test_rows_say_why() -> None:
    old = NOW - 100 * DAY
    held = Candidate(IDS[0], "ada", "completed", old, None, size=7)
    rotten = Candidate(IDS[1], "", "incomplete", old, None, size=8, damage=("chunk 3 is rotten",))
    plan = make_plan([rotten, held], Policies(), [hold(project="ada")], NOW)
    assert [(row.action, row.why, list(row.held_by), row.size) for row in plan.rows] == [
        ("held", "case 7", ["hold-000000000000"], 7), ("held", "case 7", ["hold-000000000000"], 0),
        ("blocked", "chunk 3 is rotten", [], 8), ("blocked", "chunk 3 is rotten", [], 0),
    ]  # fmt: skip
    assert plan.rows[0].as_json()["held_by"] == ["hold-000000000000"]
    assert plan.rows[0].as_json()["keep"] == "30d"


def test_audit_entries_have_a_period_of_their_own() -> None:
    assert audit_cutoff(Policies(), NOW) == NOW - 365 * DAY
    assert audit_cutoff(Policies(audit=FOREVER), NOW) is None
    assert due_at(NOW, FOREVER) is None
