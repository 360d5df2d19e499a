"""Memory while others stand still: a processor without storage, storage without its catalog.

Storage and catalog are stopped (SIGSTOP), 2 GiB of frames wait on the broker, and a processor
works them off. Then storage goes on, the chunks wait, and the catalog is still stopped, until
it goes on, too. Resident memory of the real processes is sampled all the time.

A budget is what the settings allow for bytes of records, times what handling costs, on top
of what the idle process has: see `processor_budget` and `storage_budget`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.platform import stack
from agents.platform.contract import apply_contract, load_contract
from agents.platform.dataplane import FETCH_COPIES, FETCH_ROOM
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from agents.session.processor.settings import ProcessorSettings
from agents.session.recorder.recording import Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.synthetic import SyntheticSource
from agents.session.recorder.wiring import make_order, open_outlet
from agents.session.storage.settings import StorageSettings

SESSIONS, FRAMES, SIZE = 64, 336, 100_000  # 2 GiB, and open chunks of half a GiB at a time
CUT = 8 * 2**20
STALL_SECONDS = 15.0
DEADLINE = 900.0
SAMPLE_EVERY = 0.02
SEAL_COPIES = 4
"""Of a chunk in a sealing thread: plaintext, compressed, ciphertext, and what it was read from."""
WARM = 24 * 2**20
"""What working once leaves behind: zstd's contexts, clients' buffers, the allocator's slack."""
MIB = 2**20


def run() -> dict[str, float]:
    """MiB of frames, and for each service its idle memory, peak and budget; goal: ratio <= 1."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("LUCID_BENCH_FOLDER")) as name:
        settings = Settings.load(home=Path(name))
        try:
            stack.up(settings)
            pid = next(one.pid for one in stack.status(settings) if one.server == "mongo")
            assert pid is not None
            return measure(
                settings, SESSIONS, FRAMES, SIZE, CUT, STALL_SECONDS,
                lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT),
            )  # fmt: skip
        finally:
            stack.down(settings)


def processor_budget(section: ProcessorSettings, idle: float, cut: int) -> float:
    """Bytes that a processor may take, given those of an idle one; cut: plaintext of a chunk."""
    return idle + WARM + (
        section.hold_limit + section.busy_limit
        + FETCH_COPIES * FETCH_ROOM * section.fetch_bytes
        + SEAL_COPIES * cut * section.threads
    )  # fmt: skip


def storage_budget(section: StorageSettings, idle: float) -> float:
    """Bytes that storage may take, given those of an idle one."""
    return idle + WARM + section.busy_limit + FETCH_COPIES * FETCH_ROOM * section.fetch_bytes


def measure(
    settings: Settings, sessions: int, frames: int, size: int, cut: int, stall: float,
    stop_catalog: Callable[[], object], start_catalog: Callable[[], object],
    env: dict[str, str] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Publish the sessions and let both services work them off."""
    if not settings.keys_dir.exists():
        init_keys(settings)
    asyncio.run(apply_contract(settings, load_contract(settings)))
    with service(settings, "storage", env) as storage:
        stop_catalog()
        storage.process.send_signal(signal.SIGSTOP)
        try:
            names, raw = asyncio.run(record(settings, sessions, frames, size, cut))
            with service(settings, "processor", env) as processor:
                processor.wait(lambda: asyncio.run(ended(settings)) == sessions, "manifests")
            storage.process.send_signal(signal.SIGCONT)
            limit = StorageSettings.load(**storage.overrides("STORAGE")).busy_limit
            unwritten = partial(storage.metric, "lucid_disk_unwritten_bytes")
            storage.wait(lambda: unwritten() >= limit, "a full hold")
            time.sleep(stall)  # the measurement itself: what it takes while nothing moves
            held = unwritten()
        finally:
            start_catalog()
        manifests = [settings.blobs_dir / name / "manifest.json" for name in names]
        storage.wait(lambda: all(path.exists() for path in manifests), "manifests on disk")
    of_processor = processor_budget(
        ProcessorSettings.load(**processor.overrides("PROCESSOR")), processor.idle, cut
    )
    of_storage = storage_budget(StorageSettings.load(**storage.overrides("STORAGE")), storage.idle)
    return {
        "frames_mib": raw / MIB, "sessions": sessions,
        "processor_idle_mib": processor.idle / MIB, "processor_peak_mib": processor.peak / MIB,
        "processor_budget_mib": of_processor / MIB,
        "processor_ratio": processor.peak / of_processor,
        "storage_idle_mib": storage.idle / MIB, "storage_peak_mib": storage.peak / MIB,
        "storage_held_mib": held / MIB, "storage_budget_mib": of_storage / MIB,
        "storage_ratio": storage.peak / of_storage,
    }  # fmt: skip


async def record(
    settings: Settings, sessions: int, frames: int, size: int, cut: int
) -> tuple[list[str], int]:
    """Put whole sessions on the topic, all at a time; their ids, and their payloads' bytes."""
    order = make_order(settings, RecorderSettings.load(cut_seconds=60, cut_bytes=cut))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(sessions))
    async with open_outlet(settings, asyncio.Event()) as outlet:

        async def one(seed: int) -> tuple[str, int]:
            source = SyntheticSource(frames=frames, size=size, seed=seed)
            recording = Recording(source, order, outlet)
            await recording.open()
            return str(recording.session), (await recording.run()).raw_bytes

        done = await asyncio.gather(*(one(seed) for seed in range(sessions)))
    return [name for name, _ in done], sum(raw for _, raw in done)


async def ended(settings: Settings) -> int:
    """Manifests on the broker."""
    topic = load_contract(settings).topic("session.manifests")
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_servers())
    await consumer.start()
    try:
        places = [TopicPartition(topic.full_name, number) for number in range(topic.partitions)]
        return sum((await consumer.end_offsets(places)).values())
    finally:
        await consumer.stop()


@dataclass
class Running:
    """A service as a process of its own, whose resident memory is sampled. idle, peak: bytes."""

    process: subprocess.Popen[bytes]
    log: Path
    home: Path
    name: str
    env: dict[str, str]
    idle: float = 0.0
    peak: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def sample(self) -> None:
        """Until `over`: the highest resident memory."""
        looked_at = psutil.Process(self.process.pid)
        while not self.over.wait(SAMPLE_EVERY):
            try:
                self.peak = max(self.peak, looked_at.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def metric(self, name: str) -> float:
        """A metric of the service; 0 if it has none of that name."""
        facts = (self.home / "run" / f"{self.name}-{self.process.pid}.json").read_text()
        port = int(re.findall(r'"port": (\d+)', facts)[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found = re.search(rf"^{name} (\S+)", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def overrides(self, section: str) -> dict[str, str]:
        """The settings of a section that this process was given."""
        prefix = f"LUCID_{section}_"
        return {
            name.removeprefix(prefix).lower(): value
            for name, value in self.env.items() if name.startswith(prefix)
        }  # fmt: skip

    def wait(self, look: Callable[[], bool], what: str) -> None:
        """Wait until `look` is true; raises TimeoutError, or RuntimeError when it has ended."""
        deadline = time.monotonic() + DEADLINE
        while not look():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} within {DEADLINE:g} s")
            time.sleep(0.2)


@contextmanager
def service(settings: Settings, name: str, env: dict[str, str] | None) -> Iterator[Running]:
    """Run a service until the block is left; it is idle until it is ready."""
    mine = {
        "LUCID_HOME": str(settings.home), "LUCID_KAFKA": settings.kafka_servers(),
        "LUCID_MONGO": settings.mongo_url(), "LUCID_DATABASE": settings.database,
        "LUCID_TOPIC_PREFIX": settings.topic_prefix, f"LUCID_{name.upper()}_PORT": "0",
        **(env or {}),
    }  # fmt: skip
    log = settings.home / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "run", name],
            env={**os.environ, **mine}, stdout=out, stderr=out,
        )  # fmt: skip
    running = Running(process, log, settings.home, name, mine)
    sampling = threading.Thread(target=running.sample)
    try:
        running.wait(lambda: b'"event": "ready"' in log.read_bytes(), f"ready {name}")
        running.idle = psutil.Process(process.pid).memory_info().rss
        sampling.start()
        yield running
    finally:
        running.over.set()
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        if sampling.ident is not None:
            sampling.join()
