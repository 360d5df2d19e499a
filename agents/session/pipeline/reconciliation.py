"""Reconciliation: is everything that was recorded sealed, stored and counted? Pure.

Four independent counts meet here: the recorder's (its closing event), the manifest's (the
processor's), the catalog's chunk entries (storage's), and the signed checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from agents.session.pipeline.states import SessionState
from schemas.errors import FormatError
from schemas.manifests import Manifest, manifest_hash
from schemas.merkle import root
from schemas.notes import Checkpoint, Verifier, open_note, split_note
from schemas.verify_documents import may_sign_checkpoints


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """What the catalog says of a stored chunk: leaf (32 bytes), file size, header's counts."""

    index: int
    leaf: bytes
    size: int
    first_seq: int
    next_seq: int
    records: int
    missing: int
    raw_size: int


def reconcile(
    state: SessionState,
    manifest: Manifest,
    manifest_bytes: bytes,
    checkpoint: str,
    chunks: Sequence[StoredChunk],
    trusted: Sequence[Verifier] = (),
) -> list[str]:
    """One sentence for each thing that is missing or does not add up; empty when complete.

    chunks: in order of their index. trusted: keys one of which has to have signed the
    checkpoint; with none, nobody's signature is checked.
    """
    return [
        *manifest.shortcomings(),
        *_expired(state, manifest, chunks),
        *_recorder(state, manifest),
        *_chunks(manifest, chunks),
        *_totals(manifest, chunks),
        *_checkpoint(manifest, manifest_bytes, checkpoint),
        *_signature(manifest, checkpoint, trusted),
        *_conflicts(state),
    ]


def without_manifest(state: SessionState, chunks: Sequence[StoredChunk]) -> list[str]:
    """What there is to say of an ended session whose manifest never reached storage."""
    if state.unsealed and not chunks:
        place = state.opened
        where = f" at offset {place.offset} of partition {place.partition}" if place else ""
        found = [f"nothing was sealed: the processor never met the session's open record{where}"]
    else:
        found = ["its manifest is not stored"]
    present = sorted(chunk.index for chunk in chunks)
    last = state.last_index if state.last_index is not None else max(present, default=-1)
    found.extend(f"chunk {index} is not stored" for index in _absent(present, last + 1))
    if present:
        sealed = max(chunk.next_seq for chunk in chunks)
        found.append(f"{len(present)} chunks are stored, up to record {sealed - 1}")
    if state.next_seq:
        found.append(f"the recorder counted {state.next_seq} records")
    return [*found, *_losses(state), *_conflicts(state)]


def _absent(present: Sequence[int], count: int) -> list[int]:
    return sorted(set(range(count)) - set(present))


def _losses(state: SessionState) -> list[str]:
    """Ranges that expired; whether records of this session were in them, is not known here."""
    found = []
    for loss in state.losses:
        place = (
            f"offsets {loss.first_offset} to {loss.next_offset - 1} of partition {loss.partition}"
        )
        since = (
            "" if loss.next_seq is None else f"; records of this session from {loss.next_seq} on"
        )
        found.append(f"{place} of {loss.topic} expired before they were read{since}")
    return found


def _expired(state: SessionState, manifest: Manifest, chunks: Sequence[StoredChunk]) -> list[str]:
    """Why something is missing. What expired at other sessions' expense is no shortcoming."""
    topics = set()
    if manifest.tally.missing or manifest.ended_by == "abandon":
        topics.add("session.frames")
    if len(chunks) < manifest.chunks:
        topics.add("session.chunks")
    losses = [loss for loss in state.losses if loss.topic in topics]
    return _losses(state.model_copy(update={"losses": losses}))


def _recorder(state: SessionState, manifest: Manifest) -> list[str]:
    if manifest.ended_by == "abandon":
        if state.next_seq > manifest.next_seq:
            return [
                f"the recorder counted {state.next_seq} records before it vanished, "
                f"{manifest.next_seq} were sealed"
            ]
        return []
    if state.ended_at is not None and state.next_seq != manifest.next_seq:
        return [f"the recorder sent {state.next_seq} records, {manifest.next_seq} were sealed"]
    return []


def _chunks(manifest: Manifest, chunks: Sequence[StoredChunk]) -> list[str]:
    found = []
    present = {chunk.index for chunk in chunks}
    for index in _absent(sorted(present), manifest.chunks):
        found.append(f"chunk {index} of {manifest.chunks} is not stored")
    extra = sorted(index for index in present if index >= manifest.chunks)
    found.extend(f"chunk {index} is stored, but the manifest ends before it" for index in extra)
    seq = 0
    for chunk in chunks:
        if chunk.index < manifest.chunks and chunk.first_seq != seq and chunk.index - 1 in present:
            found.append(f"chunk {chunk.index} starts at record {chunk.first_seq}, not at {seq}")
        seq = chunk.next_seq
    return found


def _totals(manifest: Manifest, chunks: Sequence[StoredChunk]) -> list[str]:
    if len(chunks) != manifest.chunks:
        return []  # said already; the totals cannot agree
    tally = manifest.tally
    recorded = sum(tally.counts.values()) - tally.counts.get("abandon", 0)
    pairs = [
        ("records", sum(chunk.records for chunk in chunks), recorded),
        ("missing records", sum(chunk.missing for chunk in chunks), tally.missing),
        ("plaintext bytes", sum(chunk.raw_size for chunk in chunks), tally.raw_bytes),
        ("bytes on disk", sum(chunk.size for chunk in chunks), tally.sealed_bytes),
        ("sequence numbers", chunks[-1].next_seq if chunks else 0, manifest.next_seq),
    ]
    found = [
        f"storage counts {stored} {what}, the manifest {sealed}"
        for what, stored, sealed in pairs
        if stored != sealed
    ]
    if root([chunk.leaf for chunk in chunks]).hex() != manifest.root:
        found.append("the root over the stored leaves is not the manifest's root")
    return found


def _checkpoint(manifest: Manifest, manifest_bytes: bytes, note: str) -> list[str]:
    try:
        checkpoint = Checkpoint.parse(split_note(note)[0])
    except FormatError as error:
        return [f"the checkpoint cannot be read: {error}"]
    expected = (manifest.session_id, manifest.chunks, bytes.fromhex(manifest.root))
    if (checkpoint.session, checkpoint.size, checkpoint.root) != expected:
        return ["the checkpoint speaks of another session, size or root than the manifest"]
    if checkpoint.manifest != manifest_hash(manifest_bytes):
        return ["the checkpoint was signed over another manifest"]
    return []


def _signature(manifest: Manifest, note: str, trusted: Sequence[Verifier]) -> list[str]:
    """A recorder's key signs what was captured, never what was sealed; a storage's, erasures."""
    processors = [one for one in trusted if may_sign_checkpoints(one, manifest.recorder)]
    for verifier in processors:
        with contextlib.suppress(FormatError):
            open_note(note, verifier)
            return []
    if not processors:
        return []
    return ["the checkpoint is signed by no processor that trusted.txt names"]


def _conflicts(state: SessionState) -> list[str]:
    if not state.conflicts:
        return []
    return [f"{state.conflicts} chunks or manifests that differ from the first ones were refused"]
