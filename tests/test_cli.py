"""The `lucid` command itself: how errors of any kind reach the user."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from agents import cli, entry
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


@pytest.mark.parametrize(
    ("trouble", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(32, "Broken pipe"), 141)]
)
def test_a_command_that_was_ended_has_found_nothing_wrong(
    trouble: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise trouble

    monkeypatch.setattr("agents.platform.topic_commands.load_contract", fail)
    monkeypatch.setattr(sys, "argv", ["lucid", "topics", "asyncapi"])
    assert cli.main() == status


def test_a_reader_that_is_gone_is_told_from_a_wrong_recording() -> None:
    command = [sys.executable, "-m", "agents.cli", "sessions", "--help"]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout is not None
    done.stdout.close()
    assert (done.communicate(timeout=60)[1], done.returncode) == (b"", 141)


def test_an_interruption_while_modules_are_loaded_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "agents.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "agents.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert entry.main() == 130


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


def commands(found: Any, name: str = "lucid") -> Iterator[tuple[str, Any]]:
    """A command and all below it, by their names."""
    yield name, found
    for below, one in getattr(found, "commands", {}).items():
        yield from commands(one, f"{name} {below}")


def test_what_asks_first_is_answered_beforehand_in_the_same_way() -> None:
    asking = {
        name: {option for parameter in one.params for option in parameter.opts}
        for name, one in commands(typer.main.get_command(cli.app))
    }
    asking = {name: options for name, options in asking.items() if "--yes" in options}
    assert {"lucid stack reset", "lucid dead-letters replay"} <= set(asking)
    assert all("-y" in options for options in asking.values()), asking
