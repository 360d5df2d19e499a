"""Recorders that are killed at any moment: their sessions go on, and end with all that was seen."""

from __future__ import annotations

import json
import signal
from uuid import UUID

from agents.session.recorder.sources.base import Control
from agents.session.recorder.sources.synthetic import SyntheticSource
from schemas.chunks import read_chunk, unseal
from schemas.datakey import derive, unwrap
from schemas.frames import Kind
from tests.e2e.conftest import Installation, xvfb
from tests.e2e.test_spine import live_session
from tests.waiting import wait_for


def payloads(lucid: Installation, session: str) -> list[bytes]:
    """What was captured, out of the stored chunks."""
    place = lucid.home / "blobs" / session
    identity = (lucid.home / "keys" / "auditor.age").read_text().splitlines()[-1]
    key = derive(unwrap((place / "key.age").read_bytes(), [identity]), UUID(session))
    chunks = [read_chunk(one.read_bytes()) for one in sorted(place.glob("*.chunk"))]
    records = [record for chunk in chunks for record in unseal(chunk, key)]
    return [record.payload for record in records if record.kind is Kind.FRAMES]


def test_a_killed_recorder_goes_on_and_the_recording_is_complete(
    lucid: Installation,
) -> None:
    numbers = ("--size", "20000", "--seed", "5", "--rate", "100")
    process, session = lucid.record("--synthetic", "150", *numbers)
    spool = lucid.home / "spool" / session
    wait_for(lambda: sum(one.stat().st_size for one in spool.glob("*.log")) > 500_000, "frames")
    process.send_signal(signal.SIGSTOP)
    # Here the pipeline gives up a silent recorder after 6 s, which slow machines take.
    with lucid.standing_still("pipeline"):
        refused = lucid.lucid("record", "--resume", "--session", session, check=False)
        assert (refused.returncode, b"another process" in refused.stderr) == (75, True)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        told = lucid.lucid("record", "--resume", "--session", session, "--json")
    (ended,) = told["sessions"]
    assert (ended["session"], ended["frames"], ended["waiting"]) == (session, 150, 0)
    assert lucid.settled(session) == "completed"
    assert not spool.exists()
    wanted: list[bytes] = []
    source = SyntheticSource(frames=150, size=20_000, seed=5)
    source.run(lambda payload, _: wanted.append(payload), Control())
    assert payloads(lucid, session) == wanted
    again = lucid.lucid("record", "--resume", "--session", session, check=False)
    assert (again.returncode, b"no spool" in again.stderr) == (66, True)


def test_a_recorder_service_takes_up_its_sessions_when_it_starts_again(
    lucid: Installation,
) -> None:
    with xvfb() as (display, _):
        lucid.lucid("recorder", "start", display, "--owner", "grace")
        session = str(wait_for(lambda: live_session(lucid, "grace"), "session of the display"))
        with lucid.standing_still("pipeline"):
            lucid.stop("recorder", signal.SIGKILL)
            assert (lucid.home / "spool" / session).is_dir()
            lucid.start("recorder")
            log = lucid.home / "recorder.log"
            wait_for(lambda: "recording again" in log.read_text(), "session that goes on")
        wait_for(
            lambda: (
                lucid.lucid("recorder", "stop", session, "--wait", "0", "--json")
                and lucid.state(session) != "recording"
            ),
            "session that is told to stop",
        )
        assert lucid.settled(session) == "incomplete"
    shown = lucid.lucid("sessions", "show", session, "--json")
    assert (shown["interruptions"], shown["missing"]) == (1, 0)
    assert "the recorder was away" in json.dumps(shown)
