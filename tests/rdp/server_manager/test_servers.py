"""What commands, process events and time make of a server, in any order."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agents.rdp.server_manager.record import ServerRecord, read_record
from agents.rdp.server_manager.servers import (
    ServerBusy,
    ServerDeleted,
    configured,
    created,
    followed,
    ordered,
    overdue,
    without_port,
)
from schemas.canonical import InvalidModel
from schemas.errors import LucidError
from schemas.rdp_commands import ServerAction, ServerCommand
from schemas.rdp_config import ServerConfig
from schemas.rdp_processes import ProcessChanged, ServerPids
from schemas.rdp_states import HOLDS_NO_PORT, SERVER_STEPS, SETTLED, ProcessState
from schemas.sessions import new_session_id

SERVER = str(new_session_id())
TRIES = 3


def command(action: ServerAction, **fields: Any) -> ServerCommand:
    if action == "create":
        fields = {"name": "desk", "config": ServerConfig(), **fields}
    return ServerCommand(id=str(new_session_id()), action=action, server=SERVER, **fields)


def change(
    record: ServerRecord, state: ProcessState, *, version: int | None = None, **fields: Any
) -> ProcessChanged:
    return ProcessChanged(**{
        "server": SERVER, "host": record.host, "seq": record.seq + 1,
        "version": record.config_version if version is None else version,
        "restarts": record.restarts, "state": state, "pids": ServerPids(), "attempt": 0,
        "port": record.port or record.last_port or 1, **fields,
    })  # fmt: skip


def told(record: ServerRecord, kind: str) -> list[dict[str, Any]]:
    return [one.data for one in record.outbox if one.kind == kind]


def running(**fields: Any) -> ServerRecord:
    record = configured(created(command("create", **fields), "desk", 1), 13389, 2)
    return followed(record, change(record, "running"), TRIES, 3)


def test_a_created_server_goes_its_way_and_answers_when_it_runs() -> None:
    order = command("create", owner="ada")
    record = created(order, "desk", 1)
    assert (record.state, record.needs_port, record.host) == ("creating", True, "desk")
    record = configured(record, 13389, 2)
    assert record.state == "starting"
    assert not told(record, "done")
    (wish,) = told(record, "config")
    assert (wish["desired"], wish["version"], wish["port"]) == ("running", 1, 13389)
    record = followed(record, change(record, "starting"), TRIES, 3)
    record = followed(record, change(record, "running"), TRIES, 4)
    assert record.state == "running"
    assert [one["state"] for one in told(record, "changed")] == [
        "creating", "configuring", "starting", "running",
    ]  # fmt: skip
    assert [one["version"] for one in told(record, "changed")] == [1, 2, 3, 4]
    (done,) = told(record, "done")
    assert (done["state"], done["port"]) == ("running", 13389)
    assert [one.correlation for one in record.outbox if one.kind == "done"] == [order.id]


def test_an_older_event_and_one_of_another_host_or_version_changes_no_state() -> None:
    record = running()
    assert followed(record, change(record, "failed", seq=record.seq), TRIES, 9) is record
    assert followed(record, change(record, "failed", host="other"), TRIES, 9) is record
    old = followed(record, change(record, "failed", version=0), TRIES, 9)
    assert (old.state, old.outbox) == (record.state, record.outbox)


def test_a_command_that_comes_twice_is_answered_twice_and_done_once() -> None:
    record, order = running(), command("stop")
    record = ordered(record, order, 5)
    assert ordered(record, order, 6) is record
    assert len(told(record, "config")) == 2
    record = followed(record, change(record, "stopped"), TRIES, 7)
    assert (record.state, record.port) == ("stopped", 13389)
    again = ordered(record, order, 8)
    assert len(told(again, "done")) == len(told(record, "done")) + 1
    assert again.config_version == record.config_version


def test_stop_start_and_restart() -> None:
    record = ordered(running(), command("stop"), 5)
    assert told(record, "config")[-1]["desired"] == "stopped"
    record = followed(record, change(record, "stopped"), TRIES, 6)
    assert len(told(ordered(record, command("stop"), 7), "done")) == 3
    record = ordered(record, command("start"), 8)
    record = followed(record, change(record, "running"), TRIES, 9)
    record = ordered(record, command("restart"), 10)
    assert (record.state, record.restarts) == ("starting", 1)
    assert told(record, "config")[-1]["restarts"] == 1
    # What the room said before it knew of the restart does not answer it.
    before = followed(record, change(record, "running", version=3), TRIES, 11)
    assert before.state == "starting"
    after = followed(before, change(before, "running"), TRIES, 12)
    assert (after.state, after.waiting) == ("running", [])
    assert len(told(ordered(after, command("start"), 13), "done")) == 5


def test_start_while_it_stops_supersedes_the_stop() -> None:
    record = ordered(running(), command("stop"), 5)
    record = ordered(record, command("start"), 6)
    record = followed(record, change(record, "stopped", version=2), TRIES, 7)
    assert record.state == "starting"
    record = followed(record, change(record, "running"), TRIES, 8)
    assert record.state == "running"
    (refused,) = told(record, "refused")
    assert (refused["action"], refused["code"]) == ("stop", "Superseded")


def test_maintenance_is_left_by_start_or_stop() -> None:
    record = ordered(running(), command("maintain"), 5)
    record = followed(record, change(record, "stopped"), TRIES, 6)
    assert record.state == "maintenance"
    assert ordered(record, command("maintain"), 7).state == "maintenance"
    assert ordered(record, command("stop"), 7).state == "stopped"
    assert ordered(record, command("start"), 7).state == "starting"
    stopped = ordered(record, command("stop"), 7)
    assert ordered(stopped, command("maintain"), 8).state == "maintenance"


def test_an_occupied_port_is_given_back_and_another_one_is_tried() -> None:
    record = configured(created(command("create"), "desk", 1), 13389, 2)
    for number in range(1, TRIES):
        record = followed(
            record, change(record, "failed", code="PortInUse", reason="taken"), TRIES, 3
        )
        assert (record.state, record.needs_port) == ("configuring", True)
        assert record.tried[-1] == 13388 + number
        record = configured(record, 13389 + number, 4)
    record = followed(record, change(record, "failed", code="PortInUse", reason="taken"), TRIES, 5)
    assert (record.state, record.code, record.port) == ("failed", "PortInUse", None)
    assert [one["port"] for one in told(record, "release")] == [13389, 13390, 13391]
    assert told(record, "refused")[0]["code"] == "PortInUse"


def test_a_port_that_was_asked_for_is_not_changed() -> None:
    record = configured(created(command("create", port=13400), "desk", 1), 13400, 2)
    record = followed(record, change(record, "failed", code="PortInUse", reason="t"), TRIES, 3)
    assert (record.state, record.port) == ("failed", None)


def test_a_failed_server_gives_its_port_back_and_can_be_started_again() -> None:
    record = running()
    record = followed(record, change(record, "restarting", code="ProcessGone"), TRIES, 5)
    assert (record.state, record.code) == ("starting", "ProcessGone")
    record = followed(record, change(record, "failed", code="NotReady", reason="no"), TRIES, 6)
    assert (record.state, record.goal, record.port) == ("failed", "stopped", None)
    # Nobody starts it by himself, also a room that begins anew.
    assert told(record, "config")[-1]["desired"] == "stopped"
    record = followed(record, change(record, "stopped"), TRIES, 7)
    assert record.state == "failed"
    assert len(told(ordered(record, command("stop"), 8), "done")) == 2
    assert ordered(record, command("maintain"), 8).state == "maintenance"
    record = ordered(record, command("start"), 8)
    assert (record.state, record.needs_port) == ("configuring", True)
    with pytest.raises(ServerBusy):
        ordered(record, command("restart"), 9)
    assert ordered(record, command("delete"), 9).state == "stopping"
    assert configured(record, 13400, 9).port == 13400


def test_no_port_fails_the_server() -> None:
    record = without_port(created(command("create"), "desk", 1), LucidError("none"), 2)
    assert (record.state, record.code) == ("failed", "LucidError")
    assert told(record, "config") == []
    assert told(record, "refused")[0]["reason"] == "none"


def test_a_deleted_server_gives_everything_back_and_stays_deleted() -> None:
    record = ordered(running(), command("delete"), 5)
    assert ordered(record, second := command("delete"), 6).waiting[-1].command == second.id
    with pytest.raises(ServerDeleted):
        ordered(record, command("start"), 6)
    record = followed(record, change(record, "stopped"), TRIES, 7)
    assert (record.state, record.port) == ("deleted", None)
    assert [one.kind for one in record.outbox][-5:] == [
        "release", "changed", "done", "tombstone", "forget",
    ]  # fmt: skip
    with pytest.raises(ServerDeleted):
        ordered(record, command("start"), 8)
    assert len(told(ordered(record, command("delete"), 8), "done")) == 3


def test_a_server_that_no_room_knows_of_is_deleted_at_once() -> None:
    record = ordered(created(command("create"), "desk", 1), command("delete"), 2)
    assert record.state == "deleted"
    assert told(record, "refused")[0]["code"] == "Superseded"


def test_a_stop_that_fails_is_a_failure() -> None:
    record = ordered(running(), command("stop"), 5)
    record = followed(record, change(record, "failed", code="NotReady", reason="x"), TRIES, 6)
    assert record.state == "failed"
    assert told(record, "refused")[0]["code"] == "NotReady"


def test_a_late_answer_is_told_of_and_the_server_still_becomes_what_it_shall() -> None:
    record = configured(created(command("create"), "desk", 1), 13389, 2)
    assert overdue(record, 100, 101) is record
    late = overdue(record, 100, 102)
    assert told(late, "refused")[0]["code"] == "NoAnswer"
    assert overdue(late, 100, 500) is late
    assert followed(late, change(late, "running"), TRIES, 600).state == "running"


def test_a_document_is_read_as_it_was_written_or_refused() -> None:
    record = ordered(running(), command("stop"), 5)
    document = {"_id": SERVER, "version": 4, **record.model_dump(mode="json")}
    assert read_record(document) == record
    with pytest.raises(InvalidModel):
        read_record({**document, "state": "odd"})


class Manager(RuleBasedStateMachine):
    """A manager and a room that get commands and each other's news late, twice, or never."""

    @initialize(port=st.sampled_from([None, 13389]))
    def create(self, port: int | None) -> None:
        self.record = created(command("create", port=port), "desk", 1)
        self.now, self.port = 1, 13388
        self.seq = 0
        self.sent: list[ServerCommand] = []
        self.news: list[ProcessChanged] = []
        self.before: ServerRecord = self.record

    def take(self, record: ServerRecord) -> None:
        self.now += 1
        if record.outbox != self.before.outbox:
            # Told and taken out, as the manager does.
            self.check_told(record)
        self.before = self.record = record.model_copy(update={"outbox": []})

    def check_told(self, record: ServerRecord) -> None:
        states = [one["state"] for one in told(record, "changed")]
        last = self.record.state
        for state in states:
            assert state == last or state in SERVER_STEPS[last]
            last = state
        assert last == record.state
        for wish in told(record, "config"):
            assert wish["version"] > self.record.config_version

    @rule(lucky=st.booleans())
    def configure(self, lucky: bool) -> None:
        if self.record.needs_port:
            self.port += 1
            self.take(
                configured(self.record, self.port, self.now) if lucky
                else without_port(self.record, LucidError("no port"), self.now)
            )  # fmt: skip

    @rule(action=st.sampled_from(["start", "stop", "restart", "maintain", "delete"]))
    def order(self, action: ServerAction) -> None:
        one = command(action)
        self.sent.append(one)
        self.obey(one)

    @rule(data=st.data())
    def order_again(self, data: st.DataObject) -> None:
        if self.sent:
            self.obey(data.draw(st.sampled_from(self.sent)))

    def obey(self, one: ServerCommand) -> None:
        with contextlib.suppress(ServerDeleted, ServerBusy):
            self.take(ordered(self.record, one, self.now))

    @rule(
        state=st.sampled_from(["stopped", "starting", "running", "stopping", "failed"]),
        behind=st.integers(0, 2), code=st.sampled_from(["", "PortInUse", "NotReady"]),
    )  # fmt: skip
    def room_says(self, state: ProcessState, behind: int, code: str) -> None:
        self.seq += 1
        version = max(0, self.record.config_version - behind)
        one = change(self.record, state, version=version, seq=self.seq, code=code)
        self.news.append(one)
        self.take(followed(self.record, one, TRIES, self.now))

    @rule(data=st.data())
    def old_news(self, data: st.DataObject) -> None:
        if self.news:
            one = data.draw(st.sampled_from(self.news))
            assert followed(self.record, one, TRIES, self.now) is self.record

    @rule()
    def late(self) -> None:
        self.take(overdue(self.record, 0, self.now + 1))

    @invariant()
    def a_port_is_there_when_it_has_to_be(self) -> None:
        record = self.record
        if record.state in HOLDS_NO_PORT:
            assert record.port is None
        if record.state in ("starting", "running"):
            assert record.port is not None

    @invariant()
    def nobody_waits_for_a_server_that_stays_as_it_is(self) -> None:
        if self.record.state in SETTLED:
            assert self.record.waiting == []

    @invariant()
    def goals_and_states_agree(self) -> None:
        record = self.record
        if record.state == "running":
            assert record.goal == "running"
        if record.state == "deleted":
            assert record.goal == "deleted"


TestManager = Manager.TestCase
TestManager.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
