"""What a run has to leave behind, compared with what it left. Every check can fail.

lost: records that the log or their recorder has and the stored chunks do not. different:
files, payloads and catalog entries that are not what they should be. problems: everything
else that must not be: sessions without an end, dead letters, conflicts, leftovers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.frames import Kind
from tests import independent_reader
from tests.faults.recorders import Recorder
from tests.faults.topics import SessionLog

_CHUNK = re.compile(r"[0-9]{8,16}\.chunk")
FINAL = ("completed", "incomplete")


@dataclass
class Verdict:
    """Counts of what was compared, and a sentence for each thing that is wrong."""

    sessions: int = 0
    completed: int = 0
    incomplete: int = 0
    frames: int = 0
    records: int = 0
    chunks: int = 0
    bytes: int = 0
    lost: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.different or self.problems)


@dataclass(frozen=True)
class Left:
    """What a run left behind.

    blobs, reference: folders of the run and of the undisturbed one. chunks, manifests,
    states: catalog documents by `_id`. cut_off: seeds of recorders that never came back.
    """

    blobs: Path
    reference: Path
    logs: Mapping[str, SessionLog]
    recorders: list[Recorder]
    chunks: Mapping[str, dict[str, Any]]
    manifests: Mapping[str, dict[str, Any]]
    states: Mapping[str, dict[str, Any]]
    processor_key: str
    identity: str
    cut_off: frozenset[int] = frozenset()


def judge(left: Left) -> Verdict:
    """Compare everything with everything."""
    verdict = Verdict(sessions=len(left.logs))
    by_seed: dict[int, Recorder] = {one.spec.seed: one for one in left.recorders}
    for session, log in sorted(left.logs.items()):
        recorder = by_seed.pop(log.seed, None)
        if recorder is None:
            verdict.problems.append(f"{session}: two sessions of recorder {log.seed}, or none")
            continue
        _state(session, recorder, left, verdict)
        files = compare_folders(session, left.blobs / session, left.reference / session, verdict)
        _catalog(session, files, left, verdict)
        _content(session, log, recorder, files, left, verdict)
    for recorder in by_seed.values():
        if recorder.result is not None:
            verdict.lost.append(f"recorder {recorder.spec.seed} recorded {recorder.result}, "
                                "the log has nothing of it")  # fmt: skip
    strays = {path.name for path in left.blobs.iterdir() if path.is_dir()} - left.logs.keys()
    verdict.problems += [f"{name}: a folder of no session" for name in sorted(strays)]
    return verdict


def _state(session: str, recorder: Recorder, left: Left, verdict: Verdict) -> None:
    found = left.states.get(session, {})
    state = found.get("state", "unknown")
    verdict.completed += state == "completed"
    verdict.incomplete += state == "incomplete"
    error = recorder.result["error"] if recorder.result else f"status {recorder.status}"
    told = f"{session} is {state}: {found.get('shortcomings')}; its recorder said {error}"
    if state not in FINAL:
        verdict.problems.append(told)
    elif state == "incomplete" and recorder.spec.seed not in left.cut_off:
        verdict.lost.append(told)


def compare_folders(
    session: str, folder: Path, reference: Path, verdict: Verdict
) -> dict[str, bytes]:
    """Compare a session's files byte for byte with the undisturbed run's; the files."""
    files = read_folder(folder)
    wanted = read_folder(reference)
    for name in sorted(files.keys() | wanted.keys()):
        mine, other = files.get(name), wanted.get(name)
        if mine is None:
            verdict.lost.append(f"{session}: {name} is missing")
        elif other is None:
            verdict.different.append(f"{session}: {name} is in no undisturbed run")
        else:
            verdict.bytes += len(other)
            verdict.chunks += name.endswith(".chunk")
            if mine != other:
                verdict.different.append(f"{session}: {name} differs from the undisturbed run's")
    return files


def read_folder(folder: Path) -> dict[str, bytes]:
    """All files under a session's folder, by their name within it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def _catalog(session: str, files: dict[str, bytes], left: Left, verdict: Verdict) -> None:
    """The catalog's entries are those of the files, no more and no fewer."""
    mine = {key: one for key, one in left.chunks.items() if one["session"] == session}
    wanted = {
        f"{session}:{int(name[:-6])}": (hashlib.sha256(b"\0" + data).hexdigest(), len(data))
        for name, data in files.items() if _CHUNK.fullmatch(name)
    }  # fmt: skip
    if {key: (one["leaf"], one["size"]) for key, one in mine.items()} != wanted:
        verdict.different.append(f"{session}: the catalog's chunks are not those of the files")
    entry = left.manifests.get(session)
    if entry is None:
        verdict.lost.append(f"{session}: the catalog has no manifest")
    elif (entry["manifest"].encode(), entry["checkpoint"].encode()) != (
        files.get("manifest.json"), files.get("checkpoint.txt"),
    ):  # fmt: skip
        verdict.different.append(f"{session}: the catalog's manifest is not the file's")


def _content(
    session: str, log: SessionLog, recorder: Recorder, files: dict[str, bytes], left: Left,
    verdict: Verdict,
) -> None:  # fmt: skip
    """Every sequence number, and every payload, from the recorder's count to the stored chunks."""
    named = {
        f"chunks/{name}" if _CHUNK.fullmatch(name) else name: data
        for name, data in files.items() if "/" not in name
    }  # fmt: skip
    try:
        entries = independent_reader.check(named, left.processor_key, left.identity)
    except independent_reader.Wrong as error:
        verdict.different.append(f"{session} cannot be read: {error}")
        return
    stored = {
        seq: hashlib.sha256(payload).digest()
        for kind, seq, _, payload in entries if kind not in ("missing", "abandon")
    }  # fmt: skip
    verdict.records += len(stored)
    counted = recorder.result["records"] if recorder.result else 0
    for seq in sorted((log.records.keys() | set(range(counted))) - stored.keys()):
        where = "the log has it" if seq in log.records else "its recorder counted it"
        verdict.lost.append(f"{session}: record {seq} is not stored, {where}")
    for seq in sorted(stored.keys() - log.records.keys()):
        verdict.different.append(f"{session}: record {seq} is stored and not in the log")
    for seq, (_, digest) in log.records.items():
        if seq in stored and stored[seq] != digest:
            verdict.different.append(f"{session}: record {seq} is stored with another payload")
    _derivation(session, log, recorder, verdict)


def _derivation(session: str, log: SessionLog, recorder: Recorder, verdict: Verdict) -> None:
    """The frames in the log are those that the recorder's seed gives, from the first one on."""
    frames = [log.records[seq][1] for seq in sorted(log.records)
              if log.records[seq][0] is Kind.FRAMES]  # fmt: skip
    verdict.frames += len(frames)
    # One that was killed at its very end has no result: all of its frames were captured.
    counted = recorder.result["frames"] if recorder.result else recorder.spec.frames
    if counted != len(frames):
        verdict.lost.append(f"{session}: {counted} frames were captured, {len(frames)} are there")
    wanted = list(recorder.spec.payload_hashes())[: len(frames)]
    if frames != wanted:
        verdict.different.append(f"{session}: its frames are not those of seed {log.seed}")
