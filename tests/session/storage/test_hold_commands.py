"""`lucid hold set` on something that nobody knows: it stands, and is told to be unknown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.session.storage import hold_commands
from schemas.retention import Hold

SESSION = "018bcfe5-6800-7000-8000-000000000001"
OTHER = "018bcfe5-6800-7000-8000-000000000002"


class Sessions:
    """A catalog with one session, of project `lovelace`."""

    async def get(self, _: str, key: str) -> dict[str, Any] | None:
        return {"_id": key} if key == SESSION else None

    async def scan(self, _: str) -> AsyncIterator[dict[str, Any]]:
        yield {"_id": OTHER}
        yield {"_id": SESSION, "opened": {"project": "lovelace"}}


@pytest.mark.parametrize(
    ("scope", "known"),
    [({"session": SESSION}, True), ({"session": OTHER}, False), ({}, True),
     ({"project": "lovelace"}, True), ({"project": "lovelce"}, False)],
)  # fmt: skip
async def test_what_is_held_is_looked_up(scope: dict[str, str], known: bool) -> None:
    house: Any = SimpleNamespace(catalog=Sessions())
    hold = Hold(id="hold-000000000001", reason="case 7", set_by="ada", set_at=1,
                session=scope.get("session"), project=scope.get("project"))  # fmt: skip
    assert await hold_commands._known(house, hold) is known


@pytest.mark.parametrize("known", [True, False])
def test_an_unknown_name_is_told(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def done(*_: object) -> tuple[list[str], bool]:
        return [], known

    monkeypatch.setattr(hold_commands, "_set", done)
    arguments = ["hold", "set", "--session", SESSION, "--reason", "case 7"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0
    assert ("knows nothing of" in told.stderr) is not known
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["known"] is known


def test_that_no_finding_is_open_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object) -> list[object]:
        return []

    monkeypatch.setattr("agents.session.storage.commands._open_findings", none)
    done = CliRunner().invoke(app, ["scrub", "--list"])
    assert (done.exit_code, done.stdout) == (0, "0 findings are open\n")


def test_a_wait_below_zero_is_refused() -> None:
    done = CliRunner().invoke(app, ["rdp", "block-port", "22", "--wait", "-1"])
    assert done.exit_code == 2
    assert "greater than or equal to 0" in done.stderr
