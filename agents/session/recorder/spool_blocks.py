"""Blocks: how one record, or the head, stands in a file of a spool.

A block is its length (4 bytes, big endian), a random nonce (24) and an XChaCha20-Poly1305
ciphertext, of which session, segment and block number are the associated data: the tag is
the checksum, and what a disk keeps of deleted files is readable to nobody without the
recorder's signing key, from which the spool's key is derived. The plaintext of a record is
the recorder's counts after it (frames and raw bytes, 8 bytes each), its chain (32) and its
entry as inside a chunk (docs/formats/frame-record.md).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import nacl.bindings
from nacl.exceptions import CryptoError

from schemas.errors import FormatError
from schemas.frames import HASH_SIZE, MAX_PAYLOAD, FrameRecord, decode_entries, entry_header
from schemas.notes import Signer

HEAD_SEGMENT = 2**64 - 1
_LENGTH = struct.Struct(">I")
_PLACE = struct.Struct(">16sQQ")
_COUNTS = struct.Struct(">QQ")
_NONCE = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_TAG = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
MAX_BLOCK = MAX_PAYLOAD + 64 * 1024


@dataclass(frozen=True, slots=True)
class Spooled:
    """A record and the recorder's own counts after it: frames, and bytes of their payloads."""

    record: FrameRecord
    frames: int = 0
    raw_bytes: int = 0


class Blocks:
    """Seals and reads the blocks of one session's spool."""

    def __init__(self, session: UUID, signer: Signer) -> None:
        self._session = session
        self._key = signer.subkey(b"spool " + session.bytes)

    def seal(self, plaintext: bytes, segment: int, block: int) -> bytes:
        """The bytes of one block."""
        nonce = os.urandom(_NONCE)
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            plaintext, self._place(segment, block), nonce, self._key
        )
        return _LENGTH.pack(len(nonce) + len(sealed)) + nonce + sealed

    def walk(
        self, data: bytes, segment: int, block: int = 0, start: int = 0
    ) -> Iterator[tuple[bytes, int]]:
        """Plaintexts of the blocks from byte `start` on, each with the byte behind it.

        Ends before the first block that is not whole or not this spool's.
        """
        while start + _LENGTH.size <= len(data):
            end = self.end_of(data, start)
            if end is None or end > len(data):
                return
            try:
                plaintext = self._unseal(data[start + _LENGTH.size : end], segment, block)
            except CryptoError:
                return
            yield plaintext, end
            start, block = end, block + 1

    def end_of(self, data: bytes, start: int) -> int | None:
        """The byte behind the block at `start`, None if its length cannot be right."""
        (length,) = _LENGTH.unpack_from(data, start)
        return start + _LENGTH.size + length if _NONCE + _TAG <= length <= MAX_BLOCK else None

    def _unseal(self, data: bytes, segment: int, block: int) -> bytes:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            data[_NONCE:], self._place(segment, block), data[:_NONCE], self._key
        )

    def _place(self, segment: int, block: int) -> bytes:
        return _PLACE.pack(self._session.bytes, segment, block)

    def encode(self, spooled: Spooled) -> bytes:
        """The plaintext of a record."""
        record = spooled.record
        counts = _COUNTS.pack(spooled.frames, spooled.raw_bytes)
        return counts + record.chain + entry_header(record) + record.payload

    def decode(self, plaintext: bytes) -> Spooled | None:
        """The record of a plaintext; None if it holds none."""
        entry = _COUNTS.size + HASH_SIZE
        if len(plaintext) < entry:
            return None
        try:
            (found,) = decode_entries(self._session, plaintext[entry:])
        except (FormatError, ValueError):
            return None
        chain = plaintext[_COUNTS.size : entry]
        record = FrameRecord(self._session, found.kind, found.seq, found.time, chain, found.payload)
        return Spooled(record, *_COUNTS.unpack_from(plaintext))
