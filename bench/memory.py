"""Resident memory of a processor's pure part with 200 open sessions of screen content."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

SESSIONS = 200
BYTES_EACH = 7 * 1024**2  # just below the default cut of 8 MiB


def run() -> dict[str, float]:
    """Highest resident MiB of a process of its own; goal: below 1024."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory"], capture_output=True, check=True, timeout=600
    )
    return dict(json.loads(done.stdout))


async def fill(folder: Path) -> dict[str, float]:
    """Hold the sessions' open chunks as a processor does."""
    import psutil

    from agents.session.processor.chunker import Chunker
    from agents.session.processor.holding import HoldingBudget
    from agents.session.processor.settings import ProcessorSettings
    from bench.content import payloads
    from schemas.chunks import Sealing
    from schemas.frames import FrameRecord, Kind
    from schemas.sessions import new_session_id

    budget = HoldingBudget(int(ProcessorSettings.load().hold_limit), folder)
    chunkers = [Chunker(Sealing(cut_us=600_000_000)) for _ in range(SESSIONS)]
    for chunker in chunkers:
        budget.watch(chunker)
    pool = payloads(40)
    blank = FrameRecord(new_session_id(), Kind.FRAMES, 0, 0, bytes(32), b"")
    highest, held, seq = 0, 0, 0
    while held < BYTES_EACH:
        payload = pool[seq % len(pool)]
        for chunker in chunkers:
            record = replace(blank, seq=seq, time=seq, payload=bytes(bytearray(payload)))
            list(chunker.add(record, seq))
            budget.changed(chunker)
        await budget.trim()
        highest = max(highest, psutil.Process().memory_info().rss)
        held += len(payload) + 21
        seq += 1
    return {"sessions": SESSIONS, "held_mb": SESSIONS * held / 1e6,
            "spilled_mb": budget.spilled / 1e6, "highest_rss_mib": highest / 2**20}  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(asyncio.run(fill(Path(name)))))
