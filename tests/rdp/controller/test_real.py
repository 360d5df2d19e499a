"""Real desktops: xrdp, a client, the recorder and the controller, each a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agents.platform.audit import acting_user
from agents.platform.contract import load_contract
from agents.platform.process_table import command_of, marked
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.controller.commands import app, read_listing
from agents.rdp.controller.errors import NoSuchSession
from agents.rdp.controller.listing import Story
from schemas.audit import RdpSessionOrdered
from schemas.canonical import encode
from schemas.rdp_processes import ProcessRef
from schemas.rdp_session_events import RdpRecordingChanged
from schemas.rdp_sessions import OVER, RdpSession
from schemas.sessions import new_session_id
from tests.audited import orders
from tests.audited import sent as ordered
from tests.conftest import Stack
from tests.e2e.conftest import Installation, install, xvfb
from tests.rdp.people import Account, account, can_run, client, open_folder
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.display,
    pytest.mark.skipif(not can_run(), reason="needs root, xrdp and xfreerdp"),
]
SERVICES = (
    "processor", "storage", "pipeline", "recorder", "xrdp", "rdp-server-manager", "rdp-controller",
)  # fmt: skip
FIRST = 14100
MORE = {
    **{f"LUCID_{name}_PORT": "0" for name in ("XRDP", "SERVER_MANAGER", "CONTROLLER")},
    "LUCID_SERVER_MANAGER_FIRST_PORT": str(FIRST),
    "LUCID_SERVER_MANAGER_LAST_PORT": str(FIRST + 90),
    "LUCID_CONTROLLER_SILENT_AFTER": "8", "LUCID_CONTROLLER_REPORT_EVERY": "1",
    "LUCID_CONTROLLER_WATCH_EVERY": "0.2", "LUCID_RECORDER_KEEPALIVE_EVERY": "1",
    "LUCID_CONTROLLER_GATE_WITHIN": "8", "LUCID_CONTROLLER_START_WITHIN": "10",
}  # fmt: skip


@dataclass
class House:
    """Everything that a desktop needs."""

    lucid: Installation
    user: Account
    port: int
    screen: str

    def client(self, password: str = "") -> Any:
        return client(self.port, self.user, self.screen, password)

    @property
    def settings(self) -> Settings:
        env = self.lucid.env
        return Settings(
            home=self.lucid.home, kafka=env["LUCID_KAFKA"],
            topic_prefix=env["LUCID_TOPIC_PREFIX"],
        )  # fmt: skip

    def stories(self) -> list[Story]:
        """All sessions so far, newest first."""
        found = asyncio.run(read_listing(self.settings)).stories.values()
        return sorted(found, key=lambda one: one.session.created, reverse=True)

    def story(self, session: str) -> Story:
        return next(one for one in self.stories() if one.session.session == session)

    def clients(self, session: str) -> int:
        connections = self.story(session).connections.values()
        return sum(one.state == "connected" for one in connections)

    def begun(self) -> str:
        """The one session that is there, once its user is in and its client is seen."""

        def look() -> list[str]:
            there = [one.session for one in self.stories() if one.session.state == "active"]
            return [one.session for one in there if self.clients(one.session)]

        return str(wait_for(look, "active session", 60)[0])

    def over(self, session: str) -> RdpSession:
        """A session once it is over, and nothing of it is left."""

        def look() -> RdpSession | None:
            found = self.story(session).session
            return found if found.state in OVER else None

        found: RdpSession = wait_for(look, "ended session", 60)
        wait_for(lambda: not self.user.processes(), "desktop without processes", 40)
        return found


@pytest.fixture(scope="module")
def house(stack: Stack) -> Iterator[House]:
    with open_folder() as home, account() as user, xvfb("1024x768") as (screen, _):
        lucid = install(home, stack, **MORE)
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(partial(lucid.start, within=120.0), SERVICES))
            made = lucid.lucid("rdp", "create", "desk", "--width", "800", "--height", "600",
                               "--json")  # fmt: skip
            yield House(lucid, user, made["port"], screen)
            lucid.lucid("rdp", "delete", "desk", "--json")
        finally:
            statuses = {name: lucid.stop(name) for name in list(lucid.running)}
            assert set(statuses.values()) <= {0}, statuses


def test_a_desktop_is_recorded_by_itself_and_survives_its_controller(house: House) -> None:
    lucid = house.lucid
    with house.client():
        session = house.begun()
        recording = house.story(session).session.recording
        assert recording is not None
        assert lucid.state(recording) == "recording"
        lucid.stop("rdp-controller", signal.SIGKILL)
        lucid.start("rdp-controller", within=90.0)
        lucid.lucid("rdp-sessions", "suspend", session, "--reason", "lunch", "--json")
        wait_for(lambda: house.clients(session) == 0, "cut connection")
    with house.client():
        # Whoever comes back meanwhile is cut off, too.
        wait_for(lambda: len(house.story(session).connections) == 2, "second connection")
        wait_for(lambda: house.clients(session) == 0, "cut connection")
        lucid.lucid("rdp-sessions", "resume", session, "--json")
    with house.client():
        wait_for(lambda: house.clients(session) == 1, "client that is back")
        os.kill(house.user.pid_of("xterm"), signal.SIGTERM)
        found = house.over(session)
    assert (found.state, found.reason) == ("terminated", "the user's programs ended")
    assert found.recordings == [recording]
    assert lucid.settled(recording) == "completed"
    assert lucid.lucid("verify", recording, "--json")["outcome"] == "ok"
    assert lucid.lucid("sessions", "show", recording, "--json")["owner"] == house.user.name
    shown = lucid.lucid("rdp-sessions", "show", session, "--json")
    assert [one["state"] for one in shown["events"] if one["what"] == "session"][-1] == "terminated"


def test_a_desktop_whose_x_server_is_killed_is_over(house: House) -> None:
    with house.client():
        session = house.begun()
        os.kill(house.user.pid_of("Xorg"), signal.SIGKILL)
        found = house.over(session)
    assert (found.state, found.reason[-7:]) == ("error", "is gone"), found.reason


def test_a_desktop_whose_recorder_is_killed_is_ended(house: House) -> None:
    lucid = house.lucid
    with house.client():
        session = house.begun()
        lucid.stop("recorder", signal.SIGKILL)
        found = house.over(session)
    assert found.state == "error"
    # The controller's own patience, or the pipeline's.
    assert "sign of" in found.reason
    told = [one.data for one in house.story(session).events.values()]
    recorded = [one.what for one in told if isinstance(one, RdpRecordingChanged)]
    assert sorted(recorded) == ["lost", "started"]
    before = len(house.stories())
    with house.client():
        # No recorder, no desktop.
        wait_for(lambda: len(house.stories()) > before, "refused session", 60)
        refused = house.over(house.stories()[0].session.session)
    assert (refused.state, refused.recordings) == ("error", [])
    assert "cannot be recorded" in refused.reason
    lucid.start("recorder", within=90.0)


def said(house: House, session: str) -> list[RdpRecordingChanged]:
    """What was told of a session's recordings, in order."""
    events = sorted(house.story(session).events.values(), key=lambda one: one.time)
    return [one.data for one in events if isinstance(one.data, RdpRecordingChanged)]


def unrecorded(house: House) -> int:
    """The controller's own count of desktops that nobody records."""
    process = house.lucid.running["rdp-controller"]
    port = house.lucid.port("rdp-controller", process)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        (found,) = re.findall(
            r"^lucid_rdp_unrecorded_sessions(?:\{.*\})? ([0-9]+)", answer.read().decode(), re.M
        )
    return int(found)


def test_under_fail_open_a_desktop_goes_on_without_its_recorder(house: House) -> None:
    lucid = house.lucid
    lucid.stop("rdp-controller")
    lucid.start("rdp-controller", within=90.0, LUCID_RDP_REQUIRE_RECORDING="false",
                LUCID_CONTROLLER_RETRY_AFTER="1", LUCID_CONTROLLER_START_WITHIN="4")  # fmt: skip
    lucid.stop("recorder")
    with house.client():
        # It begins unseen, and says so; once there is a recorder it is seen.
        session = house.begun()
        assert house.story(session).session.recording is None
        desktop = house.user.pid_of("xterm")
        assert unrecorded(house) == 1
        lucid.start("recorder", within=90.0)
        recorded = lambda: house.story(session).session.recording  # noqa: E731
        first = wait_for(recorded, "recording that begins late", 60)
        assert unrecorded(house) == 0
        # It is lost, and says so; the desktop goes on, and is seen again by another recording.
        lucid.stop("recorder", signal.SIGKILL)
        wait_for(lambda: not recorded(), "lost recording", 60)
        lost = house.story(session)
        assert (lost.session.state, unrecorded(house)) == ("active", 1)
        assert house.user.pid_of("xterm") == desktop
        assert house.clients(session) == 1
        lucid.start("recorder", within=90.0)
        second = wait_for(recorded, "recording that begins again", 60)
        lucid.lucid("rdp-sessions", "terminate", session, "--json")
        found = house.over(session)
    assert found.state == "terminated"
    assert found.recordings == [first, second]
    changes = said(house, session)
    whats = [what for what, _ in itertools.groupby(one.what for one in changes)]
    assert whats[:3] == ["missing", "started", "lost"]
    assert [one for one in whats[3:] if one != "missing"] == ["started", "stopped"]
    assert not any(one.required for one in changes)
    assert all(one.reason for one in changes if one.what in ("missing", "lost"))
    assert '"level": "error"' in (lucid.home / "rdp-controller.log").read_text()
    assert lucid.settled(second) == "completed"
    assert lucid.lucid("verify", second, "--json")["outcome"] == "ok"
    lucid.stop("rdp-controller")
    lucid.start("rdp-controller", within=90.0)


def test_a_desktop_without_its_session_manager_lasts_as_long_as_its_client(house: House) -> None:
    lucid = house.lucid
    with house.client():
        session = house.begun()
        found = house.story(session).session
        mine = marked("LUCID_RDP_SERVER")[found.server]
        managers = [one for one in mine if command_of(one)[0].endswith("xrdp-sesman")]
        main = min(managers, key=lambda one: one.started)
        os.kill(main.pid, signal.SIGKILL)

        def again() -> bool:
            state = json.loads((lucid.home / "xrdp" / found.server / "state.json").read_text())[
                "pids"
            ]["sesman"]
            return state is not None and ProcessRef(**state) != main

        wait_for(again, "session manager that is started again", 60)
        assert house.story(session).session.state == "active"
        assert house.clients(session) == 1
    # Nobody could come back to it: the new one does not know it.
    over = house.over(session)
    assert over.state == "error"
    assert "session manager" in over.reason
    (recording,) = over.recordings
    assert lucid.settled(recording) == "completed"
    assert lucid.lucid("verify", recording, "--json")["outcome"] == "ok"
    with house.client():
        after = house.begun()
        assert after != session
        lucid.lucid("rdp-sessions", "terminate", after, "--json")
        house.over(after)


def test_an_account_that_cannot_log_on_gets_a_connection_and_no_session(house: House) -> None:
    before = len(house.stories())
    with house.client(password="wrong"):
        wait_for(lambda: connection_events(house)[-1]["state"] == "connecting", "connection")
    wait_for(lambda: connection_events(house)[-1]["state"] == "error", "ended connection")
    last = connection_events(house)[-1]
    assert (last["session"], last["reason"]) == (None, "it ended before a logon")
    assert len(house.stories()) == before


def connection_events(house: House) -> list[dict[str, Any]]:
    """What was told of connections, in order."""
    settings = house.settings

    async def read() -> list[dict[str, Any]]:
        topic = load_contract(settings).topic("rdp.session.events").full_name
        return [
            json.loads(record.value or b"null")
            async for record in read_topic(settings, topic)
            if b"lucid.rdp.connection.changed.v1" in dict(record.headers).values()
        ]

    return asyncio.run(read())


def test_a_user_cannot_ask_for_another_desktop(house: House) -> None:
    """A program of the user's own speaks to the controller as a gate does."""
    with house.client():
        session = house.story(house.begun()).session
        hello = {
            "version": 1, "server": session.server, "display": session.display,
            "xauthority": "/tmp/x", "user": house.user.name, "pid": 0, "session": None,
        }  # fmt: skip
        path = str(house.lucid.home / "rdp" / "controller.sock")
        script = (
            "import json,os,socket,sys\n"
            "h=json.loads(sys.argv[1]); h['pid']=os.getpid()\n"
            "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[2])\n"
            "s.sendall(json.dumps(h).encode()+b'\\n'); print(s.recv(4096).decode())\n"
        )
        done = subprocess.run(
            ["runuser", "-u", house.user.name, "--", "/usr/bin/python3", "-c", script,
             json.dumps(hello), path],
            capture_output=True, text=True, check=True, timeout=30, cwd="/",
        )  # fmt: skip
        assert json.loads(done.stdout)["go"] is False
        assert house.story(session.session).session.state == "active"
        house.lucid.lucid("rdp-sessions", "terminate", session.session, "--json")
        house.over(session.session)


def test_two_hundred_at_once_leave_nothing_behind(house: House) -> None:
    path = str(house.lucid.home / "rdp" / "controller.sock")
    pid = house.lucid.running["rdp-controller"].pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    lines = []
    for number in range(200):
        line = socket.socket(socket.AF_UNIX)
        line.connect(path)
        line.sendall((b"nonsense", b'{"version": 1}', b"[]", b"\xff\x00")[number % 4] + b"\n")
        lines.append(line)
    for line in lines:
        line.settimeout(20)
        assert json.loads(line.recv(4096))["go"] is False
        line.close()
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, "closed connections")
    with house.client():
        session = house.begun()
        house.lucid.lucid("rdp-sessions", "terminate", session, "--json")
        assert house.over(session).state == "terminated"


def test_the_commands_show_what_happened_and_say_what_cannot_be(house: House) -> None:
    env = {name: text for name, text in house.lucid.env.items() if name.startswith("LUCID_")}

    def lucid(*words: str) -> Result:
        return CliRunner().invoke(app, list(words), env=env)

    stories = house.stories()
    over = stories[0].session.session
    listed = lucid("list", "--ended")
    assert listed.exit_code == 0, listed.output
    assert all(one.session.session in listed.output for one in stories)
    assert over not in lucid("list").output
    assert json.loads(lucid("list", "--json").output) == {"sessions": []}
    shown = lucid("show", over).output
    assert over in shown
    assert "started" in shown
    assert json.loads(lucid("show", over, "--json").output)["state"] == "terminated"
    # These put the log of their process to rest, so they have one of their own.
    refused = house.lucid.lucid("rdp-sessions", "suspend", over, check=False)
    assert refused.returncode == 1
    assert b"refused, NoSuchSession" in refused.stderr
    sent = house.lucid.lucid("rdp-sessions", "resume", over, "--wait", "0", "--json")
    assert (sent["session"], sent["state"]) == (over, None)
    # Each command that was sent, also the one that was refused, by whom and about what.
    entries = asyncio.run(orders(house.settings))
    written = [encode(one.data.command) for one in entries
               if isinstance(one.data, RdpSessionOrdered)]  # fmt: skip
    assert sorted(written) == sorted(asyncio.run(ordered(house.settings, "rdp.session.commands")))
    assert {one.user for one in entries} == {acting_user()}
    assert [one.subject for one in entries][-2:] == [over, over]
    nobody = lucid("show", str(new_session_id()))
    assert isinstance(nobody.exception, NoSuchSession)
