"""Sessions through all services and the real servers, and checked from outside."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Installation, wait_for


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
    ended = json.loads(json.dumps(done))
    assert (ended["raw_bytes"], ended["reason"]) == (11_000, "end of the source")
    assert lucid.settled(ended["session"]) == "completed"


def test_a_recorder_that_vanishes_is_abandoned_and_said_to_be_incomplete(
    lucid: Installation,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "record", "--synthetic", "100000", "--size", "1000",
         "--rate", "20"],
        env=lucid.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    session = line.split("session ")[1].split(";")[0]
    wait_for(lambda: lucid.state(session) == "recording", "recording session")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert lucid.settled(session) == "incomplete"
    shown = lucid.lucid("sessions", "show", session, "--json")
    assert shown["ended_by"] == "abandon"
    assert any("vanished" in line or "abandon" in line for line in shown["shortcomings"])
    assert lucid.lucid("verify", session, check=False).returncode == 1


def test_ctrl_c_closes_a_session_properly(lucid: Installation) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "record", "--synthetic", "100000", "--size", "1000",
         "--rate", "20"],
        env=lucid.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    session = process.stderr.readline().decode().split("session ")[1].split(";")[0]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"stopped by SIGINT" in out
    assert lucid.settled(session) == "completed"


def test_the_same_log_read_by_another_processor_gives_the_same_bytes(
    lucid: Installation, tmp_path: Path
) -> None:
    sessions = [record(lucid, "--synthetic", "40", "--size", "400000", "--seed", str(n))
                for n in range(3)]  # fmt: skip
    for session in sessions:
        assert lucid.settled(session) == "completed"
    prefix = lucid.env["LUCID_TOPIC_PREFIX"]
    again = {session: reseal(lucid, session) for session in sessions}
    assert prefix
    for session, chunks in again.items():
        folder = lucid.home / "blobs" / session
        stored = [path.read_bytes() for path in sorted(folder.glob("*.chunk"))]
        assert chunks == stored


def reseal(lucid: Installation, session: str) -> list[bytes]:
    """The session's chunks, made anew from the topic's records."""
    script = Path(__file__).with_name("reseal.py")
    out = lucid.home / f"again-{session}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    subprocess.run([sys.executable, str(script), session, str(out)], env=lucid.env, check=True,
                   timeout=60)  # fmt: skip
    return [path.read_bytes() for path in sorted(out.iterdir())]
