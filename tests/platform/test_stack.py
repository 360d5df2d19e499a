"""`lucid stack` with one quick server; tests of all three are in test_stack_servers.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from agents.platform import stack
from agents.platform.ports import free_port, is_free
from agents.platform.settings import Settings
from agents.platform.stack import commands, processes, starter, supervisor
from agents.platform.stack.processes import Identity
from agents.platform.stack.redis import Redis
from agents.platform.stack.server import Command
from agents.platform.stack.state import Record, StackFolder, State

OWN = {"kafka": "broker.example:9092", "mongo": "mongodb://me:secret@db.example:1/x?tls=true"}


def settings_in(home: Path) -> Settings:
    return Settings.load(home=home, redis=None, **OWN)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings where only Redis is the stack's to run."""
    made = settings_in(tmp_path / "home")
    yield made
    if not (made.stack_dir / "state.json").is_file():
        return
    stack.down(made)


def record_of(settings: Settings) -> Record:
    return StackFolder(settings.stack_dir).read().servers["redis"]


def pid_of(settings: Settings) -> int:
    process = record_of(settings).process
    assert process is not None
    return process.pid


def redis_status(settings: Settings) -> supervisor.ServerStatus:
    return next(row for row in stack.status(settings) if row.server == "redis")


def test_up_starts_a_server_and_settings_find_it(settings: Settings) -> None:
    found = stack.up(settings)
    assert found.started == ("redis",)
    assert settings.redis_url() == found.redis
    assert found.kafka == OWN["kafka"]
    assert found.mongo == OWN["mongo"]
    row = redis_status(settings)
    assert (row.state, row.address, row.pid) == ("running", found.redis, pid_of(settings))


def test_addresses_of_the_users_own_servers_are_not_written_down(settings: Settings) -> None:
    found = stack.up(settings)
    written = settings.stack_dir / "endpoints.json"
    assert json.loads(written.read_text()) == {"redis": found.redis}
    assert written.stat().st_mode & 0o777 == 0o600


def test_up_again_changes_nothing(settings: Settings) -> None:
    first = stack.up(settings)
    pid = pid_of(settings)
    again = stack.up(settings)
    assert (again.redis, again.started) == (first.redis, ())
    assert pid_of(settings) == pid


def test_a_server_that_died_is_started_on_the_same_port(settings: Settings) -> None:
    first = stack.up(settings)
    processes.stop(record_of(settings).process, seconds=5)  # type: ignore[arg-type]
    assert redis_status(settings).state == "stopped"
    again = stack.up(settings)
    assert again.started == ("redis",)
    assert again.redis == first.redis


def test_a_port_that_somebody_took_meanwhile_is_replaced(settings: Settings) -> None:
    first = stack.up(settings)
    stack.down(settings)
    taken = record_of(settings).ports[0]
    with socket.create_server(("127.0.0.1", taken)):
        assert stack.up(settings).redis != first.redis


def test_a_port_lost_between_choice_and_use_is_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as thief:
        lost = thief.getsockname()[1]
        choices = iter([lost, free_port()])
        monkeypatch.setattr(starter, "free_port", lambda: next(choices))
        assert str(lost) not in stack.up(settings).redis


def test_a_port_that_is_asked_for_is_used_or_refused(settings: Settings) -> None:
    port = free_port()
    assert stack.up(settings, ports={"redis": port}).redis == f"redis://127.0.0.1:{port}/0"
    other = free_port()
    assert stack.up(settings, ports={"redis": other}).started == ("redis",)
    assert is_free(port)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(stack.PortTaken, match=str(port)),
    ):
        stack.up(settings, ports={"redis": port})


def test_down_ends_the_server_and_up_keeps_the_log_of_the_start_before(
    settings: Settings,
) -> None:
    stack.up(settings)
    pid = pid_of(settings)
    assert stack.down(settings) == ["redis"]
    assert not psutil.pid_exists(pid)
    assert not (settings.stack_dir / "endpoints.json").exists()
    assert stack.down(settings) == []
    stack.up(settings)
    logs = {path.name for path in (settings.stack_dir / "logs").iterdir()}
    assert logs == {"redis.log", "redis.log.1"}


def test_down_without_a_stack_does_nothing(settings: Settings) -> None:
    assert stack.down(settings) == []
    assert stack.reset(settings) == []
    assert not settings.stack_dir.exists()


def test_a_process_that_has_the_number_of_a_dead_server_is_left_alone(
    settings: Settings,
) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        created = psutil.Process(bystander.pid).create_time()
        folder = StackFolder(settings.stack_dir)
        with folder.locked(lambda step: None):
            recycled = Identity(pid=bystander.pid, created=created - 60)
            record = Record(process=recycled, ports=[free_port()], version="1")
            folder.write(State(servers={"redis": record}))
        assert redis_status(settings).state == "stopped"
        assert stack.down(settings) == []
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n", timeout=10)


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = (
        "import signal,sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); signal.pause()"
    )
    log = tmp_path / "log"
    command = Command([sys.executable, "-c", script], env={"LUCID_X": "1"})
    identity, child = processes.spawn(command, cwd=tmp_path, log=log)
    assert processes.wait_until(lambda: "deaf" in processes.tail(log), seconds=10)
    assert processes.stop(identity, seconds=0.2)
    assert child.returncode == -signal.SIGKILL


def test_settings_with_passwords_do_not_reach_a_servers_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCID_TEST_PASSWORD", "secret")
    stack.up(settings)
    assert "LUCID_TEST_PASSWORD" not in psutil.Process(pid_of(settings)).environ()


class Broken(Redis):
    """Ends at once, with something in its log."""

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        return Command(["sh", "-c", "echo bad configuration; exit 7"])


class Silent(Redis):
    """Runs and never answers."""

    start_seconds = 0.3

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        return Command([sys.executable, "-c", "import signal; signal.pause()"])


class Deaf(Redis):
    """Listens and never answers."""

    start_seconds = 0.3

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        script = (
            "import socket,signal,sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))"
        )
        return Command([sys.executable, "-c", f"{script}; signal.pause()", str(ports[0])])


class NoProgram(Redis):
    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        return Command([str(folder / "absent")])


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (Broken(), r"ended with exit status 7(?s:.*)bad configuration(?s:.*)redis\.log"),
        (Silent(), r"not ready after 0 s \(it does not listen"),
        (Deaf(), r"not ready after 0 s \(no answer to PING"),
        (NoProgram(), "cannot be started"),
    ],
)
def test_a_server_that_does_not_start_is_an_error_with_its_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, server: Redis, words: str
) -> None:
    monkeypatch.setattr(supervisor, "SERVERS", (server,))
    with pytest.raises(stack.ServerFailed, match=words):
        stack.up(settings)
    row = redis_status(settings)
    assert (row.state, row.pid) == ("stopped", None)
    monkeypatch.undo()
    assert stack.up(settings).started == ("redis",)


def test_another_programs_answer_is_not_taken_for_the_servers(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = settings_in(tmp_path / "other")
    stack.up(other)
    try:
        taken = record_of(other).ports[0]
        monkeypatch.setattr(starter, "is_free", lambda port: port == taken)
        monkeypatch.setattr(starter, "free_port", lambda: taken)
        with pytest.raises(stack.ServerFailed, match="ended with exit status"):
            stack.up(settings)
        assert redis_status(other).state == "running"
    finally:
        stack.down(other)


def test_a_server_that_hangs_is_shown_and_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.up(settings)
    stuck = pid_of(settings)
    os.kill(stuck, signal.SIGSTOP)
    monkeypatch.setattr(starter, "_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(Redis, "start_seconds", 1.0)
    monkeypatch.setattr(Redis, "stop_seconds", 0.2)
    assert redis_status(settings).state == "not answering"
    assert stack.up(settings).started == ("redis",)
    assert pid_of(settings) != stuck
    assert not psutil.pid_exists(stuck)


def test_two_ups_at_once_start_one_server(settings: Settings) -> None:
    found: list[stack.Endpoints] = []
    runs = [threading.Thread(target=lambda: found.append(stack.up(settings))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert sorted(each.started for each in found) == [(), ("redis",)]
    assert found[0].redis == found[1].redis


def test_two_homes_have_two_stacks(settings: Settings, tmp_path: Path) -> None:
    other = settings_in(tmp_path / "other")
    try:
        assert stack.up(settings).redis != stack.up(other).redis
        stack.down(other)
        assert redis_status(settings).state == "running"
    finally:
        stack.down(other)


def test_reset_deletes_the_stacks_own_files_and_nothing_else(
    settings: Settings, tmp_path: Path
) -> None:
    stack.up(settings)
    pid = pid_of(settings)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (settings.stack_dir / "kafka").symlink_to(outside)
    (settings.stack_dir / "redis" / "link").symlink_to(outside)
    (settings.stack_dir / "mine").touch()
    deleted = stack.reset(settings)
    assert set(deleted) == {"state.json", "logs", "kafka", "redis"}
    assert not psutil.pid_exists(pid)
    assert (outside / "precious").exists()
    assert {path.name for path in settings.stack_dir.iterdir()} == {"mine", "lock"}
    assert stack.up(settings).started == ("redis",)


@pytest.mark.parametrize("text", ["", "{}x", '{"v": 2}', '{"servers": {"redis": {"ports": []}}}'])
def test_an_unreadable_state_is_a_typed_error(settings: Settings, text: str) -> None:
    settings.stack_dir.mkdir(parents=True)
    state = settings.stack_dir / "state.json"
    state.write_text(text)
    with pytest.raises(stack.StackError, match=r"state\.json"):
        stack.up(settings)
    assert state.read_text() == text
    state.unlink()


def test_nothing_is_started_when_all_servers_are_the_users_own(tmp_path: Path) -> None:
    own = Settings.load(home=tmp_path / "home", redis="redis://:pw@r.example:1/2", **OWN)
    found = stack.up(own)
    assert (found.redis, found.started) == ("redis://:pw@r.example:1/2", ())
    assert not own.stack_dir.exists()
    shown = {row.server: (row.state, row.address) for row in stack.status(own)}
    assert shown == {
        "kafka": ("yours", "broker.example:9092"),
        "mongo": ("yours", "mongodb://db.example:1/x"),
        "redis": ("yours", "redis://r.example:1/2"),
    }


@pytest.fixture
def command_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("LUCID_HOME", str(settings.home))
    monkeypatch.setenv("LUCID_KAFKA", OWN["kafka"])
    monkeypatch.setenv("LUCID_MONGO", OWN["mongo"])
    return CliRunner()


def test_the_commands_print_what_they_did_as_json(
    command_line: CliRunner, settings: Settings
) -> None:
    def run(*words: str, status: int = 0) -> dict:
        result = command_line.invoke(commands.app, [*words, "--json"])
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    assert run("status", status=1)["servers"][2]["state"] == "stopped"
    up = run("up")
    assert up["started"] == ["redis"]
    assert up["servers"][2]["address"] == settings.redis_url()
    assert run("up")["started"] == []
    assert run("status")["servers"][2]["pid"] == pid_of(settings)
    assert run("down") == {"stopped": ["redis"]}
    assert run("reset", "--yes")["deleted"] == ["state.json", "logs", "redis"]


def test_the_commands_print_a_table_and_no_password(command_line: CliRunner) -> None:
    up = command_line.invoke(commands.app, ["up"], env={"COLUMNS": "160"})
    assert "Ready after" in up.stdout
    assert "Redis: is up" in up.stderr
    again = command_line.invoke(commands.app, ["up"], env={"COLUMNS": "160"})
    assert "up already" in again.stdout
    status = command_line.invoke(commands.app, ["status"], env={"COLUMNS": "160"})
    assert "running" in status.stdout
    assert "mongodb://db.example:1/x" in status.stdout
    assert "secret" not in up.output + again.output + status.output
    assert "Stopped Redis" in command_line.invoke(commands.app, ["down"]).stdout
    assert "No server" in command_line.invoke(commands.app, ["down"]).stdout


def test_reset_asks_first(command_line: CliRunner, settings: Settings) -> None:
    command_line.invoke(commands.app, ["up"])
    refused = command_line.invoke(commands.app, ["reset"], input="n\n")
    assert refused.exit_code == 1
    assert redis_status(settings).state == "running"
    agreed = command_line.invoke(commands.app, ["reset"], input="y\n")
    assert "Deleted" in agreed.stdout
    assert "Nothing to delete" in command_line.invoke(commands.app, ["reset", "-y"]).stdout
