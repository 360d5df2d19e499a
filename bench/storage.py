"""Storing against a bare loop that writes and syncs files of the same sizes, on the same disk.

`files` is what storage does with a chunk's bytes, in as many threads as it has: a temporary name,
a sync, the chunk's own name, a sync of the folder. `service` is all of `lucid run storage`: from
the topic, checked, into files, with an entry in the catalog and an event for each, from its first
partition being taken up to the last entry. Each round does all of them, in another order; ratios
are medians of the rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agents.platform.blobs import Blobs, chunk_name
from agents.platform.contract import load_contract
from agents.platform.keys import load_recipients
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.session.storage.settings import StorageSettings
from bench.filling import half_noise
from bench.services import NO_SCRUB, first_assigned, on_own_stack, service
from bench.throughput import prepare
from schemas.chunks import Chunk, Compressor, Position, seal
from schemas.datakey import derive, new_data_key, wrap
from schemas.frames import FrameRecord, Kind, chain_start
from schemas.sessions import new_session_id
from schemas.stored import ChunkRecord

ROUNDS = 5
SESSIONS, CHUNKS = 4, 10
RECORDS, RECORD = 80, 100_000  # of a chunk; half of it is left after compression


def run() -> dict[str, float]:
    """Megabytes a second of each, and ratios to the bare loop; goal 0.9."""
    return on_own_stack(_measure)


async def _measure(settings: Settings) -> dict[str, float]:
    await prepare(settings)
    rates: dict[str, list[float]] = {"bare": [], "files": [], "service": []}
    for number in range(ROUNDS):
        made = await asyncio.to_thread(_make, load_recipients(settings))
        await _send(settings, made)
        size = sum(len(one.chunk.data) for one in made)
        sides: list[tuple[str, Callable[[Settings, list[ChunkRecord]], float]]] = [
            ("bare", _bare), ("files", _files), ("service", _service),
        ]  # fmt: skip
        for name, work in sides[number % 3 :] + sides[: number % 3]:
            rates[name].append(size / await asyncio.to_thread(work, settings, made) / 1e6)
    found: dict[str, float] = {"rounds": ROUNDS, "chunk_mb": size / len(made) / 1e6}
    for name, values in rates.items():
        found[f"{name}_mb_s"] = statistics.median(values)
    for name in ("files", "service"):
        ratios = [mine / bare for mine, bare in zip(rates[name], rates["bare"], strict=True)]
        found[f"{name}_ratio"] = statistics.median(ratios)
        found[f"{name}_ratio_least"], found[f"{name}_ratio_most"] = min(ratios), max(ratios)
    return found


def _make(recipients: list[str]) -> list[ChunkRecord]:
    """Chunks of new sessions, in the order in which a processor would publish them."""
    payloads = half_noise(RECORDS, RECORD)
    compressor = Compressor(3, 23)
    made: list[ChunkRecord] = []
    for _ in range(SESSIONS):
        session, data_key = new_session_id(), new_data_key()
        key, wrapped = derive(data_key, session), wrap(data_key, recipients)
        start = Position(0, 0, chain_start(session))
        for index in range(CHUNKS):
            records = [
                FrameRecord(session, Kind.FRAMES, start.seq + at, start.seq + at, b"", payload)
                for at, payload in enumerate(payloads)
            ]
            chunk: Chunk = seal(records, start, key, compressor, last=False)
            start = Position(index + 1, chunk.header.next_seq, chunk.header.chain_after)
            made.append(ChunkRecord(chunk, wrapped))
    return sorted(made, key=lambda one: one.chunk.header.index)


async def _send(settings: Settings, made: list[ChunkRecord]) -> None:
    contract = load_contract(settings)
    topic = contract.topic("session.chunks")
    async with Producer(settings, contract.limits) as producer:
        for record in made:
            key, headers, value = record.to_kafka()
            where = record.chunk.header.session.int % topic.partitions
            await producer.send(
                topic.full_name, value, key=key, headers=[*headers], partition=where
            )


def _bare(settings: Settings, made: list[ChunkRecord]) -> float:
    """Seconds of one write and one sync for each chunk, one after the other."""
    folder = settings.home / f"bare-{time.monotonic_ns()}"
    folder.mkdir()
    start = time.monotonic()
    for number, record in enumerate(made):
        descriptor = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, record.chunk.data)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.monotonic() - start


def _files(settings: Settings, made: list[ChunkRecord]) -> float:
    """Seconds of storage's own way to make files, in a folder beside its own."""
    blobs = Blobs(settings.home / f"files-{time.monotonic_ns()}")

    def put(record: ChunkRecord) -> None:
        header = record.chunk.header
        blobs.put(str(header.session), chunk_name(header.index), record.chunk.data)

    start = time.monotonic()
    with ThreadPoolExecutor(StorageSettings.load().threads) as pool:
        list(pool.map(put, made))
    return time.monotonic() - start


def _service(settings: Settings, made: list[ChunkRecord]) -> float:
    """Seconds of the service."""
    files = [_file(settings.blobs_dir, record.chunk) for record in made]
    with service(settings, "storage", NO_SCRUB) as storage:
        storage.wait(lambda: all(file.exists() for file in files), "files")
        storage.wait(lambda: storage.metric("lucid_chunks_stored_total") >= len(made), "entries")
        return time.time() - first_assigned(storage)


def _file(blobs: Path, chunk: Chunk) -> Path:
    return blobs / str(chunk.header.session) / chunk_name(chunk.header.index)
