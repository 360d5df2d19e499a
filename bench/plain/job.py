"""The job that all plain versions share: chunk, compress, encrypt, hash, write, fsync.

job = Job.from_arguments()
job.begin()                               partitions are there
chunk = job.add(session, payload)         a chunk, once a session has CHUNK_BYTES
job.write(chunk)
if job.due():                             every COMMIT_SECONDS, and when all records were seen
    for chunk in job.rest(): job.write(chunk)
    …commit as the framework does it…
    job.tell()                            what the caller waits for, once all is written

A chunk's file is `SESSION/INDEX-SHA256.chunk`: nonce and ciphertext of XChaCha20-Poly1305 over zstd
of the payloads, each with its length before it. So it has what Lucid's has of bytes and of passes
over them, but no chain, signature, tree, manifest, deterministic nonce or catalog.

Only PyNaCl and zstandard are needed here, since these versions run in an environment of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import zstandard
from nacl.secret import Aead

CHUNK_BYTES = 8 * 1024**2  # as Lucid's
COMMIT_SECONDS = 5.0  # Quix Streams' own default
LEVEL, WINDOW_LOG = 3, 23  # as Lucid's
ENDING = ".chunk"
KEY_FILE, DONE_FILE = "key", "done.json"
LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is told in its argument, as JSON. records: after which it is done."""

    servers: str
    topic: str
    group: str
    folder: str
    records: int

    def to_text(self) -> str:
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Chunk:
    """Payloads of a session, in order. size: their bytes."""

    session: str
    index: int
    payloads: list[bytes] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What a process leaves in DONE_FILE. begun, ended: Unix seconds, partitions to last fsync.

    cpu: its seconds of CPU between them.
    """

    begun: float
    ended: float
    cpu: float
    records: int
    bytes: int


class Job:
    """Collects payloads by session; not for several threads at a time, but for `write`."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._folder = Path(order.folder)
        self._box = Aead((self._folder / KEY_FILE).read_bytes())
        parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG)
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self._open: dict[str, Chunk] = {}
        self._next: dict[str, int] = {}
        self._records = self._bytes = 0
        self._begun = self._ended = self._cpu_begun = self._cpu_ended = 0.0
        self._flushed = time.monotonic()

    @classmethod
    def from_arguments(cls) -> Job:
        return cls(Order(**json.loads(sys.argv[1])))

    def begin(self) -> None:
        """The clock runs from the first partitions that are assigned."""
        if not self._begun:
            self._begun, self._cpu_begun = time.time(), time.process_time()

    def add(self, session: bytes, payload: bytes) -> Chunk | None:
        """Keep a payload; the session's chunk if it is full now."""
        name = session.decode()
        chunk = self._open.get(name)
        if chunk is None:
            index = self._next.get(name, 0)
            self._next[name] = index + 1
            chunk = self._open[name] = Chunk(name, index)
        chunk.payloads.append(payload)
        chunk.size += len(payload)
        self._records += 1
        self._bytes += len(payload)
        return self._open.pop(name) if chunk.size >= CHUNK_BYTES else None

    @property
    def complete(self) -> bool:
        """Whether all records were seen."""
        return self._records >= self.order.records

    def due(self) -> bool:
        """Whether all that is open is to be written, and offsets to be committed."""
        return self.complete or time.monotonic() - self._flushed > COMMIT_SECONDS

    def rest(self) -> Iterator[Chunk]:
        """All open chunks, which are no more open."""
        self._flushed = time.monotonic()
        while self._open:
            yield self._open.popitem()[1]

    def write(self, chunk: Chunk) -> None:
        """One file, on disk when this returns; raises OSError."""
        plain = b"".join(
            part for payload in chunk.payloads for part in (LENGTH.pack(len(payload)), payload)
        )
        sealed = bytes(self._box.encrypt(self._compressor.compress(plain)))
        digest = hashlib.sha256(sealed).hexdigest()
        folder = self._folder / chunk.session
        folder.mkdir(exist_ok=True)
        with (folder / f"{chunk.index:08d}-{digest}{ENDING}").open("xb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        self._ended, self._cpu_ended = time.time(), time.process_time()

    def tell(self) -> None:
        """Say what was done, once all of it is written."""
        if self.complete and not self._open:
            cpu = self._cpu_ended - self._cpu_begun
            done = Done(self._begun, self._ended, cpu, self._records, self._bytes)
            path = self._folder / DONE_FILE
            path.with_suffix(".tmp").write_text(json.dumps(asdict(done)))
            path.with_suffix(".tmp").replace(path)


def read_session(folder: Path, key: bytes) -> Iterator[bytes]:
    """The payloads of a session's files, in order; raises ValueError if a file is not right."""
    box, expander = Aead(key), zstandard.ZstdDecompressor()
    for number, path in enumerate(sorted(folder.glob(f"*{ENDING}"))):
        index, _, digest = path.name.removesuffix(ENDING).partition("-")
        sealed = path.read_bytes()
        if int(index) != number or hashlib.sha256(sealed).hexdigest() != digest:
            raise ValueError(f"{path} is not the file number {number}, or not as it was written")
        plain = expander.decompress(box.decrypt(sealed))
        at = 0
        while at < len(plain):
            (size,) = LENGTH.unpack_from(plain, at)
            at += LENGTH.size
            if at + size > len(plain):
                raise ValueError(f"{path} ends within a payload")
            yield plain[at : at + size]
            at += size
