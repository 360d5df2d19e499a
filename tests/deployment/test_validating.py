"""Running all checks: with an engine that is made up, and an API and a process that are real."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agents.deployment.validate import engine, looking, session, validating
from agents.deployment.validate.findings import Finding, Report, failed, ok, skipped
from tests.deployment.test_looking import API, INSIDE, NAME, STORAGE, WHOLE


class Engine:
    """Answers docker commands as the engine would; `broken` names a container that is gone."""

    def __init__(self, broken: str = "", drift: list[Any] | None = None) -> None:
        self.broken, self.drift = broken, drift or []

    def __call__(self, arguments: Any, **_: Any) -> Any:
        done = lambda text="", code=0, error="": subprocess.CompletedProcess(  # noqa: E731
            arguments, code, text, error
        )
        if arguments[:2] == ["container", "inspect"]:
            if arguments[2] == self.broken:
                return done(code=1)
            return done(json.dumps([self.container(arguments[2])]))
        if arguments[:2] == ["image", "inspect"]:
            return done(json.dumps({
                "lucid.port": "8086", "lucid.room": STORAGE.room, "lucid.contract": "aa",
                "org.opencontainers.image.version": "1",
            }))  # fmt: skip
        if arguments[:2] == ["network", "inspect"]:
            return done(json.dumps([{"Name": n, "Internal": True} for n in arguments[2:]]))
        if arguments[:2] == ["exec", "-i"]:
            return done(json.dumps(INSIDE))
        if arguments[0] == "exec":
            return done(error="exec: no such file or directory", code=126)
        if "topics" in arguments:
            return done(json.dumps({"drift": self.drift}))
        return done()

    @staticmethod
    def container(name: str) -> dict[str, Any]:
        found = copy.deepcopy(WHOLE)
        found["Name"] = f"/{name}"
        found["Config"]["Labels"] = {
            "com.docker.compose.project.config_files": "/a.yml,/b.yml",
            "com.docker.compose.project.environment_file": "/.env",
        }
        ports = {"lucid-kafka": 9092, "lucid-mongodb": 27017, "lucid-redis": 6379}
        found["Config"]["ExposedPorts"] = {f"{ports.get(name, 8086)}/tcp": {}}
        return found


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], None]:
    def use(fake: Engine) -> None:
        for module in (engine, validating):
            monkeypatch.setattr(module, "docker", fake)

    return use


def test_a_whole_stack_passes(made_up: Callable[[Engine], None]) -> None:
    made_up(Engine())
    report = validating.validate([STORAGE], [API], "1", "aa")
    assert report.failures == []
    assert report.healthy() == (4, 4)
    assert [one.subject for one in report.findings if one.verdict == "absent"] == [API.container]
    assert report.document()["ok"] is True


@pytest.mark.parametrize("name", [NAME, "lucid-redis"])
def test_a_missing_container_is_one_failure_and_is_not_healthy(
    made_up: Callable[[Engine], None], name: str
) -> None:
    made_up(Engine(broken=name))
    report = validating.validate([STORAGE], [], "1", "aa")
    assert [(one.subject, one.check) for one in report.failures] == [(name, "running")]
    assert report.healthy() == (3, 4)


@pytest.mark.parametrize("name", [NAME, "lucid-kafka"])
def test_a_container_that_does_not_stay_up_is_one_failure_with_its_reason(
    made_up: Callable[[Engine], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made_up(Engine())
    whole = Engine.container

    def container(asked: str) -> dict[str, Any]:
        found = whole(asked)
        if asked == name:
            found |= {"RestartCount": 4}
            found["State"] |= {"Status": "restarting", "ExitCode": 73}
        return found

    monkeypatch.setattr(validating, "container", container)
    monkeypatch.setattr(validating, "said", lambda _: "cannot write to /var/lib/lucid")
    report = validating.validate([STORAGE, API], [], "1", "aa")
    mine = [one for one in report.failures if one.subject != API.container]
    assert [(one.subject, one.check) for one in mine] == [(name, "running")]
    assert mine[0].detail.endswith("restarts so far: 4: cannot write to /var/lib/lucid")
    of_stack = {one.check: one for one in report.findings if one.subject == "stack"}
    assert of_stack["session"].detail == f"{name} does not run"
    assert (of_stack["topics"].verdict == "skipped") == (name == "lucid-kafka")


def test_what_a_container_said_is_asked_of_the_engine(made_up: Callable[[Engine], None]) -> None:
    class Logs(Engine):
        def __call__(self, arguments: Any, **_: Any) -> Any:
            assert arguments[0] == "logs"
            return subprocess.CompletedProcess(arguments, 0, "", "error: no such key\n")

    made_up(Logs())
    assert validating.said(NAME) == "no such key"


def test_nobody_waits_for_a_container_that_is_started_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validating, "container", lambda _: {
        "RestartCount": looking.GIVEN_UP, "State": {"Status": "restarting"}})  # fmt: skip
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    validating.settle(["a"])


def test_topics_that_differ_are_named_and_no_session_is_tried(
    made_up: Callable[[Engine], None],
) -> None:
    drift = [{"topic": "session.holds", "field": "retention.ms", "found": "1", "wanted": "-1"}]
    made_up(Engine(drift=drift))
    report = validating.validate([STORAGE, API], [], "1", "aa")
    of_stack = {one.check: one for one in report.findings if one.subject == "stack"}
    assert of_stack["topics"].detail == "1 differences: session.holds retention.ms: 1, not -1"
    assert of_stack["session"].verdict == "skipped"


def test_a_shell_that_runs_and_one_that_cannot_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(code: int, said: str) -> None:
        done = subprocess.CompletedProcess([], code, "", said)
        monkeypatch.setattr(validating, "docker", lambda *_, **__: done)

    answer(0, "")
    assert "/bin/sh runs" in validating.shell(NAME).detail
    answer(1, "Container is paused")
    assert "could not be tried: Container is paused" in validating.shell(NAME).detail
    answer(127, "stat /bin/sh: no such file or directory")
    assert not validating.shell(NAME).failed


def test_a_session_is_followed_to_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    class Commands:
        outcome = "ok"

        def lucid(self, *arguments: str, **_: object) -> str:
            if arguments[0] == "record":
                return json.dumps({"session": "s1"})
            return json.dumps({"outcome": self.outcome})

    monkeypatch.setattr(session, "SECONDS", 0.0)
    monkeypatch.setattr(session, "read", lambda *_: "")
    commands: Any = Commands()
    assert [one.verdict for one in session.through(commands, 1)] == ["ok", "ok", "ok"]
    commands.outcome = "incomplete"
    found = list(session.through(commands, 1))
    assert found[1].detail == "it does not verify: incomplete"

    def broken(*_: str, **__: object) -> str:
        raise engine.EngineProblem("docker compose: no such service")

    commands.lucid = broken
    verdicts = [one.verdict for one in session.through(commands, 1)]
    assert verdicts == ["failed", "skipped", "skipped"]


class Answering(BaseHTTPRequestHandler):
    """An API that knows one session, for whoever has the token."""

    def do_GET(self) -> None:
        known = self.path.endswith("/s1") and self.headers["Authorization"] == "Bearer t"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(b'{"session": "s1"}')

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error."""


def test_the_api_is_read_with_a_token() -> None:
    class Commands:
        def lucid(self, *arguments: str, **_: object) -> str:
            assert arguments[:2] == ("token", "issue")
            return '{"token": "t"}'

    commands: Any = Commands()
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert session.read(commands, server.server_port, "s1") == ""
        assert "404" in session.read(commands, server.server_port, "s2")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "does not give it out" in session.read(commands, server.server_port, "s1")


def test_what_cannot_be_read_is_a_failure() -> None:
    class Commands:
        said = ""

        def lucid(self, *arguments: str, **_: object) -> str:
            return self.said

    commands: Any = Commands()
    assert session.topics(commands).detail == "the broker could not be compared with topics.yaml"
    assert session.verified(commands, "s1") == "it is not in the catalog"
    commands.said = '{"outcome": "ok", "drift": []}'
    assert session.verified(commands, "s1") == ""
    assert not session.topics(commands).failed


def test_a_check_that_breaks_has_failed_and_stops_no_other(
    made_up: Callable[[Engine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(Engine())

    def broken(*_: object) -> Finding:
        raise KeyError("HostConfig")

    def away(_: object) -> dict[str, Any]:
        raise engine.EngineProblem("docker exec: it is paused")

    monkeypatch.setattr(looking, "limits", broken)
    monkeypatch.setattr(validating, "look_inside", away)
    report = validating.validate([STORAGE], [], "1", "aa")
    found = {one.check: one.detail for one in report.failures if one.subject == NAME}
    assert found == {
        "limits": "'HostConfig'",
        "isolation": "cannot look inside: docker exec: it is paused",
        "secrets": "cannot look inside: docker exec: it is paused",
    }


def test_validation_waits_for_the_first_look_at_health(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["starting", "healthy"])
    monkeypatch.setattr(validating, "container", lambda _: {
        "State": {"Status": "running", "Health": {"Status": next(states)}}})  # fmt: skip
    monkeypatch.setattr(time, "sleep", lambda _: None)
    validating.settle(["a"])
    assert next(states, "none") == "none"


def test_who_is_not_healthy_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {
        "a": {"Status": "running", "Health": {"Status": "healthy"}}, "b": {"Status": "exited"},
        "c": {"Status": "running"},
    }  # fmt: skip
    monkeypatch.setattr(
        validating, "container", lambda name: {"State": states[name]} if name in states else None
    )
    assert validating.wait_healthy(["a"], 0) == {}
    late = validating.wait_healthy(["a", "b", "c", "d"], 0)
    assert late == {"b": "exited", "c": "running", "d": "absent"}


def test_the_look_from_inside_is_true_of_this_process(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    (secrets / "keys").mkdir(parents=True)
    (secrets / "keys" / "one.key").touch(0o600)
    (secrets / "open").touch()
    (secrets / "open").chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        asked = {"reach": [["127.0.0.1", port], ["127.0.0.1", 1]], "secrets": str(secrets),
                 "state": [str(tmp_path), str(tmp_path / "gone")]}  # fmt: skip
        script = Path(validating.__file__).with_name("inside.py").read_text()
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-", json.dumps(asked)], input=script,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["uid"] == os.getuid()
    assert found["reached"] == {f"127.0.0.1:{port}": True, "127.0.0.1:1": False}
    assert found["unwritable"] == [str(tmp_path / "gone")]
    assert found["keys"] == ["one.key"]
    assert found["open_secrets"] == {str(secrets / "open"): "0o644"}
    int(found["bounding"], 16)


def test_a_report_is_one_document() -> None:
    report = Report((ok("a", "health"), failed("b", "health", "x\n  y"), skipped("c", "d", "e")))
    document = report.document()
    assert (document["healthy"], document["containers"], document["failed"]) == (1, 2, 1)
    assert report.failures[0].detail == "x y"


def test_docker_that_is_missing_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(engine.EngineProblem, match="there is no docker command"):
        engine.docker(["version"])


def test_compose_is_called_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        engine,
        "docker",
        lambda arguments, **_: (
            seen.append(arguments),
            subprocess.CompletedProcess(arguments, 0, "out", ""),
        )[1],
    )
    assert engine.Compose(Engine.container("lucid-kafka")).lucid("verify", "x") == "out"
    assert seen[0][:9] == ["compose", "--project-name", "lucid", "-f", "/a.yml", "-f", "/b.yml",
                           "--env-file", "/.env"]  # fmt: skip
