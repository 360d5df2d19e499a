"""Frames topic to chunk files through processor and storage, against a bare aiokafka loop.

The bare loop reads the same records with `getmany` and sends the same bytes on with an
idempotent producer: what the broker and the driver cost, without sealing and storing. Then
`lucid replay` makes the same chunks again and compares them with the files.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from agents.session.recorder.recording import Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.synthetic import SyntheticSource
from agents.session.recorder.wiring import make_order, open_outlet
from bench.services import on_own_stack, service

SESSIONS, FRAMES, SIZE = 4, 800, 100_000
DEADLINE = 180.0


def run() -> dict[str, float]:
    """Megabytes a second of each, and ratios; goals 0.8, and 0.9 for the replay."""
    return on_own_stack(_measure)


async def _measure(settings: Settings) -> dict[str, float]:
    init_keys(settings)
    await apply_contract(settings, load_contract(settings))
    since = datetime.now(UTC)
    sessions, raw = await _record(settings)
    bare = await _bare(settings, raw)
    live = await asyncio.to_thread(_live, settings, sessions)
    replay, command = await asyncio.to_thread(_replay, settings, sessions, since)
    return {
        "raw_mb": raw / 1e6, "lucid_mb_s": raw / live / 1e6, "bare_mb_s": raw / bare / 1e6,
        "ratio": bare / live, "replay_mb_s": raw / replay / 1e6, "replay_ratio": live / replay,
        "replay_command_seconds": command,
    }  # fmt: skip


async def _record(settings: Settings) -> tuple[list[str], int]:
    """Put the sessions' records on the topic; their ids, and their payloads' bytes."""
    order = make_order(settings, RecorderSettings.load())
    sessions, raw = [], 0
    async with open_outlet(settings, asyncio.Event()) as outlet:
        for seed in range(SESSIONS):
            source = SyntheticSource(frames=FRAMES, size=SIZE, seed=seed)
            recording = Recording(source, order, outlet)
            await recording.open()
            raw += (await recording.run()).raw_bytes
            sessions.append(str(recording.session))
    return sessions, raw


async def _bare(settings: Settings, raw: int) -> float:
    """Seconds to read every record and send its bytes to another topic."""
    servers = settings.kafka_servers()
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic("bare", 8, 1)])
    await admin.close()
    consumer = AIOKafkaConsumer(
        load_contract(settings).topic("session.frames").full_name, bootstrap_servers=servers,
        auto_offset_reset="earliest", enable_auto_commit=False,
        max_partition_fetch_bytes=8 * 1024**2,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, acks="all")
    await consumer.start()
    await producer.start()
    start, seen = time.monotonic(), 0
    try:
        while seen < raw and time.monotonic() - start < DEADLINE:
            batches = await consumer.getmany(timeout_ms=500)
            records = [record for batch in batches.values() for record in batch]
            futures = [
                await producer.send("bare", record.value, partition=record.partition)
                for record in records
            ]
            await asyncio.gather(*futures)
            seen += sum(len(record.value) for record in records)
        return time.monotonic() - start
    finally:
        await consumer.stop()
        await producer.stop()


def _live(settings: Settings, sessions: list[str]) -> float:
    """Seconds from both services being ready to the last manifest on disk."""
    manifests = [settings.blobs_dir / session / "manifest.json" for session in sessions]
    # Storage first: the clock runs from the processor's own start.
    with service(settings, "storage") as storage, service(settings, "processor"):
        start = time.monotonic()
        storage.wait(lambda: all(path.exists() for path in manifests), "manifests")
        return time.monotonic() - start


def _replay(settings: Settings, sessions: list[str], since: datetime) -> tuple[float, float]:
    """Seconds of a replay of everything, by its own account and of the whole command."""
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
