"""A controller without a broker: its recorder, its gates and its clock are the test's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.platform.process_table import process_ref
from agents.rdp.controller.desktop import Desktop
from agents.rdp.controller.ledger import Tools
from agents.rdp.controller.outbox import Outbox
from agents.rdp.controller.recordings import Recordings
from agents.rdp.controller.servers import Servers
from agents.rdp.controller.sessions import Sessions
from agents.rdp.controller.settings import ControllerSettings
from agents.rdp.controller.store import Kept, Store
from agents.rdp.controller.trust import Peer
from schemas.canonical import Strict
from schemas.commands import read_command
from schemas.events import CommandDone, CommandRefused, SessionEvent
from schemas.rdp_processes import ProcessRef
from schemas.rdp_session_events import RdpSessionChanged, RdpSessionEvent
from schemas.rdp_sessions import RdpSession
from schemas.sessions import new_session_id
from tests.waiting import until

SERVER = "01a20c5b-0000-7557-ac1e-5c3397094c1d"
HOST = "desk1"


class Broker:
    """Takes what a producer sends; answers commands to the recorder as `recorder` says."""

    def __init__(self) -> None:
        self.events: list[RdpSessionEvent] = []
        self.commands: list[Any] = []
        self.away = False
        self.recorder: Callable[[Any], Strict | None] = self.obey
        self.recordings: Recordings | None = None
        self._done: dict[str, str] = {}

    async def send(self, topic: str, value: bytes, *, key: bytes, headers: Any = ()) -> None:
        while self.away:
            await asyncio.sleep(0.01)
        if topic == "events":
            self.events.append(RdpSessionEvent.from_kafka(key, tuple(headers), value))
            return
        command = read_command(value)
        self.commands.append(command)
        answer = self.recorder(command)
        if answer is not None and self.recordings is not None:
            asyncio.get_running_loop().call_soon(self.answer, answer, command.id)

    def answer(self, data: Any, correlation: str = "") -> None:
        """An event of `session.events`."""
        assert self.recordings is not None
        event = SessionEvent(data, "test", data.session or HOST, correlation=correlation)
        self.recordings.heard(event)

    def obey(self, command: Any) -> Strict | None:
        """A recorder that does what it is told, each command once."""
        session = self._done.setdefault(command.id, command.session or str(new_session_id()))
        return CommandDone(action=command.action, host=HOST, session=session)

    @staticmethod
    def refuse(command: Any) -> Strict | None:
        return CommandRefused(action=command.action, host=HOST, session=command.session,
                              code="NoDisplay", reason="the display cannot be opened")  # fmt: skip

    @staticmethod
    def silence(command: Any) -> Strict | None:
        return None

    def changes(self, session: str) -> list[RdpSessionChanged]:
        """What was told of a session, in order."""
        found = [one.data for one in self.events if isinstance(one.data, RdpSessionChanged)]
        return [one for one in found if one.session == session]

    def told(self, kind: type[Strict]) -> list[Any]:
        return [one.data for one in self.events if isinstance(one.data, kind)]


class FakeLine:
    """A gate's line: what is sent to it, and what it says."""

    def __init__(self, pid: int, uid: int = 0) -> None:
        self.peer = Peer(pid, uid)
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        self._says: asyncio.Queue[bytes] = asyncio.Queue()

    def say(self, message: Any) -> None:
        self._says.put_nowait(
            message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        )

    async def line(self, seconds: float | None = None) -> bytes:
        return await self._says.get()

    async def message(self) -> Any:
        line = await self._says.get()
        return json.loads(line) if line else None

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True

    def has(self, key: str) -> list[Any]:
        return [one[key] for one in self.sent if key in one]


@dataclass
class Clock:
    """Seconds and microseconds that a test sets."""

    seconds: float = 1000.0
    micros: int = 1_795_000_000_000_000

    def now(self) -> float:
        return self.seconds

    def wall(self) -> int:
        return self.micros

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds
        self.micros += round(seconds * 1e6)


@dataclass
class Room:
    """A controller's parts on a broker of ours."""

    folder: Path
    required: bool = True
    section: ControllerSettings = field(
        default_factory=lambda: ControllerSettings(
            start_within=0.5,
            silent_after=10,
            idle_after=60,
            stale_after=600,
            gate_within=5,
            end_within=5,
            retry_after=30,
            report_every=1,
        )
    )
    boot: str = "boot-1"
    clock: Clock = field(default_factory=Clock)
    broker: Broker = field(default_factory=Broker)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Make everything anew, as a service does that is started."""
        self.store = Store(self.folder / "sessions", self.boot)
        self.store.open()
        producer: Any = self.broker
        self.outbox = Outbox(producer, "events", f"lucid/rdp-controller/{HOST}")
        self.recordings = Recordings(producer, "commands", HOST, self.section, clock=self.clock.now)
        self.broker.recordings = self.recordings
        self.servers = Servers(self.store, HOST)
        self.tools = Tools(
            self.section, self.required, self.store, self.outbox, self.recordings, self.servers,
            self.clock.now, self.clock.wall,
        )  # fmt: skip
        self.sessions = Sessions(self.tools, HOST)

    async def killed(self) -> None:
        """The controller ends without a word, and another one begins."""
        for desktop in self.sessions.desktops:
            await desktop.close()
        self.store.close()
        self.open()
        self.sessions.restore()

    def process(self) -> ProcessRef:
        """A process that can be killed."""
        self.processes.append(subprocess.Popen(["sleep", "600"]))
        found = process_ref(self.processes[-1].pid)
        assert found is not None
        return found

    def kill(self, ref: ProcessRef) -> None:
        for one in self.processes:
            if one.pid == ref.pid:
                one.kill()
                one.wait()

    def kept(self, **fields: Any) -> Kept:
        now = self.clock.wall()
        session = RdpSession(
            session=str(new_session_id()), server=SERVER, host=HOST, user="ada", uid=1001,
            display=":120", leader=fields.pop("leader", None) or self.process(),
            xorg=self.process(), created=now, changed=now, **fields,
        )  # fmt: skip
        me = process_ref(os.getpid())
        assert me is not None
        return Kept(boot=self.boot, session=session, xauthority="/home/ada/.Xauthority", sesman=me)

    def desktop(self) -> Desktop:
        """A session whose gate has just asked."""
        desktop = Desktop(self.kept(), self.tools)
        self.sessions._desktops[desktop.session.session] = desktop
        desktop.announce()
        return desktop

    async def begun(self) -> tuple[Desktop, FakeLine]:
        """A session whose user is in."""
        desktop = self.desktop()
        line = self.attach(desktop)
        await until(lambda: desktop.session.state == "active")
        return desktop, line

    def attach(self, desktop: Desktop) -> FakeLine:
        line: Any = FakeLine(desktop.session.leader.pid)
        desktop.attach(line)
        found: FakeLine = line
        return found

    async def flush(self) -> None:
        """Send what waits."""
        sending = asyncio.create_task(self.outbox.run(_Stopped()))  # type: ignore[arg-type]
        await asyncio.wait_for(sending, 10)

    async def close(self) -> None:
        for desktop in self.sessions.desktops:
            await desktop.close()
        await self.recordings.close()
        self.store.close()
        for one in self.processes:
            one.kill()
            one.wait()


class _Stopped(asyncio.Event):
    """A stop signal that is set already."""

    def __init__(self) -> None:
        super().__init__()
        self.on_set: list[Callable[[], None]] = []
        self.set()
