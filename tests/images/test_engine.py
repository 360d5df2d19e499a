"""An engine is started only where that can be done, and only one's own is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from containers import docker, engine
from containers.errors import BuildProblem, run


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engine, "OUT", tmp_path)
    monkeypatch.setattr(engine, "PID_FILE", tmp_path / "dockerd.pid")
    monkeypatch.setattr(engine, "LOG", tmp_path / "dockerd.log")
    return tmp_path


def program(folder: Path, name: str, body: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)


def test_without_an_engine_and_without_a_way_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine.answers() is False
    with pytest.raises(BuildProblem, match="no Docker engine answers, and none can be started"):
        engine.ensure()


def test_an_engine_that_answers_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "docker", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert engine.ensure() is False
    assert not engine.PID_FILE.exists()
    assert engine.stop() is False


def test_an_engine_that_does_not_come_up_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "docker", "raise SystemExit(1)")
    program(tmp_path, "dockerd", "raise SystemExit('no space')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(BuildProblem, match="dockerd does not come up; its log is"):
        engine.ensure()
    assert "no space" in engine.LOG.read_text()


def test_a_process_of_that_number_that_is_no_engine_is_not_ended(own_files: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        engine.PID_FILE.write_text(f"{other.pid}\n")
        assert engine.stop() is True
        assert other.poll() is None
        assert not engine.PID_FILE.exists()
        assert other.stdin is not None
        other.stdin.close()


def test_a_program_that_fails_is_told_with_its_last_lines() -> None:
    with pytest.raises(BuildProblem, match=r"a step failed with exit status 3:\n  why"):
        run([sys.executable, "-c", "print('why'); raise SystemExit(3)"], what="a step")
    with pytest.raises(BuildProblem, match="the program no-such-program is not installed"):
        run(["no-such-program"], what="a step")
    assert run([sys.executable, "-c", "print('x')"], what="a step") == "x\n"


@pytest.mark.parametrize(
    ("version", "found"), [("20.10.24+dfsg1, build 1", True), ("28.2.2, build 1", False)]
)
def test_an_old_docker_has_buildkit_in_it(tmp_path: Path, version: str, found: bool) -> None:
    body = "import sys\nif sys.argv[1] == 'buildx': raise SystemExit(1)\n"
    program(tmp_path, "docker", body + f"print('Docker version {version}')")
    assert docker._has_buildkit(str(tmp_path / "bin/docker")) is found
