"""The sealing kernel against the sum of its bare primitives on the same bytes, one thread.

`ratio` counts every pass that the format asks for: zstd, XChaCha20-Poly1305, and SHA-256 over the
plaintext (the record chain) and twice over the ciphertext (nonce, leaf). `three_ratio` leaves out
the chain and the nonce, which a format without a commitment at capture would not have.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import nacl.bindings
import zstandard

from bench.content import records
from schemas.chunks import Compressor, Position, seal
from schemas.datakey import derive
from schemas.frames import FrameRecord, chain_start, encode_entries

ROUNDS = 25
SIZE = 8 * 1024**2


def run() -> dict[str, float]:
    """Ratio of the kernel's speed to the primitives', by content; goal 0.9."""
    found: dict[str, float] = {}
    for name, noisy in (("screen", False), ("noise", True)):
        seconds, size = _measure(records(SIZE, noisy=noisy))
        found[f"{name}_kernel_mb_s"] = size / seconds["kernel"] / 1e6
        found[f"{name}_primitives_mb_s"] = size / seconds["bare"] / 1e6
        found[f"{name}_ratio"] = seconds["bare"] / seconds["kernel"]
        found[f"{name}_three_ratio"] = seconds["three"] / seconds["kernel"]
    return found


def _measure(held: list[FrameRecord]) -> tuple[dict[str, float], int]:
    """Least seconds of kernel and primitives, alternating; plaintext bytes.

    The least, as in timeit: other jobs on the machine only ever add.
    """
    session = held[0].session
    key = derive(bytes(32), session)
    compressor = Compressor(3, 23)
    plaintext = encode_entries(held)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=23)
    bare_compressor = zstandard.ZstdCompressor(compression_params=parameters)

    def kernel() -> None:
        seal(held, Position(0, 0, chain_start(session)), key, compressor, last=False)

    def three() -> bytes:
        packed = bare_compressor.compress(plaintext)
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            packed, b"", bytes(24), key.seal
        )
        hashlib.sha256(sealed).digest()
        return sealed

    def bare() -> None:
        hashlib.sha256(three()).digest()
        hashlib.sha256(plaintext).digest()

    works: dict[str, Callable[[], object]] = {"kernel": kernel, "bare": bare, "three": three}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            times[name].append(_seconds(work))
    return {name: min(found) for name, found in times.items()}, len(plaintext)


def _seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start
