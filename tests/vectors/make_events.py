"""Makes a sample of each event type that has none yet: `python -m tests.vectors.make_events`.

What samples are is in samples.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.canonical import Strict
from schemas.events import EVENT_TYPES, SessionEvent, subject_of
from tests.vectors.samples import write_new

FOLDER = Path(__file__).parent / "events"
SESSION = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
WHEN = datetime(2026, 11, 25, 20, 0, 0, 123456, tzinfo=UTC)
VALUES: dict[str, Any] = {
    "session": SESSION, "partition": 3, "offset": 1207, "host": "desk7",
    "recorder": "desk7/recorder", "codec": "screen/1",
    "source": {"display": ":0", "width": 1280}, "owner": "Ada Ångström",
    "started": 1_795_000_000_000_000, "next_seq": 412, "raw_bytes": 9_000_001,
    "paused": False, "reason": "the support case is closed", "index": 2, "leaf": "ab" * 32,
    "size": 81_234, "records": 40, "missing": 1, "last": False, "stored_leaf": "cd" * 32,
    "refused_leaf": "ef" * 32, "manifest_hash": "12" * 32, "stored_hash": "34" * 32,
    "refused_hash": "56" * 32, "topic": "session.frames", "first_offset": 10, "next_offset": 20,
    "name": "00000002.chunk", "verdict": "ChecksumMismatch", "expected": "leaf abab",
    "found": "leaf cdcd", "chunks": 3, "stored_bytes": 240_000, "root": "78" * 32,
    "shortcomings": ["records 12 to 13 never arrived"], "action": "start",
    "code": "AlreadyRecording",
    "first_seq": 371, "first_time": 1_795_000_010_000_000, "last_time": 1_795_000_020_000_000,
    "raw_size": 220_000, "stage": "content", "scope": "project", "keep_days": 30,
    "record": "9a" * 32, "files": 4, "bytes": 81_234, "waiting": ["session.frames until 3 Dec"],
    "hold": "project/payroll", "project": "payroll",
}  # fmt: skip


def sample(model: type[Strict]) -> SessionEvent:
    """An event with data of this type."""
    data = model.model_validate({name: VALUES[name] for name in model.model_fields})
    return SessionEvent(
        data, "lucid/storage/desk7", subject_of(data),
        id="8b1f0c9e-0f57-4a52-8d50-0a9d5d1c9a11", time=WHEN, correlation="c-1",
    )  # fmt: skip


def main() -> None:
    """Write what is not there."""
    write_new(FOLDER, map(sample, EVENT_TYPES.values()))


if __name__ == "__main__":
    main()
