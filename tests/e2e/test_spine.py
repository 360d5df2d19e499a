"""Sessions through all services and the real servers, and checked from outside."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from agents.platform.keys import load_identities
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.session.processor.sealer import open_session
from agents.session.processor.session import Session
from schemas.frames import from_kafka
from tests.e2e.conftest import Installation, xvfb
from tests.waiting import wait_for


def record(lucid: Installation, *arguments: str) -> str:
    """Record made-up frames; the session's id."""
    return str(lucid.lucid("record", "--json", *arguments)["session"])


def test_a_session_is_recorded_sealed_stored_counted_and_verified(lucid: Installation) -> None:
    session = record(lucid, "--synthetic", "120", "--size", "100000")
    assert lucid.settled(session) == "completed"
    report = lucid.lucid("verify", session, "--json")
    assert report["session"] == session
    shown = lucid.lucid("sessions", "show", session, "--json")
    assert shown["frames"] == 120
    assert shown["chunks"] == 2
    files = sorted(path.name for path in (lucid.home / "blobs" / session).iterdir())
    assert files == [
        "00000000.chunk", "00000001.chunk", "checkpoint.txt", "key.age", "manifest.json",
    ]  # fmt: skip
    listed = lucid.lucid("sessions", "list", "--json")["sessions"]
    assert session in [one["session"] for one in listed]


def test_a_bundle_is_verified_without_any_server(lucid: Installation, tmp_path: Path) -> None:
    session = record(lucid, "--synthetic", "5", "--size", "5000")
    lucid.settled(session)
    bundle = tmp_path / "session.lucid"
    lucid.lucid("bundle", session, "-o", str(bundle))
    alone = Installation(tmp_path, {"PATH": lucid.env["PATH"], "LUCID_HOME": str(tmp_path)})
    keys = lucid.home / "keys"
    trusted, identity = str(keys / "trusted.txt"), str(keys / "auditor.age")
    done = alone.lucid(
        "verify", str(bundle), "--trust", trusted, "--identity", identity, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    done = alone.lucid(
        "verify", str(bundle), "--trust", trusted, "--identity", identity, check=False
    )
    assert done.returncode != 0


def test_a_flipped_byte_in_the_store_fails_the_verification(lucid: Installation) -> None:
    session = record(lucid, "--synthetic", "5", "--size", "5000")
    lucid.settled(session)
    chunk = lucid.home / "blobs" / session / "00000000.chunk"
    data = bytearray(chunk.read_bytes())
    data[1000] ^= 1
    chunk.write_bytes(data)
    done = lucid.lucid("verify", session, "--json", check=False)
    assert done.returncode == 1
    assert b"leaf" in done.stdout


def test_standard_input_is_recorded_to_its_end(lucid: Installation) -> None:
    done = lucid.lucid("record", "--file", "-", "--json", input=b"some bytes\n" * 1000)
    assert (done["raw_bytes"], done["reason"]) == (11_000, "end of the source")
    assert lucid.settled(done["session"]) == "completed"


def test_a_recorder_that_vanishes_is_abandoned_and_said_to_be_incomplete(
    lucid: Installation,
) -> None:
    process, session = lucid.record("--synthetic", "100000", "--size", "1000", "--rate", "20")
    wait_for(lambda: lucid.state(session) == "recording", "recording session")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert lucid.settled(session) == "incomplete"
    shown = lucid.lucid("sessions", "show", session, "--json")
    assert shown["ended_by"] == "abandon"
    assert any("vanished" in line or "abandon" in line for line in shown["shortcomings"])
    assert lucid.lucid("verify", session, check=False).returncode == 1


def test_ctrl_c_closes_a_session_properly(lucid: Installation) -> None:
    process, session = lucid.record("--synthetic", "100000", "--size", "1000", "--rate", "20")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"stopped by SIGINT" in out
    assert lucid.settled(session) == "completed"


def test_two_processors_share_interleaved_sessions_and_the_log_gives_the_same_bytes_again(
    lucid: Installation,
) -> None:
    lucid.start("processor", "processor2")
    try:
        recorders = [
            subprocess.Popen(
                [sys.executable, "-m", "agents.cli", "record", "--json", "--synthetic", "40",
                 "--size", "400000", "--rate", "20", "--seed", str(seed)],
                env=lucid.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
            for seed in range(3)
        ]  # fmt: skip
        sessions = [json.loads(one.communicate(timeout=60)[0])["session"] for one in recorders]
        states = [lucid.settled(session) for session in sessions]
    finally:
        assert lucid.stop("processor2") == 0
    assert states == ["completed"] * 3
    for session in sessions:
        folder = lucid.home / "blobs" / session
        stored = [path.read_bytes() for path in sorted(folder.glob("*.chunk"))]
        assert len(stored) == 2
        assert asyncio.run(sealed_again(lucid, session)) == stored


async def sealed_again(lucid: Installation, session: str) -> list[bytes]:
    """A session's chunks, made anew by one reader from the topic's records."""
    topic = lucid.env["LUCID_TOPIC_PREFIX"] + "session.frames"
    settings = Settings.load(home=lucid.home, kafka=lucid.env["LUCID_KAFKA"])
    records = [
        (from_kafka(raw.key, raw.headers, raw.value), raw.offset)
        async for raw in read_topic(settings, topic) if raw.key == session.encode()
    ]  # fmt: skip
    identities = load_identities(lucid.home / "keys" / "auditor.age")
    again = Session(open_session(records[0][0], UUID(session).int % 8, records[0][1]), identities)
    return [
        again.seal(cut)[0].data
        for record, offset in records
        for cut in again.chunker.add(record, offset)
    ]


def test_commands_record_a_display_through_the_service(lucid: Installation, tmp_path: Path) -> None:
    with xvfb() as (display, _):
        command = lucid.lucid("recorder", "start", display, "--owner", "ada", "--json")
        session = str(wait_for(lambda: live_session(lucid, "ada"), "session of the display"))
        lucid.lucid("recorder", "pause", session)
        wait_for(lambda: lucid.state(session) == "paused", "paused session")
        lucid.lucid("recorder", "resume", session)
        wait_for(lambda: lucid.state(session) == "recording", "resumed session")
        lucid.lucid("recorder", "stop", session, "--reason", "enough seen")
        assert lucid.settled(session) == "completed"
    assert (command["action"], command["session"]) == ("start", session)
    assert lucid.lucid("sessions", "show", session, "--json")["reason"] == "enough seen"
    facts = lucid.lucid("export", session, str(tmp_path / "a.png"), "--json")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert facts["moments"] >= 1
    film = lucid.lucid("export", session, str(tmp_path / "a.mp4"), "--json")
    assert (film["width"], film["height"]) == (640, 480)


def live_session(lucid: Installation, owner: str) -> str:
    """The owner's session that is being recorded, empty if there is none."""
    for one in lucid.lucid("sessions", "list", "--json")["sessions"]:
        if (one["owner"], one["state"]) == (owner, "recording"):
            return str(one["session"])
    return ""


def test_a_display_that_dies_ends_its_session_with_a_gap(lucid: Installation) -> None:
    with xvfb() as (display, server):
        recorder, session = lucid.record("--display", display)
        server.kill()
        _, told = recorder.communicate(timeout=20)
    assert recorder.returncode == 66
    assert b"went away" in told
    assert lucid.settled(session) == "incomplete"
    assert lucid.lucid("sessions", "show", session, "--json")["interruptions"] == 1


def test_bad_input_has_its_own_error_and_exit_status(lucid: Installation, tmp_path: Path) -> None:
    unknown = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
    cases = {
        66: [["record", "--display", ":987"], ["record", "--file", str(tmp_path / "none")],
             ["verify", unknown], ["bundle", unknown, "-o", str(tmp_path / "b")],
             ["verify", str(tmp_path / "none.lucid")]],
        65: [["verify", "--trust", "nonsense", unknown]],
        2: [["record"], ["record", "--synthetic", "1", "--file", "-"], ["nonsense"]],
    }  # fmt: skip
    for status, commands in cases.items():
        for arguments in commands:
            done = lucid.lucid(*arguments, check=False)
            assert done.returncode == status, (arguments, done.stderr)
            assert b"Traceback" not in done.stderr
            assert done.stderr.strip()


def test_a_recorder_without_keys_or_broker_says_what_to_do(
    lucid: Installation, tmp_path: Path
) -> None:
    nobody = Installation(tmp_path, {**lucid.env, "LUCID_HOME": str(tmp_path)})
    done = nobody.lucid("record", "--synthetic", "1", check=False)
    assert (done.returncode, b"lucid keys init" in done.stderr) == (78, True)
    nobody.lucid("keys", "init")
    nobody.env["LUCID_KAFKA"] = "127.0.0.1:1"
    done = nobody.lucid("record", "--synthetic", "1", check=False)
    assert (done.returncode, b"LUCID_KAFKA" in done.stderr) == (69, True), done.stderr
