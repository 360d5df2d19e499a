"""Real desktops with real clients, whose five services are killed one after the other.

    with a_scene(stack, home) as scene:
        for step in steps: scene.play(step)
        scene.settle()           everything that was asked for has happened
    scene.problems               what is not true, not whole, or was left behind

All that it makes has ports, displays, accounts and a folder of its own, so that what is left
is found beside other tests of the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agents.platform.catalog import Catalog
from agents.platform.contract import load_contract
from agents.platform.process_table import marked
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.server_manager.keeper import SERVERS
from agents.rdp.server_manager.ports import PORTS
from schemas.envelope import Event
from schemas.node_events import LifecycleEvent, WorkEvent
from schemas.node_heartbeats import HeartbeatEvent
from schemas.rdp_metrics import AlertEvent, MetricsEvent, ServerMetrics
from schemas.rdp_processes import XrdpProcessEvent
from schemas.rdp_servers import ServerEvent
from schemas.rdp_session_events import RdpSessionEvent
from tests.conftest import Stack
from tests.e2e.conftest import Installation, install, xvfb
from tests.faults import rdp_judge as judge
from tests.faults.judge import FINAL
from tests.faults.rdp_census import DISPLAY, FIRST, LAST, census
from tests.faults.rdp_plan import SERVICES as KILLED
from tests.faults.rdp_plan import Step
from tests.rdp.people import Account, account, client
from tests.waiting import wait_for

OTHERS = ("processor", "storage", "pipeline", "recorder", "node-agent")
MARK = "LUCID_RDP_SERVER"
NODE, SERVER = "desk1", "desk"
PATIENCE = 90.0  # seconds for everything to be as it was asked for; the cores may be busy
SPARE = 3  # servers without desktops at any time
SETTINGS = {
    "LUCID_SERVER_MANAGER_FIRST_PORT": str(FIRST), "LUCID_SERVER_MANAGER_LAST_PORT": str(LAST),
    "LUCID_XRDP_FIRST_DISPLAY": str(DISPLAY), "LUCID_XRDP_RESTART_FIRST": "0.2",
    "LUCID_XRDP_CHECK_EVERY": "2", "LUCID_XRDP_CHECK_FAILURES": "5", "LUCID_XRDP_RESTARTS": "20",
    "LUCID_CONTROLLER_WATCH_EVERY": "0.2", "LUCID_CONTROLLER_REPORT_EVERY": "1",
    "LUCID_MONITOR_EVERY": "1", "LUCID_NODE_AGENT_EVERY": "1", "LUCID_NODE_AGENT_ID": NODE,
    "LUCID_NODE_MANAGEMENT_TICK_EVERY": "0.5", "LUCID_NODE_MANAGEMENT_STALE_AFTER": "60",
    "LUCID_RECORDER_KEEPALIVE_EVERY": "1",
    **{f"LUCID_{name}_PORT": "0" for name in (
        "XRDP", "SERVER_MANAGER", "CONTROLLER", "MONITOR", "NODE_MANAGEMENT", "NODE_AGENT",
    )},
}  # fmt: skip
TOPICS: dict[str, type[Event]] = {
    "rdp.session.events": RdpSessionEvent, "rdp.server.events": ServerEvent,
    "xrdp.process.events": XrdpProcessEvent, "rdp.metrics": MetricsEvent,
    "rdp.alerts": AlertEvent, "node.lifecycle": LifecycleEvent, "node.work": WorkEvent,
    "node.heartbeats": HeartbeatEvent,
}  # fmt: skip


@dataclass
class User:
    """Somebody with a desktop, and at most one client that shows it."""

    account: Account
    client: ExitStack = field(default_factory=ExitStack)
    program: subprocess.Popen[bytes] | None = None

    def come(self, port: int, screen: str) -> None:
        self.program = self.client.enter_context(client(port, self.account, screen))

    def go(self) -> None:
        self.client.close()
        self.program = None

    @property
    def is_there(self) -> bool:
        return self.program is not None and self.program.poll() is None


@dataclass
class Scene:
    """wanted: what runs by now, once it has settled."""

    lucid: Installation
    users: list[User]
    screen: str
    tell: Callable[[str], None]
    wanted: judge.Wanted = field(default_factory=judge.Wanted)
    desk: str = ""
    port: int = 0
    spare: list[str] = field(default_factory=list)
    old: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    again: int = 0
    recordings: int = 0
    slowest: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        env = self.lucid.env
        return Settings.load(
            home=self.lucid.home, kafka=env["LUCID_KAFKA"], mongo=env["LUCID_MONGO"],
            topic_prefix=env["LUCID_TOPIC_PREFIX"], database=env["LUCID_DATABASE"],
        )  # fmt: skip

    # -- what happens --------------------------------------------------------------------------

    def open(self) -> None:
        """Start all services, a node, a server and everybody's desktop."""
        with ThreadPoolExecutor(5) as pool:
            names = (*OTHERS[:-1], *KILLED)
            list(pool.map(partial(self.lucid.start, within=120.0), names))
            made = pool.submit(self.lucid.lucid, "rdp", "create", SERVER, "--json")
            # Not ready before it is taken in.
            agent = pool.submit(self.lucid.start, OTHERS[-1], within=120.0)
            pool.submit(self._approve).result()
            agent.result()
            found = made.result()
        self.desk, self.port = found["server"], found["port"]
        self.wanted.servers[self.desk] = "running"
        for user in self.users:
            self._come(user)
        self.until_true("first desktops")

    def _approve(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.lucid.lucid("node", "approve", NODE, check=False).returncode:
            if time.monotonic() > deadline:
                raise AssertionError(f"node {NODE} cannot be approved")

    def play(self, step: Step) -> None:
        """Kill, act, wait, start again."""
        self.tell(f"{step.service} {step.both} killed, {step.act} by {step.user}")
        gone = [name for name in (step.service, step.both) if name]
        for name in gone:
            self.lucid.stop(name, signal.SIGKILL)
            self.kills += 1
        back = time.monotonic() + step.away
        user = self.users[step.user]
        if step.act == "create":
            self._create()
        elif step.act == "delete":
            self._delete()
        elif step.act == "come-and-go":
            self._come_or_go(user)
        elif step.act == "log-out":
            self._log_out(user)
        elif step.act == "kill-xrdp":
            self._kill_xrdp()
        while time.monotonic() < back:
            time.sleep(0.05)
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(self.lucid.start, within=90.0), gone))
        self.old = self._samples() if "rdp-monitor" in gone else self.old

    def _create(self) -> None:
        if len(self.spare) >= SPARE:
            self._delete()
            return
        name = f"spare-{len(self.wanted.servers)}"
        made = self.lucid.lucid("rdp", "create", name, "--wait", "0", "--json")
        self.wanted.servers[made["server"]] = "running"
        self.spare.append(made["server"])

    def _delete(self) -> None:
        if self.spare:
            server = self.spare.pop()
            self.lucid.lucid("rdp", "delete", server, "--wait", "0", "--json")
            self.wanted.servers[server] = "deleted"

    def _come_or_go(self, user: User) -> None:
        name = user.account.name
        if user.is_there:
            user.go()
            if name in self.wanted.desktops:
                self.wanted.desktops[name] = 0
        else:
            user.go()
            self._come(user)

    def _come(self, user: User) -> None:
        """Log on, or come back; when this returns, there is a desktop, or will be one."""
        user.come(self.port, self.screen)
        self.wanted.desktops[user.account.name] = 1
        deadline = time.monotonic() + PATIENCE
        while not user.account.processes():
            self._come_again()
            if time.monotonic() > deadline:
                raise AssertionError(f"{user.account.name} gets no desktop")
            time.sleep(0.1)

    def _come_again(self) -> None:
        """Whoever was sent away tries again: xrdp may not have been there yet."""
        for user in self.users:
            if self.wanted.desktops.get(user.account.name) and not user.is_there:
                user.go()
                user.come(self.port, self.screen)
                self.again += 1

    def come_back(self) -> None:
        """Whoever has logged out logs on again, once nothing is left of the old desktop."""
        for user in self.users:
            if user.account.name not in self.wanted.desktops:
                wait_for(lambda one=user: not one.account.processes(), "end of a desktop", 60)
                user.go()
                self._come(user)

    def _log_out(self, user: User) -> None:
        """The user's last program ends."""
        if user.account.name in self.wanted.desktops:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(user.account.pid_of("xterm"), signal.SIGTERM)
                del self.wanted.desktops[user.account.name]

    def _kill_xrdp(self) -> None:
        """The program that clients speak to, of the server with the desktops."""
        for one in marked(MARK).get(self.desk, []):
            path = f"/proc/{one.pid}"
            with contextlib.suppress(OSError):
                if Path(path, "comm").read_text().strip() == "xrdp":
                    os.kill(one.pid, signal.SIGKILL)
        for user in self.users:
            # Each child that serves a client was one of them.
            if user.program is not None:
                user.program.wait(30)
                user.go()
                if user.account.name in self.wanted.desktops:
                    self.wanted.desktops[user.account.name] = 0

    # -- what is there -------------------------------------------------------------------------

    async def _told(self) -> judge.Told:
        told, contract = judge.Told(), load_contract(self.settings)
        for name, kind in TOPICS.items():
            async for raw in read_topic(self.settings, contract.topic(name).full_name):
                told.take(kind.from_kafka(raw.key, tuple(raw.headers), raw.value))
        return told

    async def _catalog(self, collection: str) -> dict[str, dict[str, Any]]:
        async with Catalog(self.settings) as catalog:
            return {one["_id"]: one for one in await catalog.find(collection)}

    def told(self) -> judge.Told:
        return asyncio.run(self._told())

    def _samples(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in self.told().of(ServerMetrics):
            found[one.server] = found.get(one.server, 0) + 1
        return found

    def untrue(self) -> list[str]:
        """What events say now that is not so."""
        told = self.told()
        alive = set(marked(MARK)) & self.wanted.servers.keys()
        catalog = asyncio.run(self._catalog(SERVERS))
        return [
            *judge.sessions_true(told, self.wanted),
            *judge.servers_true(told, self.wanted, catalog, alive),
            *judge.measured(told, self.wanted, self.old),
        ]

    def until_true(self, what: str) -> None:
        """Wait until events say what is so; raises AssertionError after PATIENCE."""
        began, last = time.monotonic(), [""]
        while problems := self.untrue():
            self._come_again()
            if time.monotonic() - began > PATIENCE:
                raise AssertionError(f"{what}: " + "\n".join(problems))
            last = problems
            time.sleep(0.3)
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        self.tell(f"{what}: true after {took:.1f} s, the last was {last[:1]}")

    # -- the end -------------------------------------------------------------------------------

    def settle(self) -> None:
        """All is true; everybody is in, then one logs out and the servers are deleted."""
        self.until_true("what went on meanwhile")
        self.come_back()
        for user in self.users:
            if not user.is_there:
                user.go()
                self._come(user)
        self.until_true("everybody is back")
        self._log_out(self.users[0])
        self.until_true("the first has left")
        running = [one for one, state in self.wanted.servers.items() if state == "running"]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda one: self.lucid.lucid("rdp", "delete", one, "--json"), running))
        self.wanted.desktops.clear()
        self.wanted.servers = dict.fromkeys(self.wanted.servers, "deleted")
        for user in self.users:
            user.go()
        self.until_true("all servers deleted")
        self._look_back()

    def _look_back(self) -> None:
        """Recordings are whole, and what was told fits together."""
        told = self.told()
        sessions = judge.newest(told.of(judge.RdpSessionChanged), "session", "seq").values()
        recordings = [one for session in sessions for one in session.recordings]
        self.recordings = len(recordings)
        states = self._settled()
        with ThreadPoolExecutor(2) as pool:
            verify = partial(self.lucid.lucid, "verify", check=False)
            done = list(pool.map(verify, recordings))
        self.problems += [f"`lucid verify {one}` ended with status {result.returncode}"
                          for one, result in zip(recordings, done, strict=True)
                          if result.returncode]  # fmt: skip
        self.problems += [
            *judge.stories_whole(told), *judge.recordings_whole(told, states),
            *judge.nodes_true(told, NODE), *judge.alerts_over(told),
        ]  # fmt: skip
        ports = asyncio.run(self._catalog(PORTS)).values()
        self.problems += [f"port {one['port']} is {one['state']}" for one in ports
                          if one["state"] == "allocated"]  # fmt: skip
        self.tell(f"{len(recordings)} recordings of {len(sessions)} sessions verified")

    def _settled(self) -> dict[str, str]:
        """The states of all recordings, once each is counted or time is up."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = asyncio.run(self._catalog("sessions"))
            states = {name: str(one["state"]) for name, one in found.items()}
            counted = set(states.values()) <= set(FINAL) and len(states) >= self.recordings
            if counted or time.monotonic() > deadline:
                return states
            time.sleep(0.3)


@contextmanager
def a_scene(stack: Stack, home: Path, tell: Callable[[str], None]) -> Iterator[Scene]:
    """A scene that has begun; at its end everything is stopped, and what is left is counted."""
    names: list[str] = []
    before = census(home, names)
    with ExitStack() as ends:
        users = [User(ends.enter_context(account())) for _ in range(2)]
        names += [one.account.name for one in users]
        screen, _ = ends.enter_context(xvfb("1024x768"))
        lucid = install(home, stack, **SETTINGS)
        scene = Scene(lucid, users, screen, tell)
        try:
            scene.open()
            yield scene
        finally:
            for user in users:
                user.go()
            statuses = _stop_all(lucid)
        scene.problems += [f"{name} ended with status {status}"
                           for name, status in statuses.items() if status]  # fmt: skip
    scene.problems += judge.differences(before, census(home, names))


def _stop_all(lucid: Installation) -> dict[str, int]:
    """SIGTERM to all services; their exit statuses."""
    with ThreadPoolExecutor() as pool:
        names = list(lucid.running)
        found = dict(zip(names, pool.map(lucid.stop, names), strict=True))
    for one in [ref for server, refs in marked(MARK).items() for ref in refs
                if (lucid.home / "xrdp" / server).exists()]:  # fmt: skip
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
    return found
