"""What is wrong with a stored file: its catalog entry beside what is on disk. Pure.

A file comes before its entry, so an entry without a file is damage at once, while a file
without an entry may still get one: it counts only once it is older than a grace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agents.platform.blobs import (
    CHECKPOINT,
    CONFLICTS,
    ERASED_CONTENT,
    ERASED_METADATA,
    HEADERS,
    KEY,
    LEAVES,
    MANIFEST,
    TEMPORARY,
    chunk_index,
)
from agents.platform.catalog import Document
from schemas.erasure import read_erasure
from schemas.errors import FormatError
from schemas.events import Damage
from schemas.manifests import read_manifest

DOCUMENTS = (CHECKPOINT, KEY, MANIFEST)
_CONFLICT = re.compile(
    rf"{CONFLICTS}/(?:[0-9]{{8,16}}|manifest|key)\.([0-9a-f]{{64}})\.(chunk|json|age)"
)
_REPAIR = "`lucid replay --session {session} --repair` restores it while the log still has it"
_ADVICE: dict[Damage, str] = {
    "MissingFile": _REPAIR,
    "ChecksumMismatch": f"Look at the disk; {_REPAIR}",
    "SizeMismatch": f"Look at the disk; {_REPAIR}",
    "UnexpectedFile": "Find out who put it there, and move it away; of an erased session, "
    "`lucid retention apply` removes it",
    "CatalogMissing": f"Start storage, which ends what it began; if it stays, {_REPAIR}",
    "Unknown": f"Look at the disk and the permissions; if the disk is broken, {_REPAIR}",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the catalog says of a file. hash: hex; None: not known, as is a size."""

    size: int | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is on disk. age: seconds since it got its name. error: why it cannot be read."""

    size: int = 0
    age: float = 0.0
    hash: str | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is not as it should be. session: empty for what lies beside all sessions."""

    session: str
    name: str
    verdict: Damage
    expected: str
    found: str

    @property
    def index(self) -> int | None:
        return chunk_index(self.name)

    @property
    def advice(self) -> str:
        return _ADVICE[self.verdict].format(session=self.session)

    def as_json(self) -> dict[str, Any]:
        """The finding as `lucid scrub --json` prints it."""
        return {
            "session": self.session, "name": self.name, "index": self.index,
            "verdict": self.verdict, "expected": self.expected, "found": self.found,
            "advice": self.advice,
        }  # fmt: skip


def is_ours(name: str) -> bool:
    """Whether the store has files of this name (conflicts with their folder before it)."""
    return name in DOCUMENTS or chunk_index(name) is not None or bool(_CONFLICT.fullmatch(name))


def hasher(name: str) -> Callable[[], Any]:
    """What makes the hash of a file: of a chunk its leaf (RFC 6962), else plain SHA-256."""
    prefix = b"\x00" if name.endswith(".chunk") else b""
    return lambda: hashlib.sha256(prefix)


def wanted_chunk(entry: Document) -> Wanted:
    """What the catalog's entry of a chunk says of its file."""
    size = entry.get("size")
    return Wanted(size if isinstance(size, int) else -1, str(entry.get("leaf")))


def wanted_documents(entry: Document | None, chunks: bool) -> dict[str, Wanted]:
    """What a session's entry of `manifests` says of its documents.

    chunks: whether it has chunk entries, for then it has a wrapped key.
    """
    if entry is None:
        return {KEY: Wanted()} if chunks else {}
    manifest, checkpoint = str(entry.get("manifest")).encode(), str(entry.get("checkpoint"))
    note = checkpoint.encode()
    return {
        MANIFEST: Wanted(len(manifest), str(entry.get("hash"))),
        CHECKPOINT: Wanted(len(note), hashlib.sha256(note).hexdigest()),
        KEY: Wanted(None, _key_hash(manifest)),
    }


def _key_hash(manifest: bytes) -> str | None:
    try:
        return read_manifest(manifest).wrapped_key_hash
    except FormatError:
        return None


def wanted_left(note: bytes, forgotten: bool, entry: Document | None) -> dict[str, Wanted]:
    """What an erased session's record says of the files that stay.

    note: of its content. forgotten: whether its metadata was erased, too.
    """
    try:
        record = read_erasure(note)
    except FormatError:
        return {ERASED_CONTENT: Wanted(None, "an erasure record")}
    found = {ERASED_CONTENT: Wanted(), LEAVES: Wanted(None, record.leaves_hash)}
    if forgotten:
        signed = {CHECKPOINT: Wanted()} if record.manifest_hash is not None else {}
        return {**found, **signed, ERASED_METADATA: Wanted()}
    documents = wanted_documents(entry, chunks=False)
    documents.pop(KEY, None)
    return {**found, **documents, HEADERS: Wanted(None, record.headers_hash)}


def remnant(session: str, name: str, seen: Seen | None) -> Finding | None:
    """A file that an erasure should have taken."""
    if seen is None:
        return None
    found = seen.error or f"{seen.size} bytes"
    return Finding(session, name, "UnexpectedFile", "no file: the session was erased", found)


def wanted_conflict(name: str) -> Wanted | None:
    """What the name of a file that was kept aside says of it."""
    match = _CONFLICT.fullmatch(name)
    return Wanted(None, match[1]) if match else None


def judge(
    session: str, name: str, wanted: Wanted | None, seen: Seen | None, grace: float
) -> Finding | None:
    """The finding of one file, None if it is in order or may still come to be."""

    def finding(verdict: Damage, expected: str, found: str) -> Finding:
        return Finding(session, name, verdict, expected, found)

    if seen is None:
        return finding("MissingFile", _told(wanted), "no file") if wanted else None
    if seen.error:
        return finding("Unknown", _told(wanted) if wanted else "a readable file", seen.error)
    young = seen.age < grace
    if wanted is None and not is_ours(name):
        if young:
            return None
        writer = name.rpartition("/")[2].startswith(TEMPORARY)
        expected = "no file of a writer that is gone" if writer else "no such file"
        return finding("UnexpectedFile", expected, f"{seen.size} bytes")
    if wanted is None:
        if young:
            return None
        return finding("CatalogMissing", "an entry in the catalog", f"{seen.size} bytes, no entry")
    if wanted.size is not None and wanted.size != seen.size:
        return finding("SizeMismatch", f"{wanted.size} bytes", f"{seen.size} bytes")
    if wanted.hash is not None and seen.hash is not None and wanted.hash != seen.hash:
        return finding("ChecksumMismatch", wanted.hash[:100], seen.hash)
    return None


def _told(wanted: Wanted | None) -> str:
    if wanted is None or (wanted.size is None and wanted.hash is None):
        return "a file"
    size = "" if wanted.size is None else f"{wanted.size} bytes"
    return ", ".join(part for part in (size, (wanted.hash or "")[:100]) if part)
