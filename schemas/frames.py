"""Frame records: what a recorder writes to `session.frames`, and how records are chained.

The format is docs/formats/frame-record.md. One Kafka record carries one frame record: the
key is the session id, five headers carry everything but the payload, the value is the
payload. Inside a chunk the same record is a 21-byte entry header and the payload.

FormatError
└── InvalidFrameRecord    headers, key, sizes or an entry break the format
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from schemas.canonical import LARGEST
from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.sessions import parse_session_id

VERSION = 1
MAX_PAYLOAD = 1_000_000  # bytes; leaves room for key, headers and batch in 1 MiB
HASH_SIZE = 32

_ENTRY = struct.Struct(">BQqI")
ENTRY_SIZE = _ENTRY.size
_MISSING = struct.Struct(">Q32s")
_CHAIN_START = b"lucid/chain/1"
_CHAIN_NODE = b"\x02"  # RFC 6962 uses 0x00 for leaves and 0x01 for nodes
_HEADER_NAMES = frozenset({"version", "kind", "seq", "time", "chain"})
_ABANDON_NAMES = frozenset({"version", "kind", "time"})


class InvalidFrameRecord(FormatError):
    """Headers, key, sizes or an entry are not those of a frame record."""


class Kind(IntEnum):
    """What a record is; the number is its byte inside a chunk."""

    OPEN = 1
    FRAMES = 2
    KEEPALIVE = 3
    GAP = 4
    PAUSE = 5
    RESUME = 6
    CLOSE = 7
    ABANDON = 8
    MISSING = 9  # only inside chunks: sequence numbers that never arrived

    @property
    def label(self) -> str:
        """The value of header `kind`."""
        return self.name.lower()


_ON_TOPIC = {kind.label.encode(): kind for kind in Kind if kind is not Kind.MISSING}
OUTSIDE_SEQUENCE = frozenset({Kind.ABANDON, Kind.MISSING})
"""Kinds that the recorder did not write: they carry no sequence number of their own and no
link of the recorder's chain."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One record of a session.

    seq: gapless from 0; an `abandon` has none on the topic (-1 here).
    time: event time in microseconds since the Unix epoch, never decreasing.
    chain: the hash chain before this record, 32 bytes; of an `abandon`: empty.
    """

    session: UUID
    kind: Kind
    seq: int
    time: int
    chain: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes that this record takes inside a chunk."""
        return ENTRY_SIZE + len(self.payload)


def to_kafka(record: FrameRecord) -> tuple[bytes, list[tuple[str, bytes]], bytes]:
    """Key, headers and value of the Kafka record."""
    headers = [
        ("version", b"%d" % VERSION),
        ("kind", record.kind.label.encode()),
        ("time", b"%d" % record.time),
    ]
    if record.kind not in OUTSIDE_SEQUENCE:
        headers.insert(2, ("seq", b"%d" % record.seq))
        headers.append(("chain", record.chain.hex().encode()))
    return str(record.session).encode(), headers, record.payload


def from_kafka(
    key: bytes | None, headers: Sequence[tuple[str, bytes | None]], value: bytes | None
) -> FrameRecord:
    """Read a Kafka record of `session.frames`; raises FormatError, whatever the bytes are."""
    fields = {name: text or b"" for name, text in headers}
    version = fields.get("version")
    if version != b"1":
        raise UnknownVersion(
            f"a frame record has version {version!r}, this reader knows {VERSION}",
            hint="Run a newer Lucid" if version else "The record is not Lucid's",
        )
    kind = _ON_TOPIC.get(fields.get("kind", b""))
    if kind is None:
        raise InvalidFrameRecord(f"a frame record has kind {fields.get('kind')!r}")
    wanted = _ABANDON_NAMES if kind is Kind.ABANDON else _HEADER_NAMES
    if len(headers) != len(wanted) or fields.keys() != wanted:
        raise InvalidFrameRecord(
            f"a frame record has headers {sorted(name for name, _ in headers)}, "
            f"{kind.label} takes {sorted(wanted)} once each"
        )
    if value is None or len(value) > MAX_PAYLOAD:
        size = "no" if value is None else len(value)
        raise InvalidFrameRecord(f"a frame record has {size} bytes, at most {MAX_PAYLOAD}")
    abandon = kind is Kind.ABANDON
    return FrameRecord(
        session=parse_session_id(key),
        kind=kind,
        seq=-1 if abandon else _number("seq", fields["seq"], LARGEST - 1),
        time=_number("time", fields["time"]),
        chain=b"" if abandon else _chain(fields["chain"]),
        payload=value,
    )


def _number(name: str, text: bytes, most: int = LARGEST) -> int:
    """A decimal without sign or leading zeros."""
    if text.isdigit() and len(text) <= 16 and (text == b"0" or text[0] != 0x30):
        number = int(text)
        if number <= most:
            return number
    raise InvalidFrameRecord(f"a frame record has {name} {text[:32]!r}, not a canonical number")


def _chain(text: bytes) -> bytes:
    if len(text) == 2 * HASH_SIZE:
        with contextlib.suppress(ValueError):
            chain = bytes.fromhex(text.decode())
            if chain.hex().encode() == text:  # fromhex takes capitals and blanks, too
                return chain
    raise InvalidFrameRecord(f"a frame record has chain {text[:80]!r}, not 64 hex digits")


# Chain ------------------------------------------------------------------------------------


def chain_start(session: UUID) -> bytes:
    """The chain before a session's first record."""
    return hashlib.sha256(_CHAIN_START + session.bytes).digest()


def chain_next(chain: bytes, chain_key: bytes, record: FrameRecord) -> bytes:
    """The chain after `record`.

    The inner hash is keyed by the session, so that a chain head, which is public, confirms
    no guess of what was on the screen, and nothing at all once the key is destroyed.
    """
    return chain_over(chain, hmac.new(chain_key, digestmod="sha256"), record)


def chain_over(chain: bytes, keyed: hmac.HMAC, record: FrameRecord) -> bytes:
    """chain_next with the HMAC under the chain key that nothing was put into yet.

    It stays so: for a run of records, keying it once saves a third of what small ones take.
    """
    inner = keyed.copy()
    inner.update(entry_header(record))
    inner.update(record.payload)
    return hashlib.sha256(_CHAIN_NODE + chain + inner.digest()).digest()


# Entries: records inside a chunk ------------------------------------------------------------


def entry_header(record: FrameRecord) -> bytes:
    """The 21 bytes before a record's payload inside a chunk: kind, seq, time, length."""
    return _ENTRY.pack(record.kind, record.seq, record.time, len(record.payload))


def missing_record(record: FrameRecord, expected: int) -> FrameRecord:
    """The entry that stands for sequence numbers `expected` to `record.seq - 1`."""
    payload = _MISSING.pack(record.seq - expected, record.chain)
    return FrameRecord(record.session, Kind.MISSING, expected, record.time, b"", payload)


def read_missing(record: FrameRecord) -> tuple[int, bytes]:
    """How many sequence numbers are missing, and the chain after them."""
    if len(record.payload) != _MISSING.size:
        raise InvalidFrameRecord(f"a missing entry has {len(record.payload)} bytes, not 40")
    count, chain = _MISSING.unpack(record.payload)
    if not 0 < count <= LARGEST:
        raise InvalidFrameRecord(f"a missing entry stands for {count} records")
    return count, chain


def encode_entries(records: Iterable[FrameRecord]) -> bytes:
    """The plaintext of a chunk."""
    held = list(records)
    buffer = bytearray(sum(record.size for record in held))
    write_entries(held, buffer, 0)
    return bytes(buffer)


def write_entries(records: Iterable[FrameRecord], buffer: bytearray, position: int) -> int:
    """Write a chunk's plaintext into `buffer`, which is large enough, from `position` on.

    Returns the position behind it. A buffer that is used again saves the fresh pages, which
    cost more than the copy itself.
    """
    for record in records:
        start = position + ENTRY_SIZE
        payload = record.payload
        _ENTRY.pack_into(buffer, position, record.kind, record.seq, record.time, len(payload))
        position = start + len(payload)
        buffer[start:position] = payload
    return position


def decode_entries(session: UUID, plaintext: bytes) -> list[FrameRecord]:
    """Read a chunk's plaintext; the records' `chain` is empty. Raises FormatError."""
    records: list[FrameRecord] = []
    position = 0
    while position < len(plaintext):
        start = position + ENTRY_SIZE
        if start > len(plaintext):
            raise Truncated(f"an entry header at byte {position} of {len(plaintext)} is cut off")
        number, seq, time, length = _ENTRY.unpack_from(plaintext, position)
        try:
            kind = Kind(number)
        except ValueError:
            raise InvalidFrameRecord(f"an entry at byte {position} has kind {number}") from None
        if length > MAX_PAYLOAD or seq > LARGEST or not 0 <= time <= LARGEST:
            raise InvalidFrameRecord(f"an entry at byte {position} is out of range")
        position = start + length
        if position > len(plaintext):
            raise Truncated(f"an entry's payload at byte {start} of {len(plaintext)} is cut off")
        records.append(FrameRecord(session, kind, seq, time, b"", plaintext[start:position]))
    return records
