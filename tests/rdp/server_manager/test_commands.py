"""What `lucid rdp` refuses before anybody is asked."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from agents.rdp.server_manager import commands
from agents.rdp.server_manager.commands import InvalidServer


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["odd", "--width", "319"], "width"),
        (["odd", "--height", "4321"], "height"),
        (["odd", "--colour-depth", "8"], "colour-depth"),
        (["odd", "--cpu", "9"], "cpu"),
        (["odd", "--memory-mb", "100"], "memory-mb"),
        (["odd", "--disk-gb", "0"], "disk-gb"),
        (["odd", "--security", "none"], "security"),
        (["odd", "--max-sessions", "21"], "max-sessions"),
        (["odd", "--log-level", "loud"], "log-level"),
        (["odd", "--port", "70000"], "port"),
        (["Odd Name"], "name"),
    ],
)
def test_a_server_that_cannot_be_is_refused_and_says_why(arguments: list[str], what: str) -> None:
    done = CliRunner().invoke(commands.app, ["create", *arguments])
    assert isinstance(done.exception, InvalidServer)
    assert what in str(done.exception)
    assert "lucid rdp create --help" in str(done.exception)
    assert done.exception.exit_status == 64
