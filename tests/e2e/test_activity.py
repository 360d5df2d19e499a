"""Activity from a display to an auditor, through the real services."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Stack
from tests.e2e.conftest import Installation, install, wait_for, xvfb
from tests.e2e.test_spine import live_session

pytestmark = pytest.mark.display
MOST = '{"clipboard": "use", "keys": "basic"}'


@pytest.fixture
def own(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    installation = install(tmp_path / "home", stack, LUCID_RECORDER_ACTIVITY_MOST=MOST)
    try:
        for service in ("processor", "storage", "pipeline", "recorder"):
            installation.start(service)
        yield installation
    finally:
        statuses = {name: installation.stop(name) for name in list(installation.running)}
        assert set(statuses.values()) <= {0}, statuses


def listed(own: Installation, session: str, *arguments: str) -> list[dict[str, Any]]:
    return list(own.lucid("activity", session, "--json", *arguments)["entries"])


def test_activity_is_sealed_searched_and_audited(own: Installation, tmp_path: Path) -> None:
    with xvfb() as (display, _):
        shown = subprocess.Popen(
            ["xterm", "-display", display, "-T", "Quarterly figures", "-e", "cat"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            subprocess.run(
                ["xdotool", "search", "--sync", "--onlyvisible", "--name", "Quarterly",
                 "windowfocus", "--sync"],
                env={**own.env, "DISPLAY": display}, check=True, capture_output=True, timeout=30,
            )  # fmt: skip
            refused = own.lucid("recorder", "start", display, "--keys", "strict", "--json")
            log = own.home / "recorder.log"
            wait_for(lambda: refused["command"] in log.read_text(), "refused command")
            assert "ActivityRefused" in log.read_text()
            assert (
                own.lucid("recorder", "start", display, "--keys", "x", check=False).returncode == 2
            )
            own.lucid("recorder", "start", display, "--keys", "basic", "--clipboard", "use",
                      "--owner", "ada", "--json")  # fmt: skip
            session = str(wait_for(lambda: live_session(own, "ada"), "session of the display"))
            spool = own.home / "spool" / session
            wait_for(lambda: sum(one.stat().st_size for one in spool.glob("*.log")), "records")
            own.lucid("recorder", "pause", session)
            own.lucid("recorder", "resume", session)
            wait_for(lambda: own.state(session) == "recording", "resumed session")
            own.lucid("recorder", "stop", session)
            assert own.settled(session) == "completed"
        finally:
            shown.kill()
            shown.wait()
    assert own.lucid("verify", session, "--json")["outcome"] == "ok"
    watching = listed(own, session, "--type", "watching")
    policy = {"windows": True, "clipboard": "use", "files": False, "keys": "basic"}
    assert watching
    assert all(one["policy"] == policy for one in watching)
    found = listed(own, session, "--search", "quarterly")
    assert {(one["type"], one["program"]) for one in found} == {("window", "XTerm")}
    trail = own.lucid("audit", "list", "--session", session, "--json")["entries"]
    read = [one["data"] for one in trail if one["type"].split(".")[2] == "resource_read"]
    assert [(one["action"], one["items"]) for one in read] == [
        ("activity.read", len(watching)), ("activity.read", len(found)),
    ]  # fmt: skip
    film = own.lucid("export", session, str(tmp_path / "a.mp4"), "--json")
    assert (film["width"], film["height"]) == (640, 480)
    kafka, own.env["LUCID_KAFKA"] = own.env["LUCID_KAFKA"], "127.0.0.1:1"
    closed = own.lucid("activity", session, check=False)
    assert (closed.returncode, closed.stdout) == (69, b"")
    own.env["LUCID_KAFKA"] = kafka
    assert own.lucid("replay", "--session", session).returncode == 0  # the same bytes again
