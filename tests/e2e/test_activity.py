"""Activity from a display to an auditor, through the real services."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.conftest import Installation, xvfb

pytestmark = pytest.mark.display
POLICY = {"windows": True, "clipboard": "use", "files": False, "keys": "basic"}


@contextmanager
def figures(display: str) -> Iterator[None]:
    """A terminal with a title of its own."""
    shown = subprocess.Popen(
        ["xterm", "-display", display, "-T", "Quarterly figures", "-e", "cat"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        subprocess.run(
            ["xdotool", "search", "--sync", "--onlyvisible", "--name", "Quarterly",
             "windowfocus", "--sync"],
            env={"DISPLAY": display, "PATH": "/usr/local/bin:/usr/bin:/bin"}, check=True,
            capture_output=True, timeout=30,
        )  # fmt: skip
        yield
    finally:
        shown.kill()
        shown.wait()


def listed(own: Installation, session: str, *arguments: str) -> list[dict[str, Any]]:
    return list(own.lucid("activity", session, "--json", *arguments)["entries"])


def test_activity_is_sealed_searched_and_audited(
    lucid: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with xvfb() as (display, _), figures(display):
        refused = lucid.lucid("recorder", "start", display, "--keys", "strict", check=False)
        with monkeypatch.context() as patch:
            patch.setitem(lucid.env, "LUCID_RECORDER_ACTIVITY", json.dumps(POLICY))
            told = lucid.lucid("record", "--display", display, "--duration", "3", "--json")
    session = str(told["session"])
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"LUCID_RECORDER_ACTIVITY_MOST" in refused.stderr
    assert lucid.settled(session) == "completed"
    assert lucid.lucid("verify", session, "--json")["outcome"] == "ok"
    watching = listed(lucid, session, "--type", "watching")
    assert [one["policy"] for one in watching] == [POLICY]
    found = listed(lucid, session, "--search", "quarterly")
    assert {(one["type"], one["program"]) for one in found} == {("window", "XTerm")}
    trail = lucid.lucid("audit", "list", "--session", session, "--json")["entries"]
    read = [one["data"] for one in trail if one["type"].split(".")[2] == "resource_read"]
    assert [(one["action"], one["items"]) for one in read] == [
        ("activity.read", 1), ("activity.read", len(found)),
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setitem(lucid.env, "LUCID_KAFKA", "127.0.0.1:1")
        closed = lucid.lucid("activity", session, check=False)
    assert (closed.returncode, closed.stdout) == (69, b"")
    # The log gives the same bytes again.
    assert lucid.lucid("replay", "--session", session, check=False).returncode == 0
