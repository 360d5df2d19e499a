"""Chunks: runs of frame records, compressed, sealed, with an authenticated header.

The format is docs/formats/chunk.md: a header of 216 bytes, then the ciphertext. The leaf of
a chunk is the RFC 6962 leaf hash over both, so that anyone checks it without a key.

FormatError
├── InvalidChunk          a header field, length or plaintext breaks the format
└── Undecryptable         the cipher's tag does not match
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated
from uuid import UUID

import nacl.bindings
import nacl.exceptions
import zstandard
from pydantic import BaseModel, ConfigDict, Field

from schemas.canonical import LARGEST
from schemas.datakey import DataKey, WrongKey
from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.frames import (
    OUTSIDE_SEQUENCE,
    FrameRecord,
    Kind,
    chain_over,
    decode_entries,
    read_missing,
    write_entries,
)
from schemas.merkle import leaf_hash

MAGIC = b"LUCIDCHK"
VERSION = 1
CIPHER_XCHACHA20_POLY1305 = 1
COMPRESSOR_ZSTD = 1
ZSTD_VERSION = (
    zstandard.ZSTD_VERSION[0] * 10_000 + zstandard.ZSTD_VERSION[1] * 100 + zstandard.ZSTD_VERSION[2]
)
MAX_RAW = 16 * 1024**2
MAX_CIPHERTEXT = MAX_RAW + MAX_RAW // 128 + 1024  # above zstd's bound for 16 MiB, plus the tag
NONCE_SIZE = 24
TAG_SIZE = 16
FLAG_LAST = 1
RUN = 128 * 1024  # bytes of payloads that are hashed, then copied

_LAYOUT = struct.Struct(">8sHBBbBHI16sQQQQIIqq32s32s32s24sI")
HEADER_SIZE = _LAYOUT.size


class InvalidChunk(FormatError):
    """A chunk's header, length or content breaks the format."""


class Undecryptable(FormatError):
    """The ciphertext or the header was changed, or belongs to another key."""


class Sealing(BaseModel):
    """What decides cuts and compression; part of the `open` record, so part of the log.

    cut_bytes: plaintext bytes; a record that would take a chunk over it starts the next.
    cut_us: event time in microseconds between a chunk's first and last record.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    cut_bytes: Annotated[int, Field(ge=1024, le=MAX_RAW)] = 8 * 1024**2
    cut_us: Annotated[int, Field(ge=1_000_000, le=600_000_000)] = 10_000_000
    level: Annotated[int, Field(ge=1, le=19)] = 3
    window_log: Annotated[int, Field(ge=17, le=24)] = 23


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """The fields of a header, in their order; sizes in bytes, times in microseconds.

    missing: sequence numbers of this chunk's range that never arrived, so that
    `next_seq - first_seq == records + missing`.
    raw_size: plaintext before compression. chain_before, chain_after: the record chain.
    """

    last: bool
    level: int
    window_log: int
    compressor_version: int
    session: UUID
    index: int
    first_seq: int
    next_seq: int
    missing: int
    records: int
    raw_size: int
    first_time: int
    last_time: int
    chain_before: bytes
    chain_after: bytes
    key_commitment: bytes
    nonce: bytes
    ciphertext_size: int

    def pack(self) -> bytes:
        """The 216 bytes of the header."""
        return _LAYOUT.pack(
            MAGIC, VERSION, CIPHER_XCHACHA20_POLY1305, COMPRESSOR_ZSTD,
            self.level, self.window_log, FLAG_LAST if self.last else 0, self.compressor_version,
            self.session.bytes, self.index, self.first_seq, self.next_seq, self.missing,
            self.records, self.raw_size, self.first_time, self.last_time,
            self.chain_before, self.chain_after, self.key_commitment,
            self.nonce, self.ciphertext_size,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """A sealed chunk: its header, its bytes as stored, and its leaf."""

    header: ChunkHeader
    data: bytes
    leaf: bytes


def read_header(data: bytes) -> ChunkHeader:
    """Read the first 216 bytes of a chunk; raises FormatError."""
    if data[:8] != MAGIC[: len(data)]:
        raise InvalidChunk("these bytes are not a chunk: the magic differs")
    if len(data) < HEADER_SIZE:
        raise Truncated(f"a chunk of {len(data)} bytes is shorter than its header")
    fields = _LAYOUT.unpack_from(data)
    _, version, cipher, compressor, level, window_log, flags, compressor_version = fields[:8]
    if version != VERSION:
        raise UnknownVersion(
            f"a chunk has version {version}, this reader knows {VERSION}", hint="Use a newer Lucid"
        )
    if cipher != CIPHER_XCHACHA20_POLY1305 or compressor != COMPRESSOR_ZSTD:
        raise UnknownVersion(
            f"a chunk has cipher {cipher} and compressor {compressor}, not 1 and 1"
        )
    if flags & ~FLAG_LAST:
        raise InvalidChunk(f"a chunk has flags {flags:#06x}; only bit 0 has a meaning")
    header = ChunkHeader(
        bool(flags), level, window_log, compressor_version, UUID(bytes=fields[8]), *fields[9:]
    )
    _check_ranges(header)
    return header


def _check_ranges(header: ChunkHeader) -> None:
    if header.next_seq - header.first_seq != header.records + header.missing:
        raise InvalidChunk(
            f"chunk {header.index} covers {header.first_seq} to {header.next_seq}, but counts "
            f"{header.records} records and {header.missing} missing"
        )
    if not 0 < header.raw_size <= MAX_RAW:
        raise InvalidChunk(f"chunk {header.index} has {header.raw_size} plaintext bytes")
    if not TAG_SIZE < header.ciphertext_size <= MAX_CIPHERTEXT:
        raise InvalidChunk(f"chunk {header.index} has {header.ciphertext_size} ciphertext bytes")
    if (
        max(header.next_seq, header.index, header.first_time, header.last_time) > LARGEST
        or min(header.first_time, header.last_time) < 0
    ):
        raise InvalidChunk(f"chunk {header.index} has a number out of range")


def read_chunk(data: bytes, leaf: bytes | None = None) -> Chunk:
    """Read a whole chunk without a key: header, exact length, leaf. Raises FormatError.

    leaf: of `data`, if it is known already.
    """
    header = read_header(data)
    expected = HEADER_SIZE + header.ciphertext_size
    if len(data) < expected:
        raise Truncated(f"chunk {header.index} has {len(data)} bytes of {expected}")
    if len(data) > expected:
        raise InvalidChunk(f"chunk {header.index} has {len(data) - expected} trailing bytes")
    return Chunk(header, data, leaf or leaf_hash(data))


class Compressor:
    """zstd with one set of parameters; owns a context and a buffer, so one thread at a time."""

    def __init__(self, level: int, window_log: int) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, window_log=window_log, write_checksum=False, write_content_size=True
        )
        self.level, self.window_log = level, window_log
        self._context = zstandard.ZstdCompressor(compression_params=parameters)
        self._plaintext = bytearray()

    def room(self, size: int) -> bytearray:
        """The buffer for a plaintext of `size` bytes."""
        if len(self._plaintext) < size:
            self._plaintext = bytearray(size)
        return self._plaintext

    def compress(self, size: int) -> bytes:
        """What was written to the start of `room` as one zstd frame."""
        with memoryview(self._plaintext) as whole, whole[:size] as plaintext:
            return self._context.compress(plaintext)


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a session a chunk starts."""

    index: int
    seq: int
    chain: bytes


def seal(
    records: Sequence[FrameRecord],
    start: Position,
    key: DataKey,
    compressor: Compressor,
    *,
    last: bool,
) -> Chunk:
    """Seal `records` (not empty, of one session) as the chunk that starts at `start`.

    A pure function of its arguments. The nonce is HMAC-SHA256 over the header without
    nonce and the compressed bytes, so equal nonces mean equal chunks (as in SIV, RFC 5297).
    """
    raw_size = sum(record.size for record in records)
    plaintext = compressor.room(raw_size)
    walk, position = Walk(start.chain, start.seq, key.chain), 0
    for run in _runs(records):
        walk.over(run)
        position = write_entries(run, plaintext, position)
    compressed = compressor.compress(raw_size)
    header = ChunkHeader(
        last=last,
        level=compressor.level,
        window_log=compressor.window_log,
        compressor_version=ZSTD_VERSION,
        session=records[0].session,
        index=start.index,
        first_seq=start.seq,
        next_seq=walk.seq,
        missing=walk.missing,
        records=walk.counted,
        raw_size=raw_size,
        first_time=records[0].time,
        last_time=records[-1].time,
        chain_before=start.chain,
        chain_after=walk.chain,
        key_commitment=key.commitment,
        nonce=bytes(NONCE_SIZE),
        ciphertext_size=len(compressed) + TAG_SIZE,
    )
    header = replace(header, nonce=_nonce(header.pack(), compressed, key))
    packed = header.pack()
    ciphertext = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        compressed, packed, header.nonce, key.seal
    )
    data = packed + ciphertext
    return Chunk(header, data, leaf_hash(data))


def _runs(records: Sequence[FrameRecord]) -> Iterator[list[FrameRecord]]:
    """The records in runs that are still in a core's cache when they are copied after hashing."""
    run: list[FrameRecord] = []
    size = 0
    for record in records:
        run.append(record)
        size += len(record.payload)
        if size >= RUN:
            yield run
            run, size = [], 0
    if run:
        yield run


class Walk:
    """Through a session's records from a position on.

    chain, seq: after the records so far. missing, counted: of them.
    """

    __slots__ = ("_keyed", "chain", "counted", "missing", "seq")

    def __init__(self, chain: bytes, seq: int, chain_key: bytes) -> None:
        self._keyed = hmac.new(chain_key, digestmod="sha256")
        self.chain, self.seq = chain, seq
        self.missing = self.counted = 0

    def over(self, records: Iterable[FrameRecord]) -> None:
        """Raises InvalidChunk when a sequence number is out of order."""
        for record in records:
            step = 0
            if record.kind is Kind.MISSING:
                step, self.chain = read_missing(record)
                self.missing += step
            elif record.kind not in OUTSIDE_SEQUENCE:
                self.chain = chain_over(self.chain, self._keyed, record)
                self.counted += 1
                step = 1
            if record.seq != self.seq:
                raise InvalidChunk(
                    f"an entry has sequence number {record.seq}, expected {self.seq}"
                )
            self.seq += step


def follow(
    records: Iterable[FrameRecord], chain: bytes, seq: int, chain_key: bytes
) -> tuple[bytes, int, int, int]:
    """Walk records from a position: chain after, next sequence number, missing, counted.

    Raises InvalidChunk when a sequence number is out of order.
    """
    walk = Walk(chain, seq, chain_key)
    walk.over(records)
    return walk.chain, walk.seq, walk.missing, walk.counted


def _nonce(header_without_nonce: bytes, compressed: bytes, key: DataKey) -> bytes:
    digest = hmac.new(key.nonce, header_without_nonce, "sha256")
    digest.update(compressed)
    return digest.digest()[:NONCE_SIZE]


def unseal(chunk: Chunk, key: DataKey) -> list[FrameRecord]:
    """Decrypt, decompress and check everything that a chunk claims; its records.

    Raises WrongKey, Undecryptable, InvalidChunk or another FormatError.
    """
    header = chunk.header
    if header.key_commitment != key.commitment:
        raise WrongKey(f"chunk {header.index} of {header.session} is sealed with another key")
    packed = chunk.data[:HEADER_SIZE]
    try:
        compressed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            chunk.data[HEADER_SIZE:], packed, header.nonce, key.seal
        )
    except nacl.exceptions.CryptoError as error:
        raise Undecryptable(
            f"chunk {header.index} of {header.session} does not decrypt: it was changed"
        ) from error
    if header.nonce != _nonce(replace(header, nonce=bytes(NONCE_SIZE)).pack(), compressed, key):
        raise InvalidChunk(
            f"chunk {header.index} has a nonce that does not follow from its content"
        )
    records = decode_entries(header.session, _decompress(header, compressed))
    chain, next_seq, missing, counted = follow(
        records, header.chain_before, header.first_seq, key.chain
    )
    if (chain, next_seq, missing, counted) != (
        header.chain_after, header.next_seq, header.missing, header.records,
    ):  # fmt: skip
        raise InvalidChunk(f"chunk {header.index} does not hold what its header says")
    times = (records[0].time, records[-1].time)
    if times != (header.first_time, header.last_time):
        raise InvalidChunk(f"chunk {header.index} has other times than its header says")
    return records


def _decompress(header: ChunkHeader, compressed: bytes) -> bytes:
    try:
        if zstandard.frame_content_size(compressed) != header.raw_size:
            raise InvalidChunk(f"chunk {header.index} has another plaintext size than it says")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_RAW).decompressobj()
        plaintext = decompressor.decompress(compressed)
    except zstandard.ZstdError as error:
        raise InvalidChunk(f"chunk {header.index} does not decompress: {error}") from error
    if not decompressor.eof or decompressor.unused_data or len(plaintext) != header.raw_size:
        raise InvalidChunk(f"chunk {header.index} is not one whole zstd frame")
    return plaintext
