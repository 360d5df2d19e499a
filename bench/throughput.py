"""Frames topic to chunk files through processor and storage, against bare aiokafka.

Each round puts new sessions on the topic, and then both sides, one after the other and in turns
first, take just these records: the baseline (bench/relay.py) sends the same bytes on to
another topic, Lucid leaves sealed chunks on disk and in the catalog. A figure is the median of
the rounds; of ratios the least and the most are given, too. At last `lucid replay` makes the
last round's chunks again and compares them with the files.

CPU is that of the processes, user and system, without the broker's: on a machine that has other
work it tells more than time does.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil

from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from bench.filling import Load, fill, half_noise
from bench.passthrough import TARGET, make_target, pass_through
from bench.services import NO_SCRUB, Running, first_assigned, on_own_stack, service

ROUNDS = 5
SESSIONS, RECORDS, SIZE = 8, 400, 100_000
DEADLINE = 180.0


def run() -> dict[str, float]:
    """Megabytes a second of each, and ratios; goals 0.8, and 0.9 for the replay."""
    return on_own_stack(_measure)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of time and of CPU."""

    seconds: float
    cpu: float


async def _measure(settings: Settings) -> dict[str, float]:
    await prepare(settings)
    payloads = half_noise(RECORDS, SIZE)
    bare: list[Cost] = []
    lucid: list[Cost] = []
    for number in range(ROUNDS):
        since = datetime.now(UTC)
        load = await fill(settings, SESSIONS, payloads, RECORDS)
        sides = [(bare, passed), (lucid, sealed)]
        for found, work in sides if number % 2 else reversed(sides):
            found.append(await asyncio.to_thread(work, settings, load))
    replay, command = await asyncio.to_thread(_replay, settings, load.sessions, since)
    ratios = [theirs.seconds / mine.seconds for mine, theirs in zip(lucid, bare, strict=True)]
    rate = load.raw / 1e6
    return {
        "rounds": ROUNDS, "raw_mb": rate,
        "lucid_mb_s": rate / statistics.median(one.seconds for one in lucid),
        "bare_mb_s": rate / statistics.median(one.seconds for one in bare),
        "ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios),
        "lucid_cpu_ms_mb": 1000 * statistics.median(one.cpu for one in lucid) / rate,
        "bare_cpu_ms_mb": 1000 * statistics.median(one.cpu for one in bare) / rate,
        "replay_mb_s": rate / replay, "replay_ratio": lucid[-1].seconds / replay,
        "replay_command_seconds": command,
    }  # fmt: skip


async def prepare(settings: Settings) -> None:
    """Keys, topics, and the baseline's topic, which takes batches as large as a chunk."""
    init_keys(settings)
    await apply_contract(settings, load_contract(settings))
    await make_target(settings)


def passed(settings: Settings, load: Load) -> Cost:
    """What the baseline takes."""
    frames = load_contract(settings).topic("session.frames").full_name
    return Cost(*pass_through(settings.kafka_servers(), frames, TARGET, load.start, load.end))


def sealed(settings: Settings, load: Load) -> Cost:
    """From the processor's first partition being taken up to the last file on disk."""
    with (
        service(settings, "storage", NO_SCRUB) as storage,
        service(settings, "processor") as processor,
    ):
        storage.wait(lambda: _all_stored(settings, load), "sessions on disk")
        seconds = time.time() - first_assigned(processor)
        return Cost(seconds, _cpu(storage) + _cpu(processor))


def _cpu(running: Running) -> float:
    """Seconds of CPU since it was ready."""
    return float(sum(psutil.Process(running.process.pid).cpu_times()[:2]) - running.idle_cpu)


def _all_stored(settings: Settings, load: Load) -> bool:
    """Whether each session's manifest and all chunks that it speaks of are files."""
    for session in load.sessions:
        folder = settings.blobs_dir / session
        try:
            chunks = json.loads((folder / "manifest.json").read_bytes())["chunks"]
        except FileNotFoundError:
            return False
        if not (folder / f"{chunks - 1:08d}.chunk").exists():
            return False
        if sum(one.name.endswith(".chunk") for one in folder.iterdir()) < chunks:
            return False
    return True


def _replay(settings: Settings, sessions: list[str], since: datetime) -> tuple[float, float]:
    """Seconds of a replay of the last round, by its own account and of the whole command."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", "replay", "--json", "--from-time",
         f"{since:%Y-%m-%dT%H:%M:%S}"],
        env={**os.environ, "LUCID_HOME": str(settings.home)}, capture_output=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - start
    if done.returncode:
        raise RuntimeError(f"replay: {done.stderr.decode()}{done.stdout.decode()[-2000:]}")
    report = json.loads(done.stdout)
    if {found["session"] for found in report["sessions"] if found["ended"]} != set(sessions):
        raise RuntimeError(f"not all sessions were replayed: {report}")
    return float(report["seconds"]), seconds
