"""Frames topic to chunk files through processor and storage, against a bare aiokafka loop.

The bare loop reads the same records with `getmany` and sends the same bytes on with an
idempotent producer: what the broker and the driver cost, without sealing and storing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.platform import stack
from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from agents.session.recorder.recording import Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.synthetic import SyntheticSource
from agents.session.recorder.wiring import make_order, open_outlet

SESSIONS, FRAMES, SIZE = 4, 800, 100_000
SERVICES = ("processor", "storage")
DEADLINE = 180.0


def run() -> dict[str, float]:
    """Megabytes a second of both, and their ratio; goal 0.8."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings.load(home=Path(name))
        try:
            stack.up(settings)
            return asyncio.run(_measure(settings))
        finally:
            stack.down(settings)


async def _measure(settings: Settings) -> dict[str, float]:
    init_keys(settings)
    await apply_contract(settings, load_contract(settings))
    sessions, raw = await _record(settings)
    bare = await _bare(settings, raw)
    lucid = await asyncio.to_thread(_services, settings, sessions)
    return {"raw_mb": raw / 1e6, "lucid_mb_s": raw / lucid / 1e6, "bare_mb_s": raw / bare / 1e6,
            "ratio": bare / lucid}  # fmt: skip


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


def _services(settings: Settings, sessions: list[str]) -> float:
    """Seconds from both services being ready to the last manifest on disk."""
    env = {**os.environ, "LUCID_HOME": str(settings.home)}
    env |= {f"LUCID_{name.upper()}_PORT": "0" for name in SERVICES}
    # Storage first: the clock runs from the processor's own start.
    running = []
    try:
        start = 0.0
        for name in reversed(SERVICES):
            log = settings.home / f"{name}.log"
            with log.open("wb") as out:
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "agents.cli", "run", name],
                        env=env, stdout=out, stderr=out,
                    )
                )  # fmt: skip
            _wait(lambda log=log: b'"event": "ready"' in log.read_bytes(), f"ready {name}")
            start = time.monotonic()
        manifests = [settings.blobs_dir / session / "manifest.json" for session in sessions]
        _wait(lambda: all(path.exists() for path in manifests), "manifests")
        return time.monotonic() - start
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.wait(15)


def _wait(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {DEADLINE:g} s")
        time.sleep(0.02)
