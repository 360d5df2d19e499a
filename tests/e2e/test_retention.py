"""Policies, holds and erasure with all services running, by their commands."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from typing import Any

import pytest

from agents.platform.catalog import Catalog
from agents.platform.clock import wall_clock
from agents.platform.contract import load_contract
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.retention import DAY
from tests.e2e.conftest import Installation
from tests.waiting import wait_for

UNKNOWN = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"


def settled_before(lucid: Installation, session: str, days: int) -> None:
    """As if the session had been counted so many days ago."""
    settings = Settings.load(
        home=lucid.home, mongo=lucid.env["LUCID_MONGO"], database=lucid.env["LUCID_DATABASE"]
    )

    async def change() -> bool:
        async with Catalog(settings) as catalog:
            before = await catalog.get("sessions", session)
            assert before is not None
            moment = wall_clock() - days * DAY
            return await catalog.put_version(
                "sessions", {**before, "settled_at": moment, "version": before["version"] + 1}
            )

    assert asyncio.run(change())


def erasures(lucid: Installation, session: str) -> dict[str, str]:
    return dict(lucid.lucid("sessions", "show", session, "--json")["erased"])


def plan(lucid: Installation, session: str) -> list[dict[str, Any]]:
    return list(lucid.lucid("retention", "plan", "--session", session, "--json")["rows"])


def test_a_session_is_erased_and_stays_provable(lucid: Installation) -> None:
    done = lucid.lucid(
        "record", "--synthetic", "20", "--size", "3000", "--project", "lovelace", "--json"
    )
    session = done["session"]
    assert lucid.settled(session) == "completed"
    folder = lucid.home / "blobs" / session
    before = lucid.lucid("verify", session, "--json")
    assert plan(lucid, session) == []

    settled_before(lucid, session, 31)
    (row,) = plan(lucid, session)
    assert (row["action"], row["stage"], row["project"]) == ("erase", "content", "lovelace")
    assert (row["policy"], row["keep"]) == ("default", "30d")
    refused = lucid.lucid("retention", "apply", "--session", session, check=False)
    assert (refused.returncode, b"--yes" in refused.stderr) == (64, True)
    assert session.encode() in refused.stdout, "the plan is shown first"
    assert (folder / "key.age").exists()

    a_hold_wins(lucid, session)
    content_goes_and_its_proof_stays(lucid, session, before)
    metadata_goes_too(lucid, session, before)


def a_hold_wins(lucid: Installation, session: str) -> None:
    """Also over the next apply."""
    held = lucid.lucid("hold", "set", "--project", "lovelace", "--reason", "case 7", "--json")
    assert (held["on"], held["too_late_for"]) == ("project/lovelace", [])
    (row,) = plan(lucid, session)
    assert (row["action"], row["why"], row["held_by"]) == ("held", "case 7", [held["id"]])
    done = lucid.lucid("retention", "apply", "--session", session, "--yes", "--json")
    assert done["done"] == []
    listed = lucid.lucid("hold", "list", "--json")["holds"]
    assert [one["id"] for one in listed] == [held["id"]]
    assert held["id"].encode() in lucid.lucid("hold", "list").stdout
    lucid.lucid("hold", "release", held["id"], "--reason", "case closed")
    assert lucid.lucid("hold", "list", "--json")["holds"] == []


def content_goes_and_its_proof_stays(
    lucid: Installation, session: str, before: dict[str, Any]
) -> None:
    folder = lucid.home / "blobs" / session
    done = lucid.lucid("retention", "apply", "--session", session, "--yes", "--json")
    assert [one["outcome"] for one in done["done"]] == ["shredded"]
    wait_for(lambda: erasures(lucid, session) == {"content": "shredded"}, "the pipeline's word")
    assert lucid.state(session) == "completed"
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.txt", "erasure-content.txt", "headers.bin", "leaves.txt", "manifest.json",
    ]  # fmt: skip
    after = lucid.lucid("verify", session, "--json")
    assert (after["outcome"], after["root"]) == ("erased", before["root"])
    assert after["signers"] == before["signers"]
    shown = lucid.lucid("verify", session)
    assert b"erased" in shown.stdout
    assert b"proven by their leaves" in shown.stdout
    assert b"completed, content shredded" in lucid.lucid("sessions", "list").stdout

    bundle = lucid.home / "erased.lucid"
    lucid.lucid("bundle", session, "-o", str(bundle))
    trusted = str(lucid.home / "keys" / "trusted.txt")
    assert lucid.lucid("verify", str(bundle), "--trust", trusted, "--json")["outcome"] == "erased"
    again = ["replay", "--session", session]
    for arguments in (["export", session, str(lucid.home / "a.mp4")], again, [*again, "--repair"]):
        gone = lucid.lucid(*arguments, check=False)
        assert (gone.returncode, b"erased" in gone.stderr) == (66, True), gone.stderr
    assert lucid.lucid("scrub", "--session", session, "--json")["findings"] == []

    # What still holds something of it, and until when, is what the plan says now.
    (row,) = plan(lucid, session)
    assert row["action"] == "wait"
    assert "session.progress has its wrapped key" in row["why"]
    assert b"session.frames" in lucid.lucid("retention", "plan").stdout


def metadata_goes_too(lucid: Installation, session: str, before: dict[str, Any]) -> None:
    settled_before(lucid, session, 91)
    done = lucid.lucid("retention", "apply", "--session", session, "--yes", "--json")
    assert [(one["stage"], one["outcome"]) for one in done["done"]] == [
        ("content", "waiting"), ("metadata", "shredded"),
    ]  # fmt: skip
    bundle = lucid.home / "erased.lucid"
    stages = {"content": "shredded", "metadata": "shredded"}
    wait_for(lambda: erasures(lucid, session) == stages, "the pipeline's word")
    found = lucid.lucid("sessions", "show", session, "--json")
    assert (found["host"], found["project"], found["owner"]) == ("", "", "")
    last = lucid.lucid("verify", session, "--json")
    assert (last["outcome"], last["root"]) == ("erased", before["root"])
    assert last["erasure"]["stage"] == "metadata"
    assert lucid.lucid("bundle", session, "-o", str(bundle), "--force", check=False).returncode == 1
    lucid.lucid("projections", "rebuild", "sessions")
    assert erasures(lucid, session) == stages
    assert lucid.lucid("sessions", "show", session, "--json")["host"] == ""
    done = lucid.lucid("retention", "apply", "--session", session, "--yes")
    assert b"waiting" in done.stdout


def test_late_chunks_are_no_matter_for_the_running_storage(lucid: Installation) -> None:
    session = lucid.lucid("record", "--synthetic", "5", "--size", "900", "--json")["session"]
    assert lucid.settled(session) == "completed"
    settled_before(lucid, session, 40)
    lucid.lucid("retention", "apply", "--session", session, "--yes")
    folder = lucid.home / "blobs" / session
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "key.age" not in files
    before = metric(lucid, "lucid_stored_erased_total")
    sent = asyncio.run(send_again(lucid, session))
    wait_for(lambda: metric(lucid, "lucid_stored_erased_total") == before + sent, "refused records")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    mine = lucid.lucid("dead-letters", "list", "--session", session, "--json")["letters"]
    assert mine == []
    assert lucid.lucid("verify", session, "--json")["outcome"] == "erased"


async def send_again(lucid: Installation, session: str) -> int:
    """Produce what the broker still has of a session's chunks and manifest once more."""
    settings = Settings.load(
        home=lucid.home, kafka=lucid.env["LUCID_KAFKA"],
        topic_prefix=lucid.env["LUCID_TOPIC_PREFIX"],
    )  # fmt: skip
    contract, sent = load_contract(settings), 0
    async with Producer(settings, contract.limits) as producer:
        for name in ("session.chunks", "session.manifests"):
            topic = contract.topic(name).full_name
            async for raw in read_topic(settings, topic):
                if raw.key == session.encode():
                    await producer.send(
                        topic, raw.value, key=raw.key, headers=[*raw.headers],
                        partition=raw.partition,
                    )  # fmt: skip
                    sent += 1
    assert sent >= 2
    return sent


def metric(lucid: Installation, name: str) -> float:
    port = lucid.port("storage", lucid.running["storage"])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as got:
        found = re.search(rf"^{name} (\S+)", got.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["hold", "set", "--reason", "x"], 2, b"--everything"),
        (["hold", "set", "--session", UNKNOWN, "--everything", "--reason", "x"], 2, b"one of"),
        (["hold", "set", "--session", "nonsense", "--reason", "x"], 65, b"session id"),
        (["hold", "set", "--everything", "--reason", ""], 2, b"reason"),
        (["hold", "set", "--project", "", "--reason", "x"], 2, b"project"),
        (["hold", "release", "hold-000000000000", "--reason", "x"], 66, b"hold list"),
        (["hold", "release", "hold-000000000000", "--reason", "a\nb"], 2, b"reason"),
        (["retention", "plan", "--session", "nonsense"], 65, b"session id"),
    ],
)
def test_bad_input_says_what_to_do(
    lucid: Installation, arguments: list[str], status: int, says: bytes
) -> None:
    done = lucid.lucid(*arguments, check=False)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CHUNKS", "0d"), ("SESSIONS", "1y"), ("PROJECT", "{"), ("PROJECT", '{"a": {"chunks": "9"}}'),
     ("SESSION", '{"nonsense": {"chunks": "9d"}}'), ("AUDITS", "1d")],
)  # fmt: skip
def test_a_wrong_policy_deletes_nothing(lucid: Installation, variable: str, value: str) -> None:
    name = f"LUCID_RETENTION_{variable}"
    env = {**lucid.env, name: value}
    done = Installation(lucid.home, env).lucid("retention", "apply", "--yes", check=False)
    assert done.returncode == 78, done.stderr
    assert name.encode() in done.stderr.upper()
    assert b"Traceback" not in done.stderr


def test_policies_of_projects_come_from_the_environment(lucid: Installation) -> None:
    session = lucid.lucid(
        "record", "--synthetic", "3", "--size", "500", "--project", "short", "--json"
    )["session"]
    assert lucid.settled(session) == "completed"
    settled_before(lucid, session, 2)
    assert plan(lucid, session) == []
    env = {**lucid.env, "LUCID_RETENTION_PROJECT": json.dumps({"short": {"chunks": "2d"}})}
    (row,) = plan(Installation(lucid.home, env), session)
    assert (row["policy"], row["keep"]) == ("project", "2d")


def test_without_a_storages_key_nothing_is_deleted(lucid: Installation) -> None:
    key = lucid.home / "keys" / "storage.key"
    key.rename(key.with_suffix(".aside"))
    try:
        done = lucid.lucid("retention", "apply", "--yes", check=False)
    finally:
        key.with_suffix(".aside").rename(key)
    assert (done.returncode, b"lucid keys init" in done.stderr) == (78, True)
