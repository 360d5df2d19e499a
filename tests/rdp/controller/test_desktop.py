"""One desktop: let in with its recording, ended with it, whatever happens to either."""

from __future__ import annotations

import asyncio

import pytest

from agents.rdp.controller.errors import NotCarriedOut, WrongState
from schemas.commands import RecorderCommand
from schemas.events import (
    CommandDone,
    SessionAbandoned,
    SessionClosed,
    SessionHeartbeat,
)
from schemas.rdp_session_events import RdpNoticeAnswered, RdpRecordingChanged
from schemas.sessions import new_session_id
from tests.rdp.controller.scene import HOST, Broker, Room
from tests.waiting import until


def ended(code: str = "logged_off", reason: str = "the user's programs ended") -> dict[str, object]:
    return {"ended": 0, "code": code, "reason": reason}


async def test_the_user_is_let_in_once_the_recording_runs_and_it_ends_with_the_session(
    room: Room,
) -> None:
    desktop, line = await room.begun()
    start = room.broker.commands[0]
    assert (start.action, start.display, start.host, start.owner, start.xauthority) == (
        "start", ":120", HOST, "ada", "/home/ada/.Xauthority",
    )  # fmt: skip
    assert line.sent == [{
        "go": True, "session": desktop.session.session, "notice": "", "report": 1.0,
        "require": True, "away": 60.0,
    }]  # fmt: skip
    recording = desktop.session.recording
    assert recording is not None
    assert desktop.take(ended())
    await until(lambda: desktop.over)
    await until(lambda: line.has("bye"))
    assert [(one.action, one.session) for one in room.broker.commands[1:]] == [("stop", recording)]
    assert room.broker.commands[1].reason == "the user's programs ended"
    await room.flush()
    told = room.broker.changes(desktop.session.session)
    assert [one.state for one in told] == ["creating", "creating", "active", "active", "terminated"]
    assert [one.seq for one in told] == [0, 1, 2, 3, 4]
    assert told[-1].recordings == [recording]
    recorded = [one.what for one in room.broker.told(RdpRecordingChanged)]
    assert recorded == ["started", "stopped"]


@pytest.mark.parametrize("recorder", [Broker.refuse, Broker.silence])
async def test_a_desktop_that_cannot_be_recorded_is_refused(room: Room, recorder: object) -> None:
    room.broker.recorder = recorder  # type: ignore[assignment]
    desktop = room.desktop()
    line = room.attach(desktop)
    await until(lambda: desktop.over)
    assert desktop.session.state == "error"
    assert line.has("go") == [False]
    assert "cannot be recorded" in line.has("reason")[0]
    await room.flush()
    missing = room.broker.told(RdpRecordingChanged)
    assert [(one.what, one.required) for one in missing] == [("missing", True)]
    code = "RecorderRefused" if recorder is Broker.refuse else "RecorderSilent"
    assert missing[0].code == code


async def test_one_that_need_not_be_goes_on_with_a_loud_event_and_is_tried_again(
    open_room: Room,
) -> None:
    room = open_room
    room.broker.recorder = room.broker.refuse
    desktop, line = await room.begun()
    assert line.has("go") == [True]
    assert desktop.session.recording is None
    room.broker.recorder = room.broker.obey
    desktop.look()
    assert len(room.broker.commands) == 1
    room.clock.pass_(31)
    desktop.take({"idle": 5})
    desktop.look()
    await until(lambda: desktop.session.recording is not None)
    await room.flush()
    told = room.broker.told(RdpRecordingChanged)
    assert [(one.what, one.required) for one in told] == [("missing", False), ("started", False)]
    assert desktop.session.state == "active"


@pytest.mark.parametrize("how", ["closed", "abandoned", "silent"])
async def test_a_recording_that_stands_still_ends_the_desktop(room: Room, how: str) -> None:
    desktop, line = await room.begun()
    recording = desktop.session.recording
    assert recording is not None
    heartbeat = SessionHeartbeat(session=recording, next_seq=3, raw_bytes=9)
    for _ in range(4):
        room.clock.pass_(8)
        desktop.take({"idle": 5})
        room.broker.answer(heartbeat)
        desktop.look()
    assert not line.has("end")
    if how == "closed":
        room.broker.answer(
            SessionClosed(session=recording, next_seq=3, raw_bytes=9, reason="spool full")
        )
    elif how == "abandoned":
        room.broker.answer(
            SessionAbandoned(session=recording, partition=1, offset=2, reason="silent")
        )
    else:
        room.clock.pass_(11)
        desktop.take({"idle": 5})
        desktop.look()
    assert len(line.has("end")) == 1
    assert "recording is lost" in line.has("end")[0]
    desktop.take(ended("told", line.has("end")[0]))
    await until(lambda: desktop.over)
    assert desktop.session.state == "error"
    await room.flush()
    assert [one.what for one in room.broker.told(RdpRecordingChanged)] == ["started", "lost"]
    assert room.broker.told(RdpRecordingChanged)[1].recording == recording
    assert [one.action for one in room.broker.commands] == ["start"]


async def test_silence_means_nothing_while_nothing_can_be_heard(room: Room) -> None:
    desktop, line = await room.begun()
    for _ in range(10):
        room.clock.pass_(9)
        room.recordings.deaf()
        desktop.take({"idle": 5})
        desktop.look()
    assert not line.has("end")
    assert desktop.session.state == "active"


async def test_a_recording_that_begins_too_late_is_stopped_again(room: Room) -> None:
    late: list[RecorderCommand] = []

    def slow(command: RecorderCommand) -> None:
        late.append(command)

    room.broker.recorder = slow
    desktop = room.desktop()
    room.attach(desktop)
    await until(lambda: desktop.over)
    room.broker.recorder = room.broker.obey
    recording = str(new_session_id())
    room.broker.answer(CommandDone(action="start", host=HOST, session=recording), late[0].id)
    await until(lambda: [one.session for one in room.broker.commands if one.action == "stop"])
    assert room.broker.commands[-1].session == recording
    assert {one.id for one in late} == {late[0].id}


async def test_the_state_follows_the_input_and_the_clock_on_the_wall_does_not_matter(
    room: Room,
) -> None:
    desktop, _ = await room.begun()
    room.clock.micros -= 10**15
    before = desktop.session.changed
    desktop.take({"idle": 59_999})
    assert desktop.session.state == "active"
    desktop.take({"idle": 60_000})
    assert desktop.session.state == "idle"
    assert desktop.session.changed == before
    room.clock.micros += 2 * 10**15
    desktop.take({"idle": 10})
    assert desktop.session.state == "active"
    desktop.take({"idle": None})
    desktop.look()
    assert desktop.session.state == "active"


async def test_a_desktop_that_no_client_shows_for_long_is_ended(room: Room) -> None:
    desktop, line = await room.begun()
    recording = desktop.session.recording
    assert recording is not None
    desktop.shown_to(1)
    room.clock.pass_(10_000)
    room.recordings.deaf()
    desktop.take({"idle": 5})
    desktop.look()
    assert not line.has("end")
    desktop.shown_to(0)
    for wait, end in ((599, 0), (2, 1)):
        room.clock.pass_(wait)
        room.recordings.deaf()
        desktop.take({"idle": 5})
        desktop.look()
        assert len(line.has("end")) == end
    desktop.take(ended("told"))
    await until(lambda: desktop.over)
    assert (desktop.session.state, desktop.session.reason) == ("terminated", "no client for 600 s")


async def test_suspending_waits_for_the_gate_and_changes_nothing_twice(room: Room) -> None:
    desktop, line = await room.begun()
    work = asyncio.create_task(desktop.suspend(True, "lunch"))
    await until(lambda: line.has("suspend") == [True])
    desktop.take({"suspended": True})
    await work
    assert (desktop.session.state, desktop.session.reason) == ("suspended", "lunch")
    await desktop.suspend(True, "again")
    desktop.take({"idle": 70_000})
    assert desktop.session.state == "suspended"
    work = asyncio.create_task(desktop.suspend(False, "back"))
    await until(lambda: line.has("suspend") == [True, False])
    desktop.take({"suspended": False})
    await work
    assert desktop.session.state == "active"
    assert line.has("suspend") == [True, False]
    desktop.end("enough")
    with pytest.raises(WrongState, match="being ended"):
        await desktop.suspend(True, "late")


async def test_a_gate_that_does_not_suspend_is_said_to(room: Room) -> None:
    room.section = room.section.model_copy(update={"gate_within": 0.05})
    room.store.close()
    room.open()
    desktop, _ = await room.begun()
    with pytest.raises(NotCarriedOut, match="does not answer"):
        await desktop.suspend(True, "lunch")
    assert desktop.session.state == "active"


async def test_a_session_that_does_not_end_is_killed(room: Room) -> None:
    desktop, line = await room.begun()
    desktop.end("enough")
    desktop.end("another reason")
    room.clock.pass_(4)
    desktop.take({"idle": 5})
    desktop.look()
    assert not desktop.over
    room.clock.pass_(2)
    desktop.take({"idle": 5})
    desktop.look()
    await until(lambda: room.processes[0].poll() is not None)
    await until(lambda: room.processes[1].poll() is not None)
    assert (desktop.session.state, desktop.session.reason) == ("terminated", "enough")
    assert [one.action for one in room.broker.commands] == ["start", "stop"]
    assert line.has("end") == ["enough"]


@pytest.mark.parametrize("how", ["killed", "stopped", "silent"])
async def test_a_gate_that_is_gone_takes_its_session_with_it(room: Room, how: str) -> None:
    desktop, line = await room.begun()
    if how == "killed":
        room.kill(desktop.session.leader)
        desktop.lost(line)  # type: ignore[arg-type]
    elif how == "stopped":
        room.clock.pass_(9)
        desktop.look()
    else:
        desktop.lost(line)  # type: ignore[arg-type]
        desktop.look()
        assert not desktop.over
        room.clock.pass_(5.1)
        desktop.look()
    await until(lambda: desktop.over)
    assert desktop.session.state == "error"
    assert "gate" in desktop.session.reason
    await until(lambda: room.processes[1].poll() is not None)
    assert room.broker.commands[-1].action == "stop"


async def test_a_gate_that_comes_back_keeps_its_session(room: Room) -> None:
    desktop, line = await room.begun()
    desktop.lost(line)  # type: ignore[arg-type]
    room.clock.pass_(4)
    again = room.attach(desktop)
    assert again.has("session") == [desktop.session.session]
    desktop.lost(line)  # type: ignore[arg-type]
    room.clock.pass_(2)
    desktop.take({"idle": 1})
    desktop.look()
    assert desktop.session.state == "active"
    assert len(room.broker.commands) == 1


@pytest.mark.parametrize(
    ("code", "state"),
    [("logged_off", "terminated"), ("notice", "terminated"), ("x_gone", "error"),
     ("signal", "error"), ("no_program", "error"), ("away", "error")],
)  # fmt: skip
async def test_an_end_that_nobody_wanted_is_an_error(room: Room, code: str, state: str) -> None:
    desktop, _ = await room.begun()
    assert desktop.take(ended(code, "that is why"))
    await until(lambda: desktop.over)
    assert (desktop.session.state, desktop.session.reason) == (state, "that is why")


async def test_the_answer_to_the_notice_is_told(room: Room) -> None:
    desktop, _ = await room.begun()
    assert desktop.take({"notice": "declined"})
    await room.flush()
    answers = room.broker.told(RdpNoticeAnswered)
    assert [(one.user, one.answer) for one in answers] == [("ada", "declined")]


@pytest.mark.parametrize(
    "message",
    [{}, {"idle": -1}, {"idle": "5"}, {"idle": 2**32}, {"notice": "maybe"}, {"ended": 1},
     {"ended": "0", "code": "told", "reason": ""}, {"suspended": 1}, {"go": True}],
)  # fmt: skip
async def test_what_no_gate_says_changes_nothing(room: Room, message: dict[str, object]) -> None:
    desktop, _ = await room.begun()
    before = desktop.session
    assert not desktop.take(message)
    assert desktop.session == before


async def test_a_session_that_ends_while_its_recording_begins_leaves_none(room: Room) -> None:
    held: list[RecorderCommand] = []
    room.broker.recorder = lambda command: held.append(command)  # type: ignore[func-returns-value]
    desktop = room.desktop()
    line = room.attach(desktop)
    await until(lambda: held)
    desktop.end("never mind")
    assert line.has("end") == ["never mind"]
    room.broker.recorder = room.broker.obey
    desktop.take(ended("told", "never mind"))
    await until(lambda: desktop.over)
    recording = str(new_session_id())
    room.broker.answer(CommandDone(action="start", host=HOST, session=recording), held[0].id)
    await until(lambda: room.broker.commands[-1].session == recording)
    assert room.broker.commands[-1].action == "stop"
    assert line.has("go") == []


async def test_nobody_comes_back_to_a_desktop_without_its_session_manager(room: Room) -> None:
    desktop, line = await room.begun()
    sesman = room.process()
    desktop._keep(sesman=sesman)
    room.kill(sesman)
    desktop.shown_to(1)
    desktop.look()
    assert not line.has("end")
    desktop.shown_to(0)
    desktop.look()
    assert "session manager is gone" in line.has("end")[0]
    desktop.take(ended("told"))
    await until(lambda: desktop.over)
    assert desktop.session.state == "error"
