"""The judge finds every thing that may be wrong with what a run left."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from schemas.frames import Kind
from tests.factories import MadeSession, make_session
from tests.faults.judge import Left, Verdict, judge
from tests.faults.recorders import Recorder, Spec
from tests.faults.topics import SessionLog

SPEC = Spec(seed=7, frames=12, size=300, rate=1.0)


def payloads() -> list[bytes]:
    import random

    noise = random.Random(SPEC.seed)
    still = noise.randbytes(SPEC.size // 2)
    return [still + noise.randbytes(SPEC.size - len(still)) for _ in range(SPEC.frames)]


def left_behind(folder: Path, made: MadeSession) -> Left:
    """A run that went well."""
    session = str(made.session)
    files = {f"{chunk.header.index:08d}.chunk": chunk.data for chunk in made.chunks}
    files |= {"manifest.json": made.manifest_bytes, "checkpoint.txt": made.checkpoint.encode(),
              "key.age": made.wrapped}  # fmt: skip
    for name in ("blobs", "reference"):
        (folder / name / session).mkdir(parents=True)
        for file, data in files.items():
            (folder / name / session / file).write_bytes(data)
    log = SessionLog(session, 0, SPEC.seed, ended="close")
    for record in made.records:
        log.records[record.seq] = (record.kind, hashlib.sha256(record.payload).digest())
    result = {"session": session, "records": len(made.records), "frames": SPEC.frames,
              "error": None}  # fmt: skip
    return Left(
        blobs=folder / "blobs", reference=folder / "reference", logs={session: log},
        recorders=[Recorder(SPEC, folder / "spool", status=0, result=result)],
        chunks={
            f"{session}:{chunk.header.index}": {
                "session": session, "leaf": chunk.leaf.hex(), "size": len(chunk.data),
            }
            for chunk in made.chunks
        },
        manifests={session: {"manifest": made.manifest_bytes.decode(),
                             "checkpoint": made.checkpoint}},
        states={session: {"state": "completed", "shortcomings": []}},
        processor_key=str(made.processor.verifier), identity=made.auditor_identity.secret,
    )  # fmt: skip


@pytest.fixture
def made() -> MadeSession:
    return make_session(frames=SPEC.frames, payloads=payloads())


@pytest.fixture
def left(made: MadeSession, tmp_path: Path) -> Left:
    return left_behind(tmp_path, made)


def test_a_run_that_went_well_is_good(left: Left, made: MadeSession) -> None:
    verdict = judge(left)
    assert verdict.good, (verdict.lost, verdict.different, verdict.problems)
    assert (verdict.sessions, verdict.completed, verdict.frames) == (1, 1, SPEC.frames)
    assert (verdict.records, verdict.chunks) == (len(made.records), len(made.chunks))
    files = [path for path in left.reference.rglob("*") if path.is_file()]
    assert verdict.bytes == sum(path.stat().st_size for path in files)


def folder(left: Left) -> Path:
    return next(left.blobs.iterdir())


def session(left: Left) -> str:
    return next(iter(left.logs))


def flip(left: Left) -> None:
    chunk = folder(left) / "00000001.chunk"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)


def lose_record(left: Left) -> None:
    left.logs[session(left)].records[999] = (Kind.FRAMES, bytes(32))


def change_payload(left: Left) -> None:
    records = left.logs[session(left)].records
    seq = next(seq for seq, (kind, _) in records.items() if kind is Kind.FRAMES)
    records[seq] = (Kind.FRAMES, bytes(32))


def forget_record(left: Left) -> None:
    del left.logs[session(left)].records[3]


def count_more(left: Left) -> None:
    cast("dict[str, Any]", left.recorders[0].result)["records"] += 1


def capture_more(left: Left) -> None:
    cast("dict[str, Any]", left.recorders[0].result)["frames"] += 1


def drop_entry(left: Left) -> None:
    cast("dict[str, Any]", left.chunks).popitem()


def change_manifest_entry(left: Left) -> None:
    left.manifests[session(left)]["checkpoint"] += "x"


DAMAGE: dict[str, tuple[str, str, Callable[[Left], object]]] = {
    "a flipped bit": ("different", "00000001.chunk differs", flip),
    "a file too many": ("different", "in no undisturbed run",
                        lambda left: (folder(left) / "more").write_bytes(b"")),
    "a conflict kept aside": ("different", "conflicts", lambda left: shutil.copytree(
        folder(left), folder(left) / "conflicts")),
    "a chunk too few": ("lost", "00000000.chunk is missing",
                        lambda left: (folder(left) / "00000000.chunk").unlink()),
    "no folder": ("lost", "manifest.json is missing", lambda left: shutil.rmtree(folder(left))),
    "a record in the log alone": ("lost", "record 999 is not stored, the log", lose_record),
    "a record of the recorder alone": ("lost", "its recorder counted it", count_more),
    "a frame too few": ("lost", "frames were captured", capture_more),
    "a record not in the log": ("different", "record 3 is stored and not", forget_record),
    "another payload": ("different", "stored with another payload", change_payload),
    "no entry": ("different", "catalog's chunks", drop_entry),
    "another manifest entry": ("different", "catalog's manifest", change_manifest_entry),
    "no manifest entry": ("lost", "no manifest",
                          lambda left: cast("dict[str, Any]", left.manifests).clear()),
    "an incomplete session": ("lost", "is incomplete",
                              lambda left: left.states[session(left)].update(state="incomplete")),
    "a session without end": ("problems", "is recording",
                              lambda left: left.states[session(left)].update(state="recording")),
    "a session nobody knows": ("problems", "is unknown",
                               lambda left: cast("dict[str, Any]", left.states).clear()),
    "a stray folder": ("problems", "folder of no session",
                       lambda left: (left.blobs / "stray").mkdir()),
    "a recorder without a log": ("lost", "the log has nothing",
                                 lambda left: cast("dict[str, Any]", left.logs).clear()),
    "a session of nobody": ("problems", "two sessions", lambda left: left.recorders.clear()),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(left: Left, name: str) -> None:
    sort, words, damage = DAMAGE[name]
    damage(left)
    verdict: Verdict = judge(left)
    assert not verdict.good
    assert any(words in line for line in getattr(verdict, sort)), verdict


def test_a_recorder_that_was_cut_off_may_leave_an_incomplete_session(left: Left) -> None:
    left.states[session(left)]["state"] = "incomplete"
    assert judge(replace(left, cut_off=frozenset({SPEC.seed}))).good


def test_a_changed_derivation_is_found(left: Left) -> None:
    left.recorders[0].spec = replace(SPEC, seed=SPEC.seed + 1)
    left.logs[session(left)].seed = SPEC.seed + 1
    assert any("not those of seed" in line for line in judge(left).different)


def test_wrong_arguments_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--minutes", "0"], capture_output=True, check=False
    )
    assert done.returncode == 2
