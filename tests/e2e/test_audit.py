"""Reading a session leaves a trace in a chain, also when the broker is away meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Stack
from tests.e2e.conftest import Installation, install

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def own(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    installation = install(tmp_path / "home", stack)
    try:
        for service in ("processor", "storage", "pipeline"):
            installation.start(service)
        yield installation
    finally:
        statuses = {name: installation.stop(name) for name in list(installation.running)}
        assert set(statuses.values()) <= {0}, statuses


def test_verifying_and_bundling_are_audited(own: Installation, tmp_path: Path) -> None:
    session = own.lucid("record", "--synthetic", "5", "--size", "2000", "--json")["session"]
    assert own.settled(session) == "completed"
    assert own.lucid("verify", session, "--json")["outcome"] == "ok"
    bundle = tmp_path / "session.lucid"
    own.lucid("bundle", session, "-o", str(bundle), "--json")
    own.lucid("verify", str(bundle), "--json")  # offline: nobody is told

    kafka, own.env["LUCID_KAFKA"] = own.env["LUCID_KAFKA"], NOWHERE
    away = own.lucid("verify", session, check=False)
    assert away.returncode == 0, away.stderr
    assert b"warning: that you verified it stands on this disk only" in away.stderr
    refused = own.lucid("bundle", session, "-o", str(tmp_path / "no.lucid"), check=False)
    assert refused.returncode == 69
    assert not (tmp_path / "no.lucid").exists()
    own.env["LUCID_KAFKA"] = kafka

    export = own.lucid("export", session, str(tmp_path / "a.mp4"), check=False)
    assert (export.returncode, b"NotAPicture" in export.stderr) == (65, False)
    own.lucid("verify", session, "--json")
    found = own.lucid("audit", "list", "--session", session, "--json")["entries"]
    assert [(one["type"].split(".")[2], one["number"]) for one in found] == [
        ("session_verified", 1), ("session_exported", 2),
        ("session_verified", 3), ("session_verified", 4),
    ]  # fmt: skip
    assert found[0]["data"]["outcome"] == "ok"
    assert found[1]["data"] == {
        "session": session, "form": "bundle", "file_type": "lucid", "size": bundle.stat().st_size,
    }  # fmt: skip
    checked = own.lucid("audit", "verify", "--json")
    assert checked["ok"]
    assert checked["chains"][0]["confirmed"] == ["this installation"]

    # Where nothing can be put down, nothing is read.
    (own.home / "audit").rename(own.home / "aside")
    (own.home / "audit").write_text("")
    blocked = own.lucid("verify", session, check=False)
    assert (blocked.returncode, blocked.stdout) == (74, b"")
