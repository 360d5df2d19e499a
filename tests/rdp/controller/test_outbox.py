"""Events on their way: in order, through an outage, and as many as memory takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agents.platform.retry import BrokerUnreachable
from agents.platform.service import StopSignal
from agents.rdp.controller import outbox as module
from agents.rdp.controller.outbox import Outbox
from schemas.rdp_session_events import RdpCommandDone, RdpRecordingChanged, RdpSessionEvent
from schemas.sessions import new_session_id
from tests.rdp.controller.scene import Room
from tests.waiting import until


class Producer:
    """A broker that is there or not."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.failures = 0

    async def send(self, topic: str, value: bytes, *, key: bytes, headers: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnreachable("no broker", retry_after=0)
        event = RdpSessionEvent.from_kafka(key, tuple(headers), value)
        self.sent.append(event.correlation)


def done() -> RdpCommandDone:
    return RdpCommandDone(session=str(new_session_id()), action="suspend", state="suspended")


async def test_events_go_out_in_order_whatever_the_broker_does() -> None:
    producer: Any = Producer()
    outbox, stop = Outbox(producer, "events", "lucid/rdp-controller/desk1"), StopSignal(5)
    confirmed: list[str] = []
    outbox.sent = lambda session, event: confirmed.append(session)
    producer.failures = 3
    running = asyncio.create_task(outbox.run(stop))
    for number in range(50):
        outbox.put(done(), kept=f"s{number}", correlation=str(number))
    await until(lambda: outbox.waiting == 0)
    assert producer.sent == [str(number) for number in range(50)]
    assert confirmed == [f"s{number}" for number in range(50)]
    stop.set()
    await running


async def test_what_cannot_be_sent_at_the_end_is_left() -> None:
    producer: Any = Producer()
    outbox, stop = Outbox(producer, "events", "source"), StopSignal(5)
    producer.failures = 10**9
    outbox.put(done())
    stop.set()
    await asyncio.wait_for(outbox.run(stop), 10)
    assert outbox.waiting == 1


async def test_an_outage_without_end_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    producer: Any = Producer()
    outbox = Outbox(producer, "events", "source")
    for number in range(25):
        outbox.put(done(), correlation=str(number))
    assert (outbox.waiting, outbox.dropped) == (10, 15)
    stop = StopSignal(5)
    stop.set()
    await outbox.run(stop)
    assert producer.sent == [str(number) for number in range(15, 25)]


async def test_sessions_are_looked_at_and_their_gates_hear_of_it(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.rdp.controller.sessions.ALIVE_SECONDS", 0.0)
    room.section = room.section.model_copy(update={"watch_every": 0.05})
    room.store.close()
    room.open()
    desktop, line = await room.begun()
    stop = StopSignal(5)
    running = asyncio.create_task(room.sessions.run(stop))
    await until(lambda: line.has("alive"))
    room.kill(desktop.session.leader)
    await until(lambda: desktop.over)
    desktop.lost(line)  # type: ignore[arg-type]
    await room.flush()
    await until(lambda: room.sessions.desktops == [])
    stop.set()
    await running


async def test_a_desktop_that_is_still_not_recorded_is_tried_on(open_room: Room) -> None:
    room = open_room
    room.broker.recorder = room.broker.refuse
    desktop, _ = await room.begun()
    for tries in (2, 3):
        room.clock.pass_(31)
        desktop.take({"idle": 1})
        desktop.look()
        await until(lambda tries=tries: len(room.broker.commands) == tries)
        await until(lambda: not desktop._tasks)
    assert desktop.session.recording is None
    assert desktop.session.state == "active"


async def test_a_recorder_that_does_not_close_is_not_waited_for(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.rdp.controller.recordings.STOP_SECONDS", 0.2)
    desktop, line = await room.begun()
    room.broker.recorder = room.broker.silence
    desktop.take({"ended": 0, "code": "logged_off", "reason": "bye"})
    await until(lambda: line.has("bye"))
    assert desktop.session.state == "terminated"
    await room.flush()
    assert desktop.kept.unsent == []


async def test_a_gate_that_is_refused_and_stays_is_killed(room: Room) -> None:
    room.broker.recorder = room.broker.refuse
    desktop = room.desktop()
    line = room.attach(desktop)
    await until(lambda: desktop.over)
    desktop.look()
    assert line.has("go") == [False]
    room.clock.pass_(6)
    desktop.look()
    await until(lambda: room.processes[0].poll() is not None)
    again = room.attach(desktop)
    assert again.has("go") == [False]


async def test_a_server_that_is_stopped_takes_its_sessions_with_it_in_order(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop, _ = await room.begun()
    monkeypatch.setattr(room.servers, "going_down", lambda server: True)
    room.kill(desktop.session.leader)
    desktop.look()
    await until(lambda: desktop.over)
    assert (desktop.session.state, desktop.session.reason) == (
        "terminated", "its server is stopped",
    )  # fmt: skip


async def test_a_recorder_that_sees_the_end_of_the_display_first_is_not_the_fault(
    room: Room,
) -> None:
    desktop, line = await room.begun()
    room.kill(desktop.session.xorg)
    room.sessions._recording_ended(desktop.session.recording or "", "display :120 went away")
    assert line.has("end") == ["its X server is gone"]
    desktop.take({"ended": 2, "code": "told", "reason": "x"})
    await until(lambda: desktop.over)
    assert (desktop.session.state, desktop.session.reason) == ("error", "its X server is gone")
    await room.flush()
    what = [one.what for one in room.broker.told(RdpRecordingChanged)]
    assert what == ["started", "stopped"]
