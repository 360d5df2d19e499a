"""The baseline: what broker and driver cost, without sealing and storing (bench/relay.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict

from aiokafka.admin import NewTopic

from agents.platform.broker import administering
from agents.platform.group_consumer import FETCH_ROOM
from agents.platform.settings import Settings
from bench.relay import Job

TARGET = "bare"
BATCH_BYTES = 8 * 1024**2
FETCH_BYTES = 4 * 1024**2
DEADLINE = 180.0


async def make_target(settings: Settings) -> None:
    """The topic that records are passed on to, which takes batches as large as a chunk."""
    limit = {"max.message.bytes": str(2 * BATCH_BYTES)}
    async with administering(settings) as admin:
        await admin.create_topics([NewTopic(TARGET, 8, 1, topic_configs=limit)])


def pass_through(
    servers: str, source: str, target: str, start: Mapping[int, int], end: Mapping[int, int],
    batch_bytes: int = BATCH_BYTES,
) -> tuple[float, float]:  # fmt: skip
    """Seconds from the first request for records to the last acknowledgement; seconds of CPU."""
    first, behind = ({str(number): at for number, at in one.items()} for one in (start, end))
    job = Job(servers, source, target, first, behind, batch_bytes, FETCH_BYTES, FETCH_ROOM)
    done = subprocess.run(
        [sys.executable, "-m", "bench.relay", json.dumps(asdict(job))],
        capture_output=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the baseline failed: {done.stderr.decode()[-2000:]}")
    seconds, cpu = json.loads(done.stdout)
    return float(seconds), float(cpu)
