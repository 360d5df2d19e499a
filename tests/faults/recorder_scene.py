"""A recorder that is ended at one point and gone on with, and what the broker holds then."""

from __future__ import annotations

import subprocess
import sys

from agents.platform.keys import load_identities
from agents.session.recorder.sources.base import Control
from agents.session.recorder.sources.synthetic import SyntheticSource
from schemas.canonical import decode
from schemas.chunks import follow
from schemas.controls import Open
from schemas.datakey import derive, unwrap
from schemas.frames import FrameRecord, Kind, chain_start, from_kafka
from tests.faults.scenes import SECONDS, Scene

FRAMES, SIZE, SEED = 60, 3_000, 9
RECORD = ["record", "--json", "--synthetic", str(FRAMES), "--size", str(SIZE),
          "--seed", str(SEED), "--rate", "60"]  # fmt: skip


def recorder_dies(scene: Scene, point: str) -> None:
    """Killed at its fifth hit, then `lucid record --resume`: everything is there, and whole."""
    scene.command = RECORD
    scene.killed_at(point, 5)
    assert len(scene.spools()) == 1
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", "record", "--resume", "--json"],
        env=scene.env(), capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    judge_recorded(scene)
    assert scene.spools() == []


def judge_recorded(scene: Scene) -> None:
    """One session, every number of it once or more with one content, chained, and closed."""
    found: dict[int, FrameRecord] = {}
    for raw in scene.read("session.frames"):
        record = from_kafka(raw.key, raw.headers, raw.value)
        assert found.setdefault(record.seq, record) == record, f"two records {record.seq}"
    records = [found[seq] for seq in sorted(found)]
    assert [one.seq for one in records] == list(range(len(records)))
    assert (records[0].kind, records[-1].kind) == (Kind.OPEN, Kind.CLOSE)
    assert Kind.GAP not in {one.kind for one in records}
    opened = decode(Open, records[0].payload)
    identities = load_identities(scene.settings.keys_dir / "processor.age")
    key = derive(unwrap(opened.wrapped_key, identities), opened.session_id)
    _, next_seq, missing, _ = follow(records, chain_start(opened.session_id), 0, key.chain)
    assert (next_seq, missing) == (len(records), 0)
    wanted: list[bytes] = []
    source = SyntheticSource(frames=FRAMES, size=SIZE, seed=SEED)
    source.run(lambda payload, _: wanted.append(payload), Control())
    assert [one.payload for one in records if one.kind is Kind.FRAMES] == wanted
