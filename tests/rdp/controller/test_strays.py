"""Recordings that nobody waits for are stopped, and keep no display from the next one."""

from __future__ import annotations

import asyncio

import pytest

from agents.rdp.controller import recordings
from schemas.events import CommandDone, SessionHeartbeat
from schemas.sessions import new_session_id
from tests.rdp.controller.scene import HOST, Room
from tests.waiting import until


def actions(room: Room) -> list[tuple[str, str | None]]:
    return [(one.action, one.session) for one in room.broker.commands]


async def test_a_recorder_that_carries_a_command_out_anew_is_told_to_stop(room: Room) -> None:
    """It was killed before it had committed the command, and forgot what it had done."""
    desktop, _ = await room.begun()
    recording, command = desktop.session.recording, room.broker.commands[0].id
    assert recording is not None
    # The same answer twice is only that.
    room.broker.answer(CommandDone(action="start", host=HOST, session=recording), command)
    other = str(new_session_id())
    room.broker.answer(CommandDone(action="start", host=HOST, session=other), command)
    await until(lambda: len(room.broker.commands) == 2)
    assert actions(room) == [("start", None), ("stop", other)]
    assert desktop.session.recording == recording


async def test_a_start_that_was_given_up_is_stopped_each_time_it_is_carried_out(
    open_room: Room,
) -> None:
    """A recorder that is killed twice before it commits carries the command out twice."""
    room = open_room
    room.broker.recorder = room.broker.silence
    await room.begun()
    command = room.broker.commands[0].id
    late = [str(new_session_id()), str(new_session_id())]
    for one in late:
        room.broker.commands.clear()
        room.broker.answer(CommandDone(action="start", host=HOST, session=one), command)
        await until(lambda: room.broker.commands)
        assert actions(room)[0] == ("stop", one)


async def test_a_stop_that_nobody_heard_is_sent_again_once_there_is_a_sign(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "STOP_SECONDS", 0.1)
    await room.begun()
    other, command = str(new_session_id()), room.broker.commands[0].id
    room.broker.recorder = room.broker.silence
    room.broker.answer(CommandDone(action="start", host=HOST, session=other), command)
    await until(lambda: other in room.recordings._lost)
    room.broker.commands.clear()
    room.broker.recorder = room.broker.obey
    room.broker.answer(SessionHeartbeat(session=other, next_seq=3, raw_bytes=9))
    await until(lambda: room.broker.commands)
    assert actions(room) == [("stop", other)]


async def test_a_recording_of_somebody_elses_is_left_alone(room: Room) -> None:
    await room.begun()
    done = CommandDone(action="start", host=HOST, session=str(new_session_id()))
    room.broker.answer(done, str(new_session_id()))
    await asyncio.sleep(0)
    assert actions(room) == [("start", None)]


async def test_a_lost_recording_that_goes_on_is_stopped_and_the_desktop_gets_another(
    open_room: Room,
) -> None:
    room = open_room
    desktop, _ = await room.begun()
    lost = desktop.session.recording
    assert lost is not None
    room.clock.pass_(11)
    desktop.take({"idle": 5})
    desktop.look()
    assert desktop.session.recording is None
    # Its recorder had only stood still.
    room.broker.answer(SessionHeartbeat(session=lost, next_seq=3, raw_bytes=9))
    room.broker.answer(SessionHeartbeat(session=lost, next_seq=4, raw_bytes=9))
    await until(lambda: len(room.broker.commands) == 2)
    assert actions(room) == [("start", None), ("stop", lost)]
    room.clock.pass_(31)
    desktop.take({"idle": 5})
    desktop.look()
    await until(lambda: desktop.session.recording is not None)
    assert desktop.session.recordings == [lost, desktop.session.recording]


async def test_what_is_remembered_of_old_commands_has_a_bound(room: Room) -> None:
    for number in range(recordings.REMEMBERED + 5):
        room.recordings.lose(str(number))
    assert len(room.recordings._lost) == recordings.REMEMBERED
    assert "4" not in room.recordings._lost
