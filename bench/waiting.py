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
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from agents.platform import stack
from agents.platform.contract import apply_contract, load_contract
from agents.platform.group_consumer import FETCH_COPIES, FETCH_ROOM
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from agents.session.processor.settings import ProcessorSettings
from agents.session.recorder.recording import Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.synthetic import SyntheticSource
from agents.session.recorder.wiring import make_order, open_outlet
from agents.session.storage.settings import StorageSettings
from bench.services import ends, service

SESSIONS, FRAMES, SIZE = 64, 336, 100_000  # 2 GiB, and open chunks of half a GiB at a time
CUT = 8 * 2**20
STALL_SECONDS = 15.0
SEAL_COPIES = 4
"""Of a chunk in a sealing thread: plaintext, compressed, ciphertext, and what it was read from."""
WARM = 24 * 2**20
"""What working once leaves behind: zstd's contexts, clients' buffers, the allocator's slack."""
MIB = 2**20


def run() -> dict[str, float]:
    """MiB of frames, and for each service its idle memory, peak and budget; goal: ratio <= 1."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
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


def manifests(settings: Settings) -> int:
    """Manifests on the broker."""
    return sum(asyncio.run(ends(settings, "session.manifests")).values())


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
                processor.wait(lambda: manifests(settings) == sessions, "manifests", 0.5)
            storage.process.send_signal(signal.SIGCONT)
            limit = StorageSettings.load(**storage.overrides("STORAGE")).busy_limit
            unwritten = partial(storage.metric, "lucid_disk_unwritten_bytes")
            storage.wait(lambda: unwritten() >= limit, "a full hold")
            time.sleep(stall)  # the measurement itself: what it takes while nothing moves
            held = unwritten()
        finally:
            start_catalog()
        files = [settings.blobs_dir / name / "manifest.json" for name in names]
        storage.wait(lambda: all(path.exists() for path in files), "manifests on disk")
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
