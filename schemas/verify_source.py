"""What a verification is given, and what it reads first: the documents, before any chunk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from schemas.chunks import read_header
from schemas.datakey import DataKey
from schemas.erasure import ErasureFiles
from schemas.errors import FormatError
from schemas.manifests import Manifest
from schemas.notes import Checkpoint
from schemas.verdicts import Area, Found, Verdict
from schemas.verify_chunk import Expected
from schemas.verify_documents import (
    Access,
    check_closing_note,
    check_manifest,
    check_signers,
    compare_documents,
    names_session,
    open_key,
    parse_checkpoint,
)
from schemas.verify_erasure import Erased, check_records, merged_listing, read_records


class SessionSource(Protocol):
    """Where a session's bytes come from: the catalog and its blobs, or a bundle.

    name: `catalog` or `bundle`. session: the id asked for, None to take the documents' own.
    ended: whether the source knows that the session has ended. recorder_key, processor_key:
    verifier keys named beside the documents. `listing` gives each chunk's leaf as the
    source lists it, None if it has no list; `disagreements` says where the source's own
    parts differ from each other; `present` gives the indexes of chunks whose bytes it
    has; `chunk` those bytes (of a larger one at least MAX_CHUNK + 1), None if there are none;
    `erasure` what an erased session has instead, None if it was not erased.
    """

    @property
    def name(self) -> str: ...
    @property
    def session(self) -> UUID | None: ...
    @property
    def ended(self) -> bool: ...
    @property
    def recorder_key(self) -> str | None: ...
    @property
    def processor_key(self) -> str | None: ...
    def manifest(self) -> bytes | None: ...
    def checkpoint(self) -> bytes | None: ...
    def wrapped_key(self) -> bytes | None: ...
    def listing(self) -> Mapping[int, Expected] | None: ...
    def disagreements(self) -> list[str]: ...
    def present(self) -> Collection[int]: ...
    def chunk(self, index: int) -> bytes | None: ...
    def erasure(self) -> ErasureFiles | None: ...


@dataclass(frozen=True, slots=True)
class Documents:
    """What the documents of a session say, as far as they are there and can be read.

    session: the id asked for, or the one that they agree on. signers: of the checkpoint.
    erased: what is left of an erased session. listing: each chunk's leaf, by the source or by
    what the erasure left. key: None if nobody who is asked for can open it. ended: whether
    anything says so.
    """

    session: UUID | None
    manifest: Manifest | None
    checkpoint: Checkpoint | None
    signers: list[str]
    erased: Erased | None
    listing: Mapping[int, Expected] | None
    key: DataKey | None
    ended: bool


def read_documents(
    source: SessionSource,
    listing: Mapping[int, Expected] | None,
    present: Collection[int],
    access: Access,
    found: Found,
) -> Documents:
    """Read and compare the documents. listing, present: as the source has them."""
    data, note = source.manifest(), source.checkpoint()
    records = read_records(source.erasure(), found)
    forgotten = records is not None and records.metadata is not None
    ended = source.ended or forgotten or data is not None or note is not None
    manifest = None
    if forgotten and data is None:
        found.skip(Area.MANIFEST, "the manifest", "it was erased, only its hash is left")
    else:
        manifest = check_manifest(data, ended, found)
    checkpoint = parse_checkpoint(note, ended, found)
    session = _identify(source, present, manifest, checkpoint)
    compare_documents(session, manifest, data, checkpoint, found)
    signers: list[str] = []
    if checkpoint is not None and note is not None:
        recorder = manifest.recorder if manifest else None
        signers = check_signers(note, access, source.processor_key, recorder, found)
    if manifest is not None:
        check_closing_note(manifest, source.recorder_key, access, found)
    for what in source.disagreements():
        found.add(Verdict.CATALOG_MISMATCH, what)
    erased = None
    if records is not None:
        erased = check_records(records, session, (manifest, data, checkpoint), access, found)
    if erased is not None:
        if erased.facts.stage == "metadata" and data is not None:
            found.add(Verdict.NOT_ERASED, "the manifest is still there")
        listing = merged_listing(erased.leaves, listing or {}, source.name, found)
    key = _open_key(source.wrapped_key(), erased, session, manifest, access, found)
    return Documents(session, manifest, checkpoint, signers, erased, listing, key, ended)


def _open_key(
    wrapped: bytes | None, erased: Erased | None, session: UUID | None,
    manifest: Manifest | None, access: Access, found: Found,
) -> DataKey | None:  # fmt: skip
    if erased is not None and wrapped is None:
        found.skip(Area.CONTENT, "content and record chain", "the session was erased")
        return None
    if erased is not None:
        found.add(Verdict.NOT_ERASED, "the wrapped key is still there")
    return open_key(wrapped, session, manifest, access, found)


def _identify(
    source: SessionSource, present: Collection[int],
    manifest: Manifest | None, checkpoint: Checkpoint | None,
) -> UUID | None:  # fmt: skip
    """The session: as asked for, or as documents and the first chunk agree on."""
    if source.session is not None:
        return source.session
    documents: list[Manifest | Checkpoint | None] = [checkpoint, manifest]
    named = [names_session(document) for document in documents if document is not None]
    if len(set(named)) == 1:
        return named[0]
    first = _session_of_first_chunk(source, present)
    return first if first in named or not named else named[0]


def _session_of_first_chunk(source: SessionSource, present: Collection[int]) -> UUID | None:
    data = source.chunk(min(present)) if present else None
    try:
        return read_header(data).session if data is not None else None
    except FormatError:
        return None
