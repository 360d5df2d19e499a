"""Anything may happen to a session in any order: its states stay those of the table."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from schemas.rdp_processes import ProcessRef
from schemas.rdp_sessions import (
    CONNECTION_STEPS,
    OVER,
    SESSION_STEPS,
    Connection,
    RdpSession,
    connection_moved,
    moved,
    recorded,
)
from schemas.rdp_states import ForbiddenTransition
from schemas.sessions import new_session_id

SERVER = "01a20c5b-0000-7557-ac1e-5c3397094c1d"
ME = ProcessRef(pid=1, started=1)
NOW = 1_795_000_000_000_000
CLOCKS = st.integers(min_value=0, max_value=2 * NOW)


def new_session() -> RdpSession:
    return RdpSession(
        session=str(new_session_id()), server=SERVER, host="desk1", user="ada", uid=1,
        display=":1", leader=ME, xorg=ME, created=NOW, changed=NOW,
    )  # fmt: skip


class SessionMachine(RuleBasedStateMachine):
    """A session, told all kinds of things by a clock that jumps."""

    @initialize()
    def begin(self) -> None:
        self.session = new_session()
        self.history = [self.session]

    def step(self, after: RdpSession) -> None:
        if after is not self.session:
            self.history.append(after)
        self.session = after

    @rule(state=st.sampled_from(sorted(SESSION_STEPS)), now=CLOCKS)
    def change(self, state: str, now: int) -> None:
        allowed = state in SESSION_STEPS[self.session.state] or state == self.session.state
        if allowed:
            self.step(moved(self.session, state, "so", now))  # type: ignore[arg-type]
            assert self.session.state == state
        else:
            with pytest.raises(ForbiddenTransition):
                moved(self.session, state, "so", now)  # type: ignore[arg-type]

    @rule(now=CLOCKS)
    def record(self, now: int) -> None:
        self.step(recorded(self.session, str(new_session_id()), "so", now))

    @rule(now=CLOCKS)
    def lose(self, now: int) -> None:
        self.step(recorded(self.session, None, "so", now))

    @precondition(lambda self: self.session.recordings)
    @rule(now=CLOCKS)
    def record_the_same_again(self, now: int) -> None:
        self.step(recorded(self.session, self.session.recordings[-1], "so", now))

    @invariant()
    def numbers_and_times_only_grow(self) -> None:
        for before, after in zip(self.history, self.history[1:], strict=False):
            assert after.seq == before.seq + 1
            assert after.changed >= before.changed
            assert after.recordings[: len(before.recordings)] == before.recordings

    @invariant()
    def what_is_over_stays_and_is_not_recorded(self) -> None:
        over = [one for one in self.history if one.state in OVER]
        assert len(over) <= 1
        assert all(one.recording is None for one in over)
        assert not over or self.history[-1] is over[0]

    @invariant()
    def a_recording_is_one_of_its_recordings(self) -> None:
        assert self.session.recording in (None, *self.session.recordings)
        assert len(set(self.session.recordings)) == len(self.session.recordings)


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("before", sorted(CONNECTION_STEPS))
@pytest.mark.parametrize("after", sorted(CONNECTION_STEPS))
def test_a_connection_moves_as_the_table_says(before: str, after: str) -> None:
    one = Connection(
        connection=str(new_session_id()), server=SERVER, host="desk1", address="", process=ME,
        created=NOW, changed=NOW, state=before,  # type: ignore[arg-type]
    )  # fmt: skip
    if after == before:
        assert connection_moved(one, after, "so", 0) is one  # type: ignore[arg-type]
    elif after in CONNECTION_STEPS[before]:  # type: ignore[index]
        found = connection_moved(one, after, "so", 0, SERVER)  # type: ignore[arg-type]
        assert (found.state, found.seq, found.changed, found.session) == (after, 1, NOW, SERVER)
    else:
        with pytest.raises(ForbiddenTransition):
            connection_moved(one, after, "so", 0)  # type: ignore[arg-type]
