"""Erasure records: what was deleted of a session by policy, by whom, and what stays of it.

The format is docs/formats/erasure.md: a C2SP signed note whose text is canonical JSON. It is
written before anything is deleted and stays for ever. Beside it stay the leaves, and the
headers of the chunks as long as the session's metadata.

    note = sign_erasure(record, signer)
    record = read_erasure(note)          whoever signed it

FormatError
└── InvalidErasure    not an erasure record, or leaves or headers that break their form
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from schemas.canonical import Count, Hex32, Strict, decode, encode
from schemas.chunks import HEADER_SIZE, read_header
from schemas.controls import Text
from schemas.errors import FormatError
from schemas.events import SessionId
from schemas.notes import Signer, split_note

FIRST_LINE = "lucid/erasure/1"
STORAGE_NAME = "/storage"
"""How the names of the keys end that sign erasures, and nothing else (`lucid keys init`)."""

Stage = Literal["content", "metadata"]
Scope = Literal["default", "project", "session"]
Days = Annotated[int, Field(ge=1, le=365)]
UNKNOWN = bytes(32)
"""Stands for the leaf of a chunk that was missing already."""
_LEAF = re.compile(r"[0-9a-f]{64}")


class InvalidErasure(FormatError):
    """An erasure record, or what it leaves, breaks its format."""


class Erasure(Strict):
    """One stage of an erasure.

    stage: `content` is ciphertexts and keys, `metadata` is manifest, headers and catalog.
    scope: which policy decided; keep_days: how long it keeps. ended: when the session ended,
    decided: when the erasure was begun, both in microseconds. by: user, host: where.
    manifest_hash, root: null for a session that has no manifest. leaves_hash, headers_hash:
    SHA-256 of what stays; headers_hash is null once they do not.
    """

    version: Literal[1] = 1
    session: SessionId
    stage: Stage
    scope: Scope
    keep_days: Days
    ended: Count
    decided: Count
    by: Annotated[Text, Field(min_length=1)]
    host: Text
    manifest_hash: Hex32 | None
    root: Hex32 | None
    chunks: Count
    leaves_hash: Hex32
    headers_hash: Hex32 | None


@dataclass(frozen=True, slots=True)
class ErasureFiles:
    """An erased session's files as they are kept. content, metadata: the notes."""

    content: bytes
    metadata: bytes | None = None
    leaves: bytes | None = None
    headers: bytes | None = None


def sign_erasure(record: Erasure, signer: Signer) -> bytes:
    """The signed note over a record."""
    return signer.sign(f"{FIRST_LINE}\n{encode(record).decode()}\n").encode()


def read_erasure(note: bytes) -> Erasure:
    """The record in a note, its signatures unchecked; raises FormatError."""
    try:
        text, _ = split_note(note.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidErasure(f"the erasure record is not UTF-8: {error}") from error
    lines = text.split("\n")
    if len(lines) != 3 or lines[0] != FIRST_LINE or lines[2]:
        raise InvalidErasure("the note is not an erasure record")
    return decode(Erasure, lines[1].encode())


def digest(data: bytes) -> str:
    """SHA-256 in hex, as a record names what stays."""
    return hashlib.sha256(data).hexdigest()


def write_leaves(leaves: Sequence[bytes]) -> bytes:
    """leaves.txt: a line of hex for each chunk; UNKNOWN for one that was missing."""
    return "".join(f"{leaf.hex()}\n" for leaf in leaves).encode()


def read_leaves(data: bytes) -> list[bytes]:
    """The leaves in the order of their chunks; raises InvalidErasure."""
    lines = data.decode("ascii", "replace").split("\n")
    if lines.pop() or not all(_LEAF.fullmatch(line) for line in lines):
        raise InvalidErasure("leaves.txt is not lines of 64 hexadecimal digits")
    return [bytes.fromhex(line) for line in lines]


def write_headers(headers: Iterable[bytes]) -> bytes:
    """headers.bin: the headers of the chunks that were there, one behind the other."""
    return b"".join(headers)


def read_headers(data: bytes) -> dict[int, bytes]:
    """The headers by the index that each names; raises FormatError."""
    if len(data) % HEADER_SIZE:
        raise InvalidErasure(f"headers.bin has {len(data)} bytes, no multiple of {HEADER_SIZE}")
    found: dict[int, bytes] = {}
    last = -1
    for at in range(0, len(data), HEADER_SIZE):
        header = data[at : at + HEADER_SIZE]
        index = read_header(header).index
        if index <= last:
            raise InvalidErasure(f"headers.bin has chunk {index} behind chunk {last}")
        found[index] = header
        last = index
    return found
