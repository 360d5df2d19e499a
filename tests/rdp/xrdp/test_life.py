"""What is to be done next with a server's processes, whatever has happened to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.rdp.xrdp.keeper import boot_id, load_life
from agents.rdp.xrdp.life import (
    SECOND,
    Life,
    LifeLimits,
    Seen,
    Trouble,
    after_trouble,
    backoff,
    change_of,
    moved,
    next_step,
)
from schemas.canonical import encode
from schemas.rdp_config import Desired, DesiredServer, ServerConfig
from schemas.rdp_processes import ProcessRef, ServerPids
from schemas.rdp_states import PROCESS_STEPS, ForbiddenTransition
from schemas.sessions import new_session_id

SERVER = str(new_session_id())
LIMITS = LifeLimits(restarts=2, failures=3, steady=60 * SECOND)
ALIVE, GONE = Seen(True, True, 0, 100), Seen(False, False, 0, 100)


def wanted(version: int = 1, desired: Desired = "running", **fields: object) -> DesiredServer:
    return DesiredServer(**{
        "server": SERVER, "name": "desk", "host": "desk", "version": version, "desired": desired,
        "restarts": 0, "port": 13389, "config": ServerConfig(), **fields,
    })  # fmt: skip


def life(**fields: object) -> Life:
    base = Life(server=SERVER, applied=wanted(), heard=1, state="running")
    return base.model_copy(update=fields)


def test_a_running_server_is_left_alone_until_something_happens() -> None:
    assert next_step(life(), wanted(), ALIVE, LIMITS) == "nothing"
    assert next_step(life(), wanted(2), ALIVE, LIMITS) == "report"
    assert next_step(life(), wanted(2, restarts=1), ALIVE, LIMITS) == "start"
    assert next_step(life(), wanted(2, port=13390), ALIVE, LIMITS) == "start"
    assert next_step(life(), wanted(2, "stopped"), ALIVE, LIMITS) == "stop"
    assert next_step(life(), wanted(2, "deleted"), ALIVE, LIMITS) == "remove"
    assert next_step(life(), None, ALIVE, LIMITS) == "remove"
    for seen in (GONE, Seen(True, False, 0, 1), Seen(False, True, 0, 1), Seen(True, True, 3, 1)):
        assert next_step(life(), wanted(), seen, LIMITS) == "restart"
    assert next_step(life(), wanted(), Seen(True, True, 2, 1), LIMITS) == "nothing"


def test_a_killed_room_finds_its_step_again() -> None:
    assert next_step(life(state="starting"), wanted(), ALIVE, LIMITS) == "start"
    assert next_step(life(state="stopping"), wanted(), ALIVE, LIMITS) == "stop"
    assert next_step(life(applied=None), wanted(), ALIVE, LIMITS) == "start"
    assert next_step(life(state="stopped"), wanted(1, "stopped"), ALIVE, LIMITS) == "stop"
    assert next_step(life(state="stopped"), wanted(1, "stopped"), GONE, LIMITS) == "nothing"
    assert next_step(life(state="stopped"), wanted(2, "stopped"), GONE, LIMITS) == "stop"


def test_restarts_wait_and_a_failed_server_waits_for_news() -> None:
    waiting = life(state="restarting", next_try=200)
    assert next_step(waiting, wanted(), Seen(False, False, 0, 199), LIMITS) == "nothing"
    assert next_step(waiting, wanted(), Seen(False, False, 0, 200), LIMITS) == "start"
    failed = life(state="failed")
    assert next_step(failed, wanted(), GONE, LIMITS) == "nothing"
    assert next_step(failed, wanted(2), GONE, LIMITS) == "start"
    assert next_step(failed, wanted(1, "stopped"), GONE, LIMITS) == "nothing"


def test_attempts_count_until_a_steady_run() -> None:
    trouble = Trouble("ProcessGone", "xrdp ended")
    first = after_trouble(life(since=0), 10, LIMITS, 5, trouble)
    assert (first.state, first.attempt, first.next_try, first.code) == (
        "restarting", 1, 15, "ProcessGone",
    )  # fmt: skip
    later = first.model_copy(update={"state": "running", "since": 20, "attempt": 2})
    assert after_trouble(later, 30, LIMITS, 5, trouble).state == "failed"
    steady = after_trouble(later, 20 + LIMITS.steady, LIMITS, 5, trouble)
    assert (steady.state, steady.attempt) == ("restarting", 1)
    final = after_trouble(
        life(state="starting"), 10, LIMITS, 5, Trouble("PortInUse", "taken", final=True)
    )
    assert (final.state, final.reason) == ("failed", "taken")


def test_pauses_double_up_to_a_limit() -> None:
    assert [backoff(number, 1, 10) for number in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff(10_000, 1, 10) == 10


def test_sequence_numbers_rise_also_when_the_clock_jumps() -> None:
    one = moved(life(state="stopped", seq=1000), "starting", 500)
    assert (one.seq, one.since) == (1001, 500)
    two = moved(one, "running", 2_000_000)
    assert two.seq == 2_000_000
    with pytest.raises(ForbiddenTransition):
        moved(two, "starting", 3_000_000)
    told = change_of(two, "desk", 13389, "/x")
    assert (told.seq, told.state, told.version) == (2_000_000, "running", 1)


def test_a_state_file_of_another_boot_or_server_has_no_pids(tmp_path: Path) -> None:
    pids = ServerPids(xrdp=ProcessRef(pid=1, started=1))
    assert load_life(tmp_path, SERVER) == Life(server=SERVER)
    here = life(pids=pids, boot=boot_id())
    for written, read in (
        (encode(here), here),
        (encode(here.model_copy(update={"boot": "then"})),
         here.model_copy(update={"boot": "then", "pids": ServerPids()})),
        (encode(here.model_copy(update={"server": str(new_session_id())})), Life(server=SERVER)),
        (b"{}", Life(server=SERVER)),
        (b"\xff", Life(server=SERVER)),
    ):  # fmt: skip
        (tmp_path / "state.json").write_bytes(written)
        assert load_life(tmp_path, SERVER) == read


class Room(RuleBasedStateMachine):
    """A host on which anything may die at any moment, and a keeper that takes one step."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(server=SERVER)
        self.wanted = wanted()
        self.xrdp = self.sesman = False
        self.failures, self.now, self.quiet = 0, 1, 0

    @rule(desired=st.sampled_from(["running", "stopped"]), again=st.booleans())
    def want(self, desired: Desired, again: bool) -> None:
        self.quiet = 0
        self.wanted = self.wanted.model_copy(update={
            "version": self.wanted.version + 1, "desired": desired,
            "restarts": self.wanted.restarts + again,
        })  # fmt: skip

    @rule(which=st.sampled_from(["xrdp", "sesman"]))
    def die(self, which: str) -> None:
        self.quiet = 0
        setattr(self, which, False)

    @precondition(lambda self: self.xrdp)
    @rule()
    def hang(self) -> None:
        self.quiet = 0
        self.failures = LIMITS.failures

    @rule(lucky=st.booleans())
    def step(self, lucky: bool) -> None:
        self.take_step(lucky)

    @rule()
    def rest(self) -> None:
        """Nothing happens for a while, and every start succeeds."""
        for _ in range(8):
            self.take_step(True)
        self.quiet = 1

    def take_step(self, lucky: bool) -> None:
        self.now += 100 * SECOND
        seen = Seen(self.xrdp, self.sesman, self.failures, self.now)
        before = self.life
        step = next_step(self.life, self.wanted, seen, LIMITS)
        if step == "start":
            self.start(lucky)
        elif step == "restart":
            self.xrdp, self.failures = False, 0
            self.trouble()
        elif step == "stop":
            if self.life.state == "stopped":
                self.move("starting")
            self.move("stopping")
            self.xrdp = self.sesman = False
            self.life = self.life.model_copy(update={"heard": self.wanted.version, "attempt": 0})
            self.move("stopped")
        elif step == "report":
            self.life = self.life.model_copy(update={"heard": self.wanted.version})
            self.move(self.life.state)
        assert self.life.seq > before.seq or self.life == before

    def start(self, lucky: bool) -> None:
        if self.life.state in ("running", "restarting") and (
            self.life.applied is None or self.life.applied.restarts != self.wanted.restarts
        ):
            self.move("stopping")
            self.xrdp = self.sesman = False
            self.move("stopped")
        news = self.wanted.version > self.life.heard
        self.life = self.life.model_copy(update={
            "heard": self.wanted.version, "attempt": 0 if news else self.life.attempt,
            "applied": self.wanted,
        })  # fmt: skip
        self.move("starting")
        if lucky:
            self.xrdp = self.sesman = True
            self.failures = 0
            self.move("running")
        else:
            self.trouble()

    def trouble(self) -> None:
        self.life = after_trouble(self.life, self.now, LIMITS, SECOND, Trouble("X", "x"))
        if self.life.state == "failed":
            self.xrdp = self.sesman = False

    def move(self, state: str) -> None:
        assert state == self.life.state or state in PROCESS_STEPS[self.life.state]
        self.life = moved(self.life, state, self.now)  # type: ignore[arg-type]

    @invariant()
    def left_alone_it_becomes_what_it_shall_be(self) -> None:
        if not self.quiet:
            return
        if self.wanted.desired == "stopped":
            assert self.life.state == "stopped"
            assert not self.xrdp
            assert not self.sesman
        elif self.life.state != "failed":
            assert self.life.state == "running"
            assert self.xrdp
            assert self.sesman
        assert self.life.heard == self.wanted.version

    @invariant()
    def a_failed_server_runs_nothing(self) -> None:
        if self.life.state == "failed":
            assert not self.xrdp
            assert not self.sesman


TestRoom = Room.TestCase
TestRoom.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
