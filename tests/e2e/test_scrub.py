"""Damage of stored files: found by the running service and by `lucid scrub`, told and shown."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Stack
from tests.e2e.conftest import Installation, install
from tests.waiting import wait_for

UNKNOWN = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
CHUNK = "00000000.chunk"


@pytest.fixture
def own(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    """An installation whose storage scrubs all the time."""
    installation = install(tmp_path / "home", stack)
    installation.env.update(
        LUCID_STORAGE_SCRUB_PAUSE="0.3", LUCID_STORAGE_SCRUB_RATE="64MiB",
        LUCID_STORAGE_SCRUB_GRACE="2",
    )  # fmt: skip
    try:
        for service in ("processor", "storage", "pipeline"):
            installation.start(service)
        yield installation
    finally:
        statuses = {name: installation.stop(name) for name in list(installation.running)}
        assert set(statuses.values()) <= {0}, statuses


def scrub(own: Installation, *arguments: str) -> tuple[int, Any]:
    done = own.lucid("scrub", "--json", *arguments, check=False)
    return done.returncode, json.loads(done.stdout)


def metric(own: Installation, name: str) -> float:
    port = own.port("storage", own.running["storage"])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as got:
        found = re.search(rf"^{re.escape(name)} (\S+)", got.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_damage_is_found_told_shown_and_taken_back(own: Installation) -> None:
    session = own.lucid("record", "--synthetic", "10", "--size", "5000", "--json")["session"]
    assert own.settled(session) == "completed"
    folder = own.home / "blobs" / session
    status, found = scrub(own, "--session", session)
    assert (status, found["sessions"], found["files"], found["findings"]) == (0, 1, 4, [])
    assert found["bytes"] == sum(path.stat().st_size for path in folder.iterdir())

    whole = (folder / CHUNK).read_bytes()
    (folder / CHUNK).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (folder / "key.age").rename(folder / "key.aside")

    def damaged() -> list[str]:
        return list(own.lucid("sessions", "show", session, "--json")["damaged"])

    # Not by the command: the service looks by itself.
    wait_for(lambda: damaged() == [CHUNK, "key.age", "key.aside"], "findings of the service")
    assert own.state(session) == "completed"
    counted = 'lucid_scrub_findings_total{verdict="%s"}'
    assert [metric(own, counted % one) for one in ("ChecksumMismatch", "MissingFile")] == [1, 1]
    assert metric(own, "lucid_scrub_open_findings") == 3
    rounds = metric(own, "lucid_scrub_last_round_end_seconds")
    wait_for(lambda: metric(own, "lucid_scrub_last_round_end_seconds") > rounds, "another round")
    assert metric(own, counted % "ChecksumMismatch") == 1, "told once, not each round"

    for arguments in (["--session", session], ["--list"], ["--no-record"], []):
        status, found = scrub(own, *arguments)
        verdicts = {one["name"]: one["verdict"] for one in found["findings"]}
        assert (status, verdicts) == (1, {
            CHUNK: "ChecksumMismatch", "key.age": "MissingFile", "key.aside": "UnexpectedFile",
        })  # fmt: skip
        assert f"lucid replay --session {session} --repair" in found["findings"][0]["advice"]
    shown = own.lucid("scrub", check=False)
    assert shown.returncode == 1
    assert b"ChecksumMismatch" in shown.stdout
    assert b"3 findings" in shown.stdout

    (folder / CHUNK).write_bytes(whole)
    (folder / "key.aside").rename(folder / "key.age")
    wait_for(lambda: damaged() == [], "findings that are taken back")
    assert scrub(own, "--list") == (0, {"findings": []})
    done = own.lucid("scrub", check=False)
    assert (done.returncode, b": 0 findings" in done.stdout) == (0, True)
    assert own.lucid("verify", session, "--json")["session"] == session

    assert own.stop("storage") == 0
    (folder / "key.age").unlink()
    status, found = scrub(own)
    told = [one["name"] for one in found["findings"]]
    assert (status, told) == (1, ["key.age"]), "JSON alone, also with news to tell"


def test_bad_input_says_what_to_do(own: Installation) -> None:
    for status, arguments in {
        66: ["--session", UNKNOWN], 65: ["--session", "nonsense"], 2: ["--rate", "fast"],
    }.items():  # fmt: skip
        done = own.lucid("scrub", *arguments, check=False)
        assert done.returncode == status, done.stderr
        assert b"Traceback" not in done.stderr
    own.env["LUCID_MONGO"] = "mongodb://127.0.0.1:1/"
    done = own.lucid("scrub", "--list", check=False)
    assert (done.returncode, b"LUCID_MONGO" in done.stderr) == (69, True)
