"""Lucid's services as processes of their own, on the real servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Stack
from tests.waiting import wait_for

SERVICES = ("processor", "storage", "pipeline", "recorder")


@dataclass
class Installation:
    """One Lucid with its own home, topics and database."""

    home: Path
    env: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def lucid(self, *arguments: str, check: bool = True, **more: Any) -> Any:
        """Run a command; its JSON output if it has one, else the completed process."""
        done = subprocess.run(
            [sys.executable, "-m", "agents.cli", *arguments],
            env=self.env, capture_output=True, timeout=90, check=False, **more,
        )  # fmt: skip
        if check and done.returncode:
            pytest.fail(f"lucid {' '.join(arguments)}: {done.stderr.decode()}")
        return json.loads(done.stdout) if check and "--json" in arguments else done

    def record(self, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        """`lucid record` as a process of its own that has begun, and its session."""
        process = subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "record", *arguments],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if b"Recording session" in line:
                return process, line.decode().split("session ")[1].split(";")[0]
        pytest.fail(f"the recorder ended with status {process.wait(10)}")

    def start(
        self, service: str, name: str = "", *, around: Sequence[str] = (), within: float = 30.0,
        **env: str,
    ) -> str:  # fmt: skip
        """Start a service, by the command `around`, until it is ready; its name for `stop`."""
        name = name or service
        log = (self.home / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [*around, sys.executable, "-m", "agents.cli", "run", service],
            env={**self.env, **env}, stdout=log, stderr=log,
        )  # fmt: skip
        log.close()
        self.running[name] = process
        wait_for(lambda: self.health(service, process) == 200, f"ready {service}", within)
        return name

    def port(self, service: str, process: subprocess.Popen[bytes]) -> int | None:
        file = self.home / "run" / f"{service}-{process.pid}.json"
        return int(json.loads(file.read_text())["port"]) if file.exists() else None

    def health(self, service: str, process: subprocess.Popen[bytes]) -> int:
        """The status of /health/ready; 0 while nothing listens."""
        if process.poll() is not None:
            pytest.fail(f"{service} ended: {(self.home / f'{service}.log').read_text()[-3000:]}")
        port = self.port(service, process)
        if port is None:
            return 0
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End a service; its exit status."""
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(15)

    @contextlib.contextmanager
    def standing_still(self, name: str) -> Iterator[None]:
        """SIGSTOP to a service for the time of a block."""
        self.running[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.running[name].send_signal(signal.SIGCONT)

    def state(self, session: str) -> str:
        """The session's state in the catalog."""
        done = self.lucid("sessions", "show", session, "--json", check=False)
        return json.loads(done.stdout)["state"] if done.returncode == 0 else ""

    def settled(self, session: str, seconds: float = 40.0) -> str:
        """Wait until a session is counted: `completed` or `incomplete`."""

        def look() -> str:
            state = self.state(session)
            return state if state in ("completed", "incomplete") else ""

        return str(wait_for(look, f"settled session {session}", seconds))


def install(home: Path, stack: Stack, **more: str) -> Installation:
    """Topics and keys of a fresh installation on the servers of this run; `more` settings."""
    home.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("LUCID_")}
    mark = uuid4().hex[:10]
    env.update(
        LUCID_HOME=str(home), LUCID_KAFKA=stack.kafka, LUCID_MONGO=stack.mongo,
        LUCID_REDIS=stack.redis, LUCID_TOPIC_PREFIX=f"e2e-{mark}.", LUCID_DATABASE=f"e2e_{mark}",
        LUCID_HOST="desk1", LUCID_PIPELINE_ABANDON_AFTER="6", LUCID_PIPELINE_WATCH_EVERY="0.5",
        **{f"LUCID_{service.upper()}_PORT": "0" for service in SERVICES}, **more,
    )  # fmt: skip
    installation = Installation(home, env)
    installation.lucid("keys", "init")
    installation.lucid("topics", "apply")
    return installation


@pytest.fixture(scope="session")
def lucid(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with all four services running."""
    installation = install(tmp_path_factory.mktemp("e2e"), stack)
    try:
        for service in SERVICES:
            installation.start(service)
        yield installation
    finally:
        statuses = {name: installation.stop(name) for name in list(installation.running)}
        assert set(statuses.values()) <= {0}, statuses


@pytest.fixture
def own(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    """An installation without services; those that a test starts are ended."""
    installation = install(tmp_path / "home", stack)
    try:
        yield installation
    finally:
        for name in list(installation.running):
            installation.stop(name)


@contextlib.contextmanager
def xvfb(size: str = "640x480") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An X server on a display number that is free; its name and process."""
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", f"{size}x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        yield f":{int(server.stdout.readline())}", server
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()
