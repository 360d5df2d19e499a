"""A session's bytes in memory, as a verification is given them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from schemas.chunks import HEADER_SIZE
from schemas.erasure import (
    Erasure,
    ErasureFiles,
    Stage,
    digest,
    sign_erasure,
    write_headers,
    write_leaves,
)
from schemas.manifests import (
    manifest_hash,
)
from schemas.verify_chunk import Expected
from tests.factories import (
    DAY,
    START,
    STORAGE,
    MadeSession,
)


@dataclass
class MemorySource:
    """A SessionSource of a made session; tests change its fields to damage it."""

    session: UUID | None
    manifest_data: bytes | None
    note: bytes | None
    wrapped: bytes | None
    chunks: dict[int, bytes]
    listed: dict[int, Expected] | None
    recorder_key: str | None = None
    processor_key: str | None = None
    ended: bool = True
    name: str = "catalog"
    differing: list[str] = field(default_factory=list)
    erased: ErasureFiles | None = None

    @classmethod
    def of(cls, made: MadeSession, processor_key: str | None = None) -> MemorySource:
        """Everything in order, with a catalog's list."""
        return cls(
            session=made.session,
            manifest_data=made.manifest_bytes,
            note=made.checkpoint.encode(),
            wrapped=made.wrapped,
            chunks={chunk.header.index: chunk.data for chunk in made.chunks},
            listed={
                chunk.header.index: Expected(chunk.leaf, len(chunk.data)) for chunk in made.chunks
            },
            processor_key=processor_key,
        )

    def manifest(self) -> bytes | None:
        return self.manifest_data

    def checkpoint(self) -> bytes | None:
        return self.note

    def wrapped_key(self) -> bytes | None:
        return self.wrapped

    def listing(self) -> Mapping[int, Expected] | None:
        return self.listed

    def disagreements(self) -> list[str]:
        return self.differing

    def present(self) -> Collection[int]:
        return self.chunks.keys()

    def chunk(self, index: int) -> bytes | None:
        return self.chunks.get(index)

    def erasure(self) -> ErasureFiles | None:
        return self.erased

    def erase(self, made: MadeSession, stage: Stage = "content", **changes: Any) -> None:
        """Take away what an erasure takes, and leave its records."""
        leaves = write_leaves(made.leaves)
        headers = write_headers(chunk.data[:HEADER_SIZE] for chunk in made.chunks)
        fields: dict[str, Any] = {
            "session": str(made.session), "stage": "content", "scope": "default", "keep_days": 30,
            "ended": START, "decided": START + 40 * DAY, "by": "root", "host": "store",
            "manifest_hash": manifest_hash(made.manifest_bytes).hex(),
            "root": made.manifest.root, "chunks": len(made.chunks),
            "leaves_hash": digest(leaves), "headers_hash": digest(headers), **changes,
        }  # fmt: skip
        signer = fields.pop("signer", STORAGE)
        content = sign_erasure(Erasure(**fields), signer)
        self.chunks, self.wrapped = {}, None
        self.erased = ErasureFiles(content, None, leaves, headers)
        if stage == "metadata":
            later = {**fields, "stage": "metadata", "keep_days": 90, "headers_hash": None,
                     "decided": START + 100 * DAY}  # fmt: skip
            metadata = sign_erasure(Erasure(**later), signer)
            self.manifest_data, self.listed = None, {}
            self.erased = ErasureFiles(content, metadata, leaves)
