"""Verification of a session's chunks on disk against SHA-256 of the same files.

Both read each file once, in one thread; a figure is the least CPU of the rounds, which take turns.
Without a key a chunk is checked by its leaf. With one it is decrypted and decompressed, its nonce
and the chain over its records are computed again: then the plaintext's bytes are hashed, too, and
the ratio is to SHA-256 of the sealed bytes all the same.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from agents.platform.blobs import Blobs, chunk_name
from bench.content import records
from bench.filling import half_noise
from schemas.chunks import Compressor, Position, seal
from schemas.datakey import DataKey, derive
from schemas.frames import FrameRecord, Kind, chain_start
from schemas.verify_chunk import ChunkTask, Expected, check_chunk

ROUNDS = 7
INDEXES = range(1, 13)
SIZE = 8_000_000  # plaintext bytes of a chunk


@dataclass(frozen=True, slots=True)
class Stored:
    """A session's chunks as files, and the leaves that a list of them names."""

    blobs: Blobs
    session: UUID
    leaves: Collection[bytes]
    key: DataKey
    size: int


def run() -> dict[str, float]:
    """Ratios of SHA-256's CPU to verification's, by content; goal 0.8 without a key."""
    found: dict[str, float] = {}
    for name in ("screen", "half_noise"):
        with tempfile.TemporaryDirectory() as folder:
            stored = _store(Path(folder), _records(name))
            works: dict[str, Callable[[], None]] = {
                "sha256": lambda stored=stored: _hash(stored),  # type: ignore[misc]
                "leaves": lambda stored=stored: _check(stored, None),  # type: ignore[misc]
                "content": lambda stored=stored: _check(stored, stored.key),  # type: ignore[misc]
            }
            least = dict.fromkeys(works, 1000000000.0)
            for _ in range(ROUNDS):
                for work, call in works.items():
                    start = time.thread_time()
                    call()
                    least[work] = min(least[work], time.thread_time() - start)
        found[f"{name}_sha256_mb_s"] = stored.size / least["sha256"] / 1e6
        found[f"{name}_leaves_ratio"] = least["sha256"] / least["leaves"]
        found[f"{name}_content_ratio"] = least["sha256"] / least["content"]
        found[f"{name}_content_mb_s_plaintext"] = len(INDEXES) * SIZE / least["content"] / 1e6
    return found


def _records(content: str) -> list[FrameRecord]:
    if content == "screen":
        return records(SIZE)
    session = records(100_000)[0].session
    return [
        FrameRecord(session, Kind.FRAMES, seq, seq, b"", payload)
        for seq, payload in enumerate(half_noise(SIZE // 100_000, 100_000))
    ]


def _store(folder: Path, held: list[FrameRecord]) -> Stored:
    """The records as each of a session's chunks but the first, which begins with its `open`."""
    session = held[0].session
    key, compressor, blobs = derive(bytes(32), session), Compressor(3, 23), Blobs(folder)
    start, leaves, size = Position(1, 1, chain_start(session)), [], 0
    for index in INDEXES:
        moved = [
            FrameRecord(session, one.kind, start.seq + at, one.time, b"", one.payload)
            for at, one in enumerate(held)
        ]
        chunk = seal(moved, start, key, compressor, last=False)
        start = Position(index + 1, chunk.header.next_seq, chunk.header.chain_after)
        blobs.put(str(session), chunk_name(index), chunk.data)
        leaves.append(chunk.leaf)
        size += len(chunk.data)
    return Stored(blobs, session, leaves, key, size)


def _hash(stored: Stored) -> None:
    for index in INDEXES:
        hashlib.sha256(stored.blobs.get(str(stored.session), chunk_name(index))).digest()


def _check(stored: Stored, key: DataKey | None) -> None:
    for index, leaf in zip(INDEXES, stored.leaves, strict=True):
        data = stored.blobs.get(str(stored.session), chunk_name(index))
        task = ChunkTask(index, stored.session, Expected(leaf, len(data)), key)
        if found := check_chunk(task, data).findings:
            raise RuntimeError(f"chunk {index} is not what was sealed: {found}")
