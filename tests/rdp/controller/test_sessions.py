"""All sessions of a host: who may come in, and what a new controller finds."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from agents.platform.process_table import process_ref
from agents.rdp.controller import sessions as sessions_module
from agents.rdp.controller.errors import ControllerBusy, NoSuchDisplay, UnknownServer
from agents.rdp.controller.orders import Orders
from agents.rdp.controller.sessions import Sessions
from agents.rdp.controller.store import Store
from agents.rdp.controller.trust import Claim, Hello
from schemas.rdp_session_commands import RdpSessionCommand
from schemas.rdp_session_events import RdpCommandDone, RdpCommandRefused, RdpGateRefused
from schemas.sessions import new_session_id
from tests.rdp.controller.scene import HOST, SERVER, FakeLine, Room
from tests.waiting import until

ENDED = {"ended": 0, "code": "logged_off", "reason": "the user's programs ended"}


def hello(pid: int, **fields: Any) -> dict[str, Any]:
    return {
        "version": 1, "server": SERVER, "display": ":120", "xauthority": "/home/ada/.Xauthority",
        "user": "ada", "pid": pid, "session": None, **fields,
    }  # fmt: skip


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a gate says is so; how that is found out has tests of its own."""

    def check(said: Hello, peer: Any, servers: Any) -> Claim:
        leader, me = process_ref(peer.pid), process_ref(os.getpid())
        if leader is None or me is None or said.display == ":404":
            raise NoSuchDisplay("no such display")
        return Claim(said, peer.uid, leader, me, me)

    monkeypatch.setattr(sessions_module, "check", check)


def serve(room: Room, line: FakeLine) -> asyncio.Task[None]:
    found: Any = line
    return asyncio.create_task(room.sessions.serve(found))


@pytest.mark.usefixtures("believed")
async def test_a_gate_comes_in_works_and_leaves_no_trace(room: Room) -> None:
    leader = room.process()
    line = FakeLine(leader.pid)
    line.say(hello(leader.pid))
    serving = serve(room, line)
    await until(lambda: line.has("go") == [True])
    (desktop,) = room.sessions.desktops
    assert room.sessions.on_display(SERVER, ":120") is desktop
    line.say(ENDED)
    await until(lambda: line.has("bye"))
    room.kill(leader)
    line.say(b"")
    await serving
    await room.flush()
    await until(lambda: not room.sessions.desktops)
    assert [path.name for path in room.store.folder.glob("*-*.json")] == []
    assert room.broker.changes(desktop.session.session)[-1].state == "terminated"


@pytest.mark.usefixtures("believed")
async def test_a_second_gate_on_a_display_is_refused_and_the_first_keeps_it(room: Room) -> None:
    first, second = room.process(), room.process()
    line = FakeLine(first.pid)
    line.say(hello(first.pid))
    serving = serve(room, line)
    await until(lambda: line.has("go") == [True])
    other = FakeLine(second.pid, uid=1002)
    other.say(hello(second.pid))
    await serve(room, other)
    assert other.has("go") == [False]
    await room.flush()
    (told,) = room.broker.told(RdpGateRefused)
    assert (told.code, told.uid, told.pid) == ("DisplayTaken", 1002, second.pid)
    assert room.sessions.desktops[0].session.state == "active"
    serving.cancel()


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize(
    "said",
    [b"", b"\n", b"nonsense\n", b"[1]\n", b'{"version": 2}\n', b'{"a":' * 9000 + b"\n",
     b"\xff\xfe\n"],
)  # fmt: skip
async def test_nonsense_is_refused_and_told_of_once_in_a_while(room: Room, said: bytes) -> None:
    for _ in range(20):
        line = FakeLine(1, uid=1002)
        line.say(said)
        await serve(room, line)
        assert line.has("go") == [False]
    await room.flush()
    assert [(one.code, one.times) for one in room.broker.told(RdpGateRefused)] == [("Nonsense", 1)]
    assert room.sessions.desktops == []


@pytest.mark.usefixtures("believed")
async def test_nonsense_in_a_session_ends_its_line_only(room: Room) -> None:
    leader = room.process()
    line = FakeLine(leader.pid)
    line.say(hello(leader.pid))
    serving = serve(room, line)
    await until(lambda: line.has("go") == [True])
    line.say({"what": "is this"})
    await serving
    assert room.sessions.desktops[0].line is None


async def test_a_gate_waits_until_its_server_is_known(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def check(said: Hello, peer: Any, servers: Any) -> Claim:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise UnknownServer("not yet")
        leader, me = process_ref(peer.pid), process_ref(os.getpid())
        assert leader is not None
        assert me is not None
        return Claim(said, peer.uid, leader, me, me)

    monkeypatch.setattr(sessions_module, "check", check)
    leader = room.process()
    line = FakeLine(leader.pid)
    line.say(hello(leader.pid))
    serving = serve(room, line)
    await until(lambda: asked == 1)
    room.servers.changed.set()
    room.servers.changed = asyncio.Event()
    await until(lambda: asked == 2)
    assert line.has("alive")
    room.servers.changed.set()
    await until(lambda: line.has("go") == [True])
    serving.cancel()
    asked = -(10**9)  # however often it is asked until its patience is over
    impatient = Sessions(room.tools, HOST, known_within=0.05)
    other = FakeLine(leader.pid)
    other.say(hello(leader.pid))
    found: Any = other
    await impatient.serve(found)
    assert other.has("go") == [False]


@pytest.mark.usefixtures("believed")
async def test_two_hundred_gates_at_once_each_get_a_recording_of_their_own(room: Room) -> None:
    room.section = room.section.model_copy(update={"start_within": 30})
    room.store.close()
    room.open()
    lines = []
    for number in range(200):
        leader = room.process()
        line = FakeLine(leader.pid)
        line.say(hello(leader.pid, display=f":{1000 + number}"))
        lines.append((line, serve(room, line)))
    await until(lambda: all(line.has("go") == [True] for line, _ in lines), seconds=60)
    sessions = [one.session for one in room.sessions.desktops]
    assert len({one.recording for one in sessions}) == 200
    assert {one.state for one in sessions} == {"active"}
    for line, _ in lines:
        line.say(ENDED)
    await until(lambda: all(line.has("bye") for line, _ in lines), seconds=60)
    for one in room.processes:
        one.kill()
        one.wait()
    for line, serving in lines:
        line.say(b"")
        await serving
    await room.flush()
    assert room.sessions.desktops == []
    assert list(room.store.folder.glob("*-*.json")) == []


# -- restarts ----------------------------------------------------------------------------------


async def test_a_killed_controllers_sessions_are_adopted_by_the_next(room: Room) -> None:
    desktop, _ = await room.begun()
    room.broker.away = True
    await room.killed()
    (again,) = room.sessions.desktops
    assert again.session == desktop.session
    assert again.kept.unsent == desktop.kept.unsent
    line = room.attach(again)
    assert line.has("session") == [desktop.session.session]
    room.broker.away = False
    await room.flush()
    told = room.broker.changes(desktop.session.session)
    assert [one.seq for one in told] == [0, 1, 2]
    again.look()
    assert again.session.state == "active"


async def test_one_that_was_being_begun_is_not_recorded_twice(room: Room) -> None:
    room.broker.recorder = room.broker.silence
    desktop = room.desktop()
    room.attach(desktop)
    await until(lambda: room.broker.commands)
    await room.killed()
    room.broker.recorder = room.broker.obey
    (again,) = room.sessions.desktops
    line = room.attach(again)
    await until(lambda: line.has("go") == [True])
    starts = {one.id for one in room.broker.commands if one.action == "start"}
    assert len(starts) == 1
    assert len(again.session.recordings) == 1


async def test_a_session_that_ended_meanwhile_is_said_to_have(room: Room) -> None:
    desktop, _ = await room.begun()
    recording = desktop.session.recording
    room.kill(desktop.session.leader)
    await room.killed()
    (again,) = room.sessions.desktops
    again.look()
    await until(lambda: again.over)
    assert again.session.state == "terminated"
    assert again.session.reason == "it ended while no controller ran"
    assert room.broker.commands[-1].session == recording
    await until(lambda: again.done or again.kept.unsent)
    await room.flush()
    await until(lambda: not again._tasks)
    room.sessions._drop_if_done(again)
    assert room.sessions.desktops == []


async def test_an_end_that_was_begun_is_gone_on_with(room: Room) -> None:
    desktop, _ = await room.begun()
    desktop.end("the recording is lost", "error")
    await room.killed()
    (again,) = room.sessions.desktops
    line = room.attach(again)
    assert line.has("end") == ["the recording is lost"]
    again.take({"ended": 2, "code": "told", "reason": "x"})
    await until(lambda: again.over)
    assert (again.session.state, again.session.reason) == ("error", "the recording is lost")


async def test_after_a_boot_every_session_is_over_and_no_process_is_touched(room: Room) -> None:
    desktop, _ = await room.begun()
    room.boot = "boot-2"
    await room.killed()
    (again,) = room.sessions.desktops
    assert (again.session.state, again.session.reason) == (
        "terminated", "the machine was started again",
    )  # fmt: skip
    room.clock.pass_(1000)
    again.look()
    await asyncio.sleep(0.05)
    assert room.processes[0].poll() is None
    await room.flush()
    assert room.sessions.desktops == []
    assert room.broker.changes(desktop.session.session)[-1].state == "terminated"


async def test_a_file_that_cannot_be_read_is_put_aside(room: Room) -> None:
    desktop, _ = await room.begun()
    file = room.store.folder / f"{desktop.session.session}.json"
    file.write_bytes(file.read_bytes()[:-5])
    await room.killed()
    assert room.sessions.desktops == []
    assert file.with_suffix(".unreadable").exists()


async def test_a_writer_that_was_killed_half_way_loses_nothing(room: Room) -> None:
    desktop, _ = await room.begun()
    file = room.store.folder / f"{desktop.session.session}.json"
    file.rename(file.with_name(f".{file.name}"))
    await room.killed()
    assert [one.session for one in room.sessions.desktops] == [desktop.session]
    draft = file.with_name(f".{file.name}")
    draft.write_bytes(b"{")
    await room.killed()
    assert [one.session for one in room.sessions.desktops] == [desktop.session]
    assert not draft.exists()


async def test_a_host_has_one_controller(room: Room) -> None:
    with pytest.raises(ControllerBusy):
        Store(room.store.folder).open()


# -- commands ----------------------------------------------------------------------------------


def command(session: str, action: Any = "terminate", host: str = HOST) -> RdpSessionCommand:
    return RdpSessionCommand(
        id=str(new_session_id()), host=host, session=session, action=action, reason="enough"
    )


async def test_a_command_that_comes_twice_is_answered_twice_and_done_once(room: Room) -> None:
    desktop, line = await room.begun()
    orders = Orders(room.sessions, room.outbox, HOST)
    order = command(desktop.session.session)
    work = [asyncio.create_task(orders.carry_out(order, 0.0)) for _ in range(2)]
    await until(lambda: line.has("end") == ["enough"])
    desktop.take({"ended": 2, "code": "told", "reason": "enough"})
    await asyncio.gather(*work)
    await orders.carry_out(order, 1.0)
    await room.flush()
    answers = [one for one in room.broker.events if isinstance(one.data, RdpCommandDone)]
    assert {one.correlation for one in answers} == {order.id}
    assert [one.data.state for one in answers] == ["terminated"] * 3  # type: ignore[attr-defined]
    assert len(line.has("end")) == 1


async def test_commands_that_cannot_be_carried_out_say_why(room: Room) -> None:
    desktop, line = await room.begun()
    orders = Orders(room.sessions, room.outbox, HOST)
    await orders.carry_out(command(str(new_session_id())), 0.0)
    await orders.carry_out(command(desktop.session.session), 121.0)
    await orders.carry_out(command(desktop.session.session, "resume"), 0.0)
    await orders.carry_out(command(desktop.session.session, host="other"), 0.0)
    work = asyncio.create_task(orders.carry_out(command(desktop.session.session, "suspend"), 0.0))
    await until(lambda: line.has("suspend"))
    desktop.take({"suspended": True})
    await work
    await orders.carry_out(command(desktop.session.session, "suspend"), 0.0)
    await room.flush()
    codes = [one.code for one in room.broker.told(RdpCommandRefused)]
    assert codes == ["NoSuchSession", "StaleCommand"]
    done = [(one.action, one.state) for one in room.broker.told(RdpCommandDone)]
    assert done == [("resume", "active"), ("suspend", "suspended"), ("suspend", "suspended")]


async def test_a_recording_that_ends_by_itself_is_its_sessions(room: Room) -> None:
    desktop, line = await room.begun()
    room.sessions._recording_ended(desktop.session.recording or "", "the display went away")
    assert "has ended: the display went away" in line.has("end")[0]
