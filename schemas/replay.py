"""Replay: what a session's log gives again, beside what is stored. Pure.

A chunk is named by its leaf (RFC 6962), every other file by its SHA-256. What a stored file
ought to be is said, in this order, by a checkpoint that a trusted key signed, by the
manifest, by the catalog's entry, and last by the file that was stored first.

LucidError
└── Contradiction     what should say which bytes are the session's does not agree, or is
                      signed by nobody who is trusted
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from schemas.chunks import Chunk, ChunkHeader, read_chunk
from schemas.errors import FormatError, LucidError
from schemas.manifests import Manifest, checkpoint_of, read_manifest
from schemas.notes import Checkpoint, Verifier, open_note
from schemas.verify_documents import may_sign_checkpoints


class Contradiction(LucidError):
    """Nothing here decides which bytes are the session's."""

    exit_status = 65


class Difference(StrEnum):
    """What a stored file is to what the log gives; the names are stable."""

    IDENTICAL = "Identical"
    MISSING = "Missing"  # no such file
    ROTTEN = "Rotten"  # not the bytes that catalog, manifest or checkpoint name
    UNREADABLE = "Unreadable"  # the disk does not give it
    DIFFERENT_KEY = "DifferentKey"  # sealed with another data key
    DIFFERENT_CUT = "DifferentCut"  # other records than the log's chunk of this index has
    NEWER_CODEC = "NewerCodec"  # same records, another compressor version or parameters
    DIFFERENT = "Different"  # same records by number, other bytes
    EXTRA = "Extra"  # stored, but the log ends before it
    NO_ENTRY = "NoEntry"  # the file is right, the catalog does not list it
    OTHER_ENTRY = "OtherEntry"  # the file is right, the catalog names another hash


@dataclass(frozen=True, slots=True)
class Compared:
    """One file. Hashes in hex; None: there is none. named: by the catalog's entry.

    repair: what a repair did (`restored`, `replaced`, `entered`), or why it did nothing.
    """

    name: str
    difference: Difference
    replayed: str | None = None
    stored: str | None = None
    named: str | None = None
    detail: str = ""
    repair: str = ""
    repaired: bool = False

    @property
    def settled(self) -> bool:
        """Nothing is left to do."""
        return self.repaired or self.difference is Difference.IDENTICAL


def compare_chunk(
    name: str, chunk: Chunk, stored: bytes | None, stored_leaf: str | None, named: str | None
) -> Compared:
    """A replayed chunk beside the stored file of its index.

    stored: the file's bytes, None when there is no file or it is too large for a chunk;
    stored_leaf: the hash over all of it, None when there is no file. named: the leaf in the
    catalog's entry.
    """
    replayed = chunk.leaf.hex()

    def found(difference: Difference, detail: str = "") -> Compared:
        return Compared(name, difference, replayed, stored_leaf, named, detail)

    if stored_leaf is None:
        return found(Difference.MISSING)
    if stored_leaf == replayed:
        if named is None:
            return found(Difference.NO_ENTRY)
        return found(Difference.IDENTICAL if named == replayed else Difference.OTHER_ENTRY)
    if named is not None and named != stored_leaf:
        return found(Difference.ROTTEN, "the file is not what the catalog names")
    try:
        if stored is None:
            return found(Difference.ROTTEN, "the file is larger than any chunk")
        header = read_chunk(stored).header
    except FormatError as error:
        return found(Difference.ROTTEN, error.what)
    if (header.session, header.index) != (chunk.header.session, chunk.header.index):
        return found(
            Difference.ROTTEN, f"the file is chunk {header.index} of session {header.session}"
        )
    return found(*_difference(chunk.header, header))


def _difference(log: ChunkHeader, stored: ChunkHeader) -> tuple[Difference, str]:
    if stored.key_commitment != log.key_commitment:
        return Difference.DIFFERENT_KEY, (
            f"key commitment {stored.key_commitment.hex()} is stored, "
            f"the log's is {log.key_commitment.hex()}"
        )
    if _cut(stored) != _cut(log):
        return Difference.DIFFERENT_CUT, (
            f"records {stored.first_seq} to {stored.next_seq - 1} are stored, "
            f"the log gives {log.first_seq} to {log.next_seq - 1}"
        )
    if _codec(stored) != _codec(log):
        return Difference.NEWER_CODEC, (
            "zstd version, level and window are {}, {} and {} in the file, here {}, {} and {}"
        ).format(*_codec(stored), *_codec(log))
    return Difference.DIFFERENT, "the same records by number, other content"


def _cut(header: ChunkHeader) -> tuple[int, ...]:
    return (header.first_seq, header.next_seq, header.missing, header.records, header.last,
            header.first_time, header.last_time)  # fmt: skip


def _codec(header: ChunkHeader) -> tuple[int, int, int]:
    return header.compressor_version, header.level, header.window_log


def compare_file(
    name: str, replayed: str, stored: str | None, named: str | None = None
) -> Compared:
    """A document beside the stored one, by their hashes; named: the hash it ought to have."""
    if stored is None:
        return Compared(name, Difference.MISSING, replayed, None, named)
    if stored == replayed:
        return Compared(name, Difference.IDENTICAL, replayed, stored, named)
    rotten = named is not None and named != stored
    return Compared(
        name, Difference.ROTTEN if rotten else Difference.DIFFERENT, replayed, stored, named
    )


# What decides ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Binding:
    """Which bytes are a session's. by: `checkpoint` or `manifest`; note: the signed one."""

    by: str
    checkpoint: Checkpoint
    note: str | None = None

    def names(self, manifest: Manifest) -> bool:
        """Whether the manifest, and with it all its chunks, is the one that was bound."""
        return checkpoint_of(manifest) == self.checkpoint


def find_binding(
    session: UUID,
    manifests: Iterable[bytes | None],
    notes: Iterable[str | None],
    trusted: Sequence[Verifier],
    recorder: str,
) -> Binding | None:
    """What is said of a session by its documents, wherever they are kept; None: nothing.

    manifests, notes: from the store and from the catalog. recorder: its verifier key, which
    signs no checkpoint. Raises Contradiction.
    """
    written = [note for note in notes if note is not None]
    signed = {
        note: found for note in written if (found := signed_checkpoint(note, trusted, recorder))
    }
    if written and not signed:
        raise Contradiction(
            f"the checkpoint of session {session} is signed by no processor that is trusted",
            hint="Put its verifier key into trusted.txt if it is to be trusted",
        )
    if signed:
        return _only(session, [Binding("checkpoint", one, note) for note, one in signed.items()])
    unsigned = []
    for data in manifests:
        with contextlib.suppress(FormatError):
            unsigned.append(Binding("manifest", checkpoint_of(read_manifest(data or b""))))
    return _only(session, unsigned) if unsigned else None


def signed_checkpoint(note: str, trusted: Sequence[Verifier], recorder: str) -> Checkpoint | None:
    """What a note says if one of the trusted keys, not the recorder's, signed it."""
    for verifier in trusted:
        if not may_sign_checkpoints(verifier, recorder):
            continue
        with contextlib.suppress(FormatError):
            return Checkpoint.parse(open_note(note, verifier))
    return None


def _only(session: UUID, found: Sequence[Binding]) -> Binding:
    if len({one.checkpoint for one in found}) > 1 or found[0].checkpoint.session != session:
        raise Contradiction(
            f"the {found[0].by}s of session {session} contradict each other or name another",
            hint="Find out which one is right before anything is repaired",
        )
    return found[0]


def judge(rows: Iterable[Compared], *, bound: bool) -> list[Compared]:
    """The rows once it is known that the log gives what was bound: what differs has rotted."""
    changed = {Difference.DIFFERENT, Difference.DIFFERENT_CUT, Difference.DIFFERENT_KEY,
               Difference.NEWER_CODEC}  # fmt: skip
    return [
        replace(row, difference=Difference.ROTTEN,
                detail=row.detail or "the file is not what was signed")
        if bound and row.difference in changed
        else row
        for row in rows
    ]  # fmt: skip


def refusal(row: Compared, binding: Binding | None, *, bound: bool) -> str:
    """Why a chunk may not be restored from the log; empty when it may.

    bound: the log gives just what `binding` names.
    """
    if row.difference is Difference.EXTRA:
        return "the log does not have it; it stays as evidence"
    if row.difference is Difference.OTHER_ENTRY:
        return "the catalog's entry names another hash; it stays as evidence"
    if row.difference is Difference.UNREADABLE:
        return "the disk does not give the file, so it cannot be moved aside"
    if binding is not None:
        return "" if bound else f"the log does not give what the {binding.by} names"
    if row.named is not None:
        return "" if row.named == row.replayed else "the log does not give what the catalog names"
    if row.difference in (Difference.MISSING, Difference.NO_ENTRY):
        return ""
    return "nothing but the stored file says what it ought to be, so it stands"
