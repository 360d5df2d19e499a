"""Lucid's services as a supervisor runs them: what ends is started again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agents.platform.points import LOG_VARIABLE, VARIABLE
from tests.faults.schedule import SERVICES

RESTART_SECONDS = 0.5
STOP_SECONDS = 12.0  # a service promises to be gone after 10


@dataclass
class Member:
    """One service. start_at, resume_at: monotonic times of what is due."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    start_at: float | None = None
    resume_at: float | None = None
    armed: str = ""
    held: float = 0.0
    killed: bool = False

    @property
    def room(self) -> str:
        return self.name.partition("-")[0]


@dataclass
class Fleet:
    """All services of one installation, with the environment that they share.

    kills, stops: by service, those of armed points included. exits: services that ended by
    themselves, by exit status.
    """

    env: dict[str, str]
    home: Path
    members: dict[str, Member] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    supervised: bool = True

    def start(self) -> None:
        for name in SERVICES:
            member = self.members[name] = Member(name)
            self._spawn(member)

    @property
    def points_log(self) -> Path:
        return self.home / "points.log"

    def _spawn(self, member: Member) -> None:
        env = dict(self.env)
        if member.armed:
            env |= {VARIABLE: member.armed, LOG_VARIABLE: str(self.points_log)}
        member.armed, member.start_at, member.killed = "", None, False
        with (self.home / f"{member.name}.log").open("ab") as log:
            member.process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", "run", member.room],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    # -- faults ------------------------------------------------------------------------------

    def kill(self, name: str, *, arm: str = "", held: float = 0.0) -> None:
        """SIGKILL; the next start is armed with `arm`, and a stop there lasts `held` seconds."""
        member = self.members[name]
        member.armed, member.held = arm or member.armed, held
        self._signal(member, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """SIGTERM."""
        self._signal(self.members[name], signal.SIGTERM)

    def stop(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after some seconds."""
        member = self.members[name]
        if self._signal(member, signal.SIGSTOP):
            self.stops[name] += 1
            member.resume_at = time.monotonic() + seconds

    def _signal(self, member: Member, number: signal.Signals) -> bool:
        if member.process is None or member.process.poll() is not None:
            return False
        member.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            member.killed = True
        return True

    # -- supervision -------------------------------------------------------------------------

    def tick(self) -> None:
        """Start what has ended, continue what was stopped long enough."""
        now = time.monotonic()
        for member in self.members.values():
            if member.process is not None and member.process.poll() is not None:
                self._ended(member, member.process.returncode, now)
            if member.process is None and member.start_at is not None and now >= member.start_at:
                self.restarts += 1
                self._spawn(member)
            self._continue(member, now)

    def _ended(self, member: Member, status: int, now: float) -> None:
        member.process = member.resume_at = None
        if status == -signal.SIGKILL:
            self.kills[member.name] += 1
        elif not member.killed:
            self.exits[f"{member.name}: status {status}"] += 1
        if self.supervised:
            member.start_at = now + RESTART_SECONDS

    def _continue(self, member: Member, now: float) -> None:
        if member.process is None:
            return
        if member.resume_at is None and member.held and _is_stopped(member.process.pid):
            self.stops[member.name] += 1
            member.resume_at, member.held = now + member.held, 0.0
        if member.resume_at is not None and now >= member.resume_at:
            member.resume_at = None
            member.process.send_signal(signal.SIGCONT)

    def settle(self) -> None:
        """Undo every fault: continue what is stopped, disarm what was to be armed."""
        for member in self.members.values():
            member.armed, member.held, member.resume_at = "", 0.0, None
            if member.process is not None and member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)

    def end(self) -> dict[str, int]:
        """SIGTERM to all; their exit statuses, -9 for one that had to be killed."""
        self.supervised = False
        self.settle()
        running = [member for member in self.members.values() if member.process is not None]
        for member in running:
            self._signal(member, signal.SIGTERM)
        deadline, found = time.monotonic() + STOP_SECONDS, {}
        for member in running:
            assert member.process is not None
            try:
                found[member.name] = member.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                found[member.name] = member.process.wait()
            member.process = None
        return found

    def points(self) -> tuple[Counter[str], Counter[str]]:
        """How often each point was passed while any was armed, and what was done at which."""
        passed: Counter[str] = Counter()
        struck: Counter[str] = Counter()
        if self.points_log.exists():
            for line in self.points_log.read_text().splitlines():
                _, name, _, action = line.split()
                passed[name] += 1
                if action != "note":
                    struck[f"{name}:{action}"] += 1
        return passed, struck


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
