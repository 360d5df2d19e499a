"""The `lucid` command itself: how errors of any kind reach the user."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agents import cli
from schemas.errors import LucidError


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lucid", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("lucid 0.")


def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    command = [sys.executable, "-m", "agents.cli", "topics", "asyncapi"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, text=True, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 74
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["recorder", "start", "nonsense"], "display: String should match"),
        (["recorder", "start", ":0", "--owner", "a" * 1001], "--owner: String should have at most"),
        (["record", "--synthetic", "1", "--owner", "a" * 1001], "--owner: String should have"),
        (["record", "--synthetic", "1", "--project", "\udcff"], "--project: Input should be a"),
    ],
)
def test_a_wrong_value_is_told_as_one_of_the_command_line(
    args: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lucid", *args])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_an_error_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise LucidError("the owner is \x1b[31mred")

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main() == 1
    assert capsys.readouterr().err == "error: the owner is \\x1b[31mred\n"


def test_an_error_that_is_none_of_the_disk_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ConnectionRefusedError):
        cli.main()
