"""Registration: a signed challenge within its times, one key for an id, whatever comes when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.node_base import SECOND
from schemas.node_events import AlertChanged, RegistrationChanged, RegistrationRefused
from schemas.node_registration import ChallengeAnswered, ChallengeIssued
from schemas.node_signing import Purpose, check_body, sign_body
from schemas.node_states import (
    NodeRefused,
    NodeState,
    Step,
    answered,
    approve,
    calmed,
    expire,
    reject,
    requested,
)
from schemas.notes import InvalidSignature, Signer
from tests.node.factories import BEGIN, SECRET, answer_to, command, ids, request, signer

NEW = NodeState(node="desk7")
APPROVE = command("approve", node="desk7")


def challenged(at: int = BEGIN, number: int = 1) -> Step:
    return requested(NEW, request(), ids(number), at, SECRET)


def verified() -> NodeState:
    step = challenged()
    return answered(step.state, answer_to(step.events), BEGIN + SECOND).state


def states(step: Step) -> list[str]:
    return [one.state for one in step.events if isinstance(one, RegistrationChanged)]


def codes(step: Step) -> list[str]:
    return [one.code for one in step.events if isinstance(one, RegistrationRefused)]


def test_a_node_that_shows_its_key_is_verified_and_then_approved() -> None:
    step = challenged()
    assert states(step) == ["challenged"]
    (issued,) = [one for one in step.events if isinstance(one, ChallengeIssued)]
    assert (issued.answer_by, issued.decide_by) == (BEGIN + 120 * SECOND, BEGIN + 300 * SECOND)
    shown = answered(step.state, answer_to(step.events), BEGIN + 120 * SECOND)
    assert states(shown) == ["verified"]
    taken = approve(shown.state, APPROVE, BEGIN + 300 * SECOND)
    assert states(taken) == ["approved"]
    assert approve(taken.state, APPROVE, BEGIN + 400 * SECOND) == Step(taken.state)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"challenge": "00" * 32}, "AnotherChallenge"),
        ({"registration": ids(9)}, "AnotherChallenge"),
        ({"key": str(signer("other").verifier)}, "AnotherChallenge"),
        ({"signature": "A" * 86 + "=="}, "InvalidSignature"),
        ({"signature": "!" * 88}, "InvalidSignature"),
        ({"signature": "A" * 88}, "InvalidSignature"),
    ],
)
def test_a_wrong_answer_is_refused_and_leaves_the_challenge_open(
    change: dict[str, str], code: str
) -> None:
    step = challenged()
    good = answer_to(step.events)
    bad = answered(step.state, good.model_copy(update=change), BEGIN + SECOND)
    assert codes(bad) == [code]
    assert bad.state == step.state
    assert answered(bad.state, good, BEGIN + SECOND).state.state == "verified"


def test_an_answer_that_another_key_signed_is_refused() -> None:
    step = challenged()
    issued = next(one for one in step.events if isinstance(one, ChallengeIssued))
    forged = answer_to((issued,), signer("thief"))
    assert codes(answered(step.state, forged, BEGIN)) == ["AnotherChallenge"]
    lying = forged.model_copy(update={"key": str(signer().verifier)})
    assert codes(answered(step.state, lying, BEGIN)) == ["InvalidSignature"]


def test_times_are_counted_from_the_request() -> None:
    step = challenged()
    late = answered(step.state, answer_to(step.events), BEGIN + 120 * SECOND + 1)
    assert codes(late) == ["TooLate"]
    assert expire(step.state, BEGIN + 120 * SECOND).events == ()
    gone = expire(step.state, BEGIN + 120 * SECOND + 1)
    assert states(gone) == ["expired"]
    assert codes(answered(gone.state, answer_to(step.events), BEGIN)) == ["NoChallenge"]
    with pytest.raises(NodeRefused, match="300 s"):
        approve(gone.state, APPROVE, BEGIN)
    with pytest.raises(NodeRefused, match="300 s"):
        approve(verified(), APPROVE, BEGIN + 300 * SECOND + 1)


def test_an_approval_that_was_given_in_time_counts_although_it_is_read_late() -> None:
    gone = expire(verified(), BEGIN + 301 * SECOND).state
    assert gone.state == "expired"
    assert approve(gone, APPROVE, BEGIN + 299 * SECOND).state.state == "approved"


def test_an_approval_before_the_key_was_shown_is_refused() -> None:
    for state in (NEW, challenged().state, reject(verified(), APPROVE).state):
        with pytest.raises(NodeRefused, match="not shown its key"):
            approve(state, APPROVE, BEGIN)


def test_an_operator_may_pin_the_key() -> None:
    pinned = command("approve", node="desk7", key=str(signer("other").verifier))
    with pytest.raises(NodeRefused, match="another key"):
        approve(verified(), pinned, BEGIN)
    pinned = command("approve", node="desk7", key=str(signer().verifier))
    assert approve(verified(), pinned, BEGIN).state.state == "approved"


def test_nobody_else_gets_the_id_and_the_attempt_is_an_alert() -> None:
    taken = approve(verified(), APPROVE, BEGIN).state
    for state in (taken, verified(), challenged().state):
        step = requested(state, request(key=signer("thief")), ids(2), BEGIN + SECOND, SECRET)
        assert codes(step) == ["IdTaken"]
        assert step.state.registration == state.registration
        (alert,) = [one for one in step.events if isinstance(one, AlertChanged)]
        assert (alert.alert, alert.severity, alert.state) == (
            "identity_claimed", "critical", "raised",
        )  # fmt: skip
        again = requested(step.state, request(key=signer("thief")), ids(3), BEGIN + SECOND, SECRET)
        assert not [one for one in again.events if isinstance(one, AlertChanged)]
        assert calmed(again.state, BEGIN + 600 * SECOND).events == ()
        calm = calmed(again.state, BEGIN + 601 * SECOND)
        assert [one.state for one in calm.events if isinstance(one, AlertChanged)] == ["resolved"]


def test_the_same_key_may_ask_again_and_the_newest_challenge_counts() -> None:
    first = challenged()
    second = requested(first.state, request(), ids(2), BEGIN + SECOND, SECRET)
    assert states(second) == ["challenged"]
    assert codes(answered(second.state, answer_to(first.events), BEGIN)) == ["AnotherChallenge"]
    assert answered(second.state, answer_to(second.events), BEGIN).state.state == "verified"


def test_an_approved_node_that_starts_again_is_told_so_without_a_challenge() -> None:
    taken = approve(verified(), APPROVE, BEGIN).state
    step = requested(taken, request(), ids(7), BEGIN + 10**12, SECRET)
    assert states(step) == ["approved"]
    assert len(step.events) == 1
    assert step.state.registration is not None
    assert step.state.registration.id == ids(7)


def test_an_id_is_free_after_its_time_or_a_rejection() -> None:
    thief = request(key=signer("thief"))
    out = reject(approve(verified(), APPROVE, BEGIN).state, APPROVE)
    assert states(out) == ["rejected"]
    assert reject(out.state, APPROVE) == Step(out.state)
    assert states(requested(out.state, thief, ids(2), BEGIN, SECRET)) == ["challenged"]
    late = BEGIN + 121 * SECOND
    assert states(requested(challenged().state, thief, ids(2), late, SECRET)) == ["challenged"]
    with pytest.raises(NodeRefused, match="no node"):
        reject(NEW, APPROVE)


def test_challenges_differ_and_need_the_secret() -> None:
    made = {
        next(one.challenge for one in requested(NEW, request(), ids(n), BEGIN, secret).events
             if isinstance(one, ChallengeIssued))
        for n in (1, 2) for secret in (SECRET, bytes(32))
    }  # fmt: skip
    assert len(made) == 4


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    body = answer_to(challenged().events).body
    text = sign_body(signer(), Purpose.HEARTBEAT, body)
    check_body(signer().verifier, Purpose.HEARTBEAT, body, text)
    with pytest.raises(InvalidSignature, match="node-answer"):
        check_body(signer().verifier, Purpose.ANSWER, body, text)


class Registering(RuleBasedStateMachine):
    """Two keys, an operator and a clock do what they want, in any order and repeatedly."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.now, self.number = NEW, BEGIN, 0
        self.issued: list[tuple[ChallengeIssued, int]] = []
        self.shown: set[tuple[str, str]] = set()

    def take(self, step: Step) -> None:
        self.issued += [(one, self.now) for one in step.events if isinstance(one, ChallengeIssued)]
        self.state = step.state

    @rule(seconds=st.integers(0, 200))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.take(expire(self.state, self.now))

    @rule(who=st.sampled_from(["desk7", "thief"]))
    def ask(self, who: str) -> None:
        self.number += 1
        self.take(requested(
            self.state, request(key=signer(who)), ids(self.number), self.now, SECRET
        ))  # fmt: skip

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), who=st.sampled_from(["desk7", "thief"]), honest=st.booleans())
    def reply(self, data: Any, who: str, honest: bool) -> None:
        issued, at = data.draw(st.sampled_from(self.issued))
        made: ChallengeAnswered = answer_to((issued,), signer(who))
        if not honest:
            made = made.model_copy(update={"key": str(signer("desk7").verifier)})
        elif self.now <= at + 120 * SECOND:
            self.shown.add((issued.registration, str(signer(who).verifier)))
        if not honest and who == "desk7" and self.now <= at + 120 * SECOND:
            self.shown.add((issued.registration, made.key))
        self.take(answered(self.state, made, self.now))

    @rule(action=st.sampled_from(["approve", "reject"]))
    def decide(self, action: str) -> None:
        try:
            order = command(action, node="desk7")
            if action == "approve":
                before = self.state
                self.take(approve(self.state, order, self.now))
                if before.state != "approved":
                    assert before.registration is not None
                    assert self.now <= before.registration.decide_by
            else:
                self.take(reject(self.state, order))
        except NodeRefused:
            pass

    @invariant()
    def only_a_shown_key_is_in(self) -> None:
        known = self.state.registration
        if self.state.state == "verified":
            assert known is not None
            assert (known.id, known.key) in self.shown
        if self.state.state == "approved":
            assert known is not None
            assert known.key in {key for _, key in self.shown}

    @invariant()
    def nothing_stays_open_for_ever(self) -> None:
        known = self.state.registration
        if self.state.state in ("challenged", "verified"):
            assert known is not None
            assert self.now <= known.decide_by


Registering.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestRegistering = Registering.TestCase


def test_keys_of_the_factory_are_different() -> None:
    assert isinstance(signer(), Signer)
    assert signer("a").verifier != signer("b").verifier
