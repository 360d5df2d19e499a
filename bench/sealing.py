"""The sealing kernel against the sum of its bare primitives on the same bytes, one thread."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable

import nacl.bindings
import zstandard

from bench.content import records
from schemas.chunks import Compressor, Position, seal
from schemas.datakey import derive
from schemas.frames import FrameRecord, chain_start, encode_entries

ROUNDS = 9
SIZE = 8 * 1024**2


def run() -> dict[str, float]:
    """Ratio of the kernel's speed to the primitives', by content; goal 0.9."""
    found: dict[str, float] = {}
    for name, noisy in (("screen", False), ("noise", True)):
        kernel, bare, size = _measure(records(SIZE, noisy=noisy))
        found[f"{name}_kernel_mb_s"] = size / kernel / 1e6
        found[f"{name}_primitives_mb_s"] = size / bare / 1e6
        found[f"{name}_ratio"] = bare / kernel
    return found


def _measure(held: list[FrameRecord]) -> tuple[float, float, int]:
    """Median seconds of the kernel and of the primitives, alternating; plaintext bytes."""
    session = held[0].session
    key = derive(bytes(32), session)
    compressor = Compressor(3, 23)
    plaintext = encode_entries(held)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=23)
    bare_compressor = zstandard.ZstdCompressor(compression_params=parameters)

    def kernel() -> None:
        seal(held, Position(0, 0, chain_start(session)), key, compressor, last=False)

    def bare() -> None:
        packed = bare_compressor.compress(plaintext)
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            packed, b"", bytes(24), key.seal
        )
        hashlib.sha256(sealed).digest()

    times: dict[str, list[float]] = {"kernel": [], "bare": []}
    for _ in range(ROUNDS):
        times["kernel"].append(_seconds(kernel))
        times["bare"].append(_seconds(bare))
    return statistics.median(times["kernel"]), statistics.median(times["bare"]), len(plaintext)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
