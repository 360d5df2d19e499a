"""Anchors: what a ledger outside of Lucid registers of a complete session.

Records of `session.anchors`, key session id, canonical JSON. The fields are the arguments
of a ledger's registerSession(sessionId, manifestHash, startedAt, owner, merkleRoot, chunkCount).
"""

from __future__ import annotations

from typing import Literal

from schemas.canonical import Count, Hex32, Strict, decode, encode
from schemas.manifests import Manifest, manifest_hash


class Anchor(Strict):
    """started_at: event time in microseconds; hashes in hex."""

    version: Literal[1] = 1
    session: str
    manifest_hash: Hex32
    started_at: Count
    owner: str
    merkle_root: Hex32
    chunk_count: Count


def anchor_of(manifest: Manifest) -> Anchor:
    """The anchor of a manifest."""
    return Anchor(
        session=manifest.session,
        manifest_hash=manifest_hash(encode(manifest)).hex(),
        started_at=manifest.tally.first_time,
        owner=manifest.owner,
        merkle_root=manifest.root,
        chunk_count=manifest.chunks,
    )


def read_anchor(data: bytes) -> Anchor:
    """Read an anchor's canonical bytes; raises FormatError."""
    return decode(Anchor, data)
