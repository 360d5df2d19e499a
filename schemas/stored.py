"""Records of `session.chunks` and `session.manifests`: what a processor hands to storage.

The key is the session id. A chunk's value is the chunk; headers `leaf` (hex) and
`wrapped-key` (base64 of the age file). A manifest's value is its canonical JSON; headers
`checkpoint` (a signed note) and `wrapped-key`. Storage checks all of it without any key.

FormatError
├── InvalidStoredRecord   headers or key are not those of such a record
├── LeafMismatch          the bytes do not hash to the leaf that was announced
└── CheckpointMismatch    the checkpoint speaks of another manifest, root, size or session
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from schemas.canonical import decode
from schemas.chunks import Chunk, read_chunk
from schemas.datakey import MAX_WRAPPED
from schemas.errors import FormatError
from schemas.manifests import Manifest, checkpoint_of
from schemas.notes import Checkpoint, split_note, unbase64
from schemas.sessions import parse_session_id

Headers = Sequence[tuple[str, bytes | None]]


class InvalidStoredRecord(FormatError):
    """A record of `session.chunks` or `session.manifests` breaks its form."""


class LeafMismatch(FormatError):
    """A chunk's bytes do not have the leaf that its record names."""


class CheckpointMismatch(FormatError):
    """A checkpoint does not belong to the manifest beside it."""


def _fields(headers: Headers, wanted: set[str]) -> dict[str, str]:
    fields = dict(headers)
    if len(headers) != len(wanted) or set(fields) != wanted:
        names = sorted(name for name, _ in headers)
        raise InvalidStoredRecord(f"a record has headers {names}, wanted are {sorted(wanted)}")
    try:
        return {name: (value or b"").decode("utf-8") for name, value in fields.items()}
    except UnicodeDecodeError as error:
        raise InvalidStoredRecord("a record has a header that is not UTF-8") from error


def _wrapped_key(text: str) -> bytes:
    if len(text) > MAX_WRAPPED * 4 // 3 + 4:
        raise InvalidStoredRecord(f"a wrapped key has {len(text)} characters")
    return unbase64(text)


def _check_session(key: bytes | None, session: UUID) -> None:
    if parse_session_id(key) != session:
        raise InvalidStoredRecord(f"a record with key {key!r} holds data of session {session}")


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """A chunk and the wrapped key that opens it (an age file)."""

    chunk: Chunk
    wrapped_key: bytes

    def to_kafka(self) -> tuple[bytes, list[tuple[str, bytes]], bytes]:
        """Key, headers and value of the Kafka record."""
        headers = [
            ("leaf", self.chunk.leaf.hex().encode()),
            ("wrapped-key", base64.b64encode(self.wrapped_key)),
        ]
        return str(self.chunk.header.session).encode(), headers, self.chunk.data

    @classmethod
    def from_kafka(cls, key: bytes | None, headers: Headers, value: bytes | None) -> ChunkRecord:
        """Read and check a record: key, exact size, header, leaf. Raises FormatError."""
        fields = _fields(headers, {"leaf", "wrapped-key"})
        chunk = read_chunk(value or b"")
        _check_session(key, chunk.header.session)
        if fields["leaf"] != chunk.leaf.hex():
            raise LeafMismatch(
                f"chunk {chunk.header.index} of session {chunk.header.session} has leaf "
                f"{chunk.leaf.hex()}, its record names {fields['leaf'][:80]!r}"
            )
        return cls(chunk, _wrapped_key(fields["wrapped-key"]))


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """A manifest's canonical bytes, its signed checkpoint, and the wrapped key."""

    manifest: bytes
    checkpoint: str
    wrapped_key: bytes

    def to_kafka(self, session: str | None = None) -> tuple[bytes, list[tuple[str, bytes]], bytes]:
        """Key, headers and value of the Kafka record.

        session: the manifest's, from whoever has just encoded it and need not read it again.
        """
        session = session or decode(Manifest, self.manifest).session
        headers = [
            ("checkpoint", self.checkpoint.encode()),
            ("wrapped-key", base64.b64encode(self.wrapped_key)),
        ]
        return session.encode(), headers, self.manifest

    @classmethod
    def from_kafka(
        cls, key: bytes | None, headers: Headers, value: bytes | None
    ) -> tuple[ManifestRecord, Manifest]:
        """Read and check a record; its signature needs a verifier key. Raises FormatError."""
        fields = _fields(headers, {"checkpoint", "wrapped-key"})
        data = value or b""
        manifest = decode(Manifest, data)
        _check_session(key, manifest.session_id)
        if Checkpoint.parse(split_note(fields["checkpoint"])[0]) != checkpoint_of(manifest, data):
            raise CheckpointMismatch(
                f"the checkpoint of session {manifest.session} speaks of another manifest"
            )
        return cls(data, fields["checkpoint"], _wrapped_key(fields["wrapped-key"])), manifest
