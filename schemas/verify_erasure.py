"""Checking an erased session: its records, and what they left of the chunks. Pure.

A session of which files merely vanished has no record, and stays `MissingChunk`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from schemas.erasure import (
    STORAGE_NAME,
    UNKNOWN,
    Erasure,
    ErasureFiles,
    digest,
    read_erasure,
    read_headers,
    read_leaves,
)
from schemas.errors import FormatError
from schemas.manifests import Manifest, manifest_hash
from schemas.notes import Checkpoint, InvalidSignature, open_note, split_note
from schemas.verdicts import Area, ErasureFacts, Found, Verdict
from schemas.verify_chunk import Expected
from schemas.verify_documents import Access

DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Erased:
    """What is known of an erased session. leaves, headers: of its chunks, by index."""

    facts: ErasureFacts
    leaves: Mapping[int, Expected]
    headers: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Records:
    """The erasure records of a session; metadata: None while that is there."""

    files: ErasureFiles
    content: Erasure
    metadata: Erasure | None

    @property
    def last(self) -> Erasure:
        return self.metadata or self.content


def read_records(files: ErasureFiles | None, found: Found) -> Records | None:
    """The records, if all of them can be read; what cannot is a finding."""
    if files is None:
        return None
    try:
        content = read_erasure(files.content)
        metadata = read_erasure(files.metadata) if files.metadata is not None else None
    except FormatError as error:
        found.add(Verdict.MALFORMED_ERASURE, error.what)
        return None
    if content.stage != "content" or (metadata is not None and metadata.stage != "metadata"):
        found.add(Verdict.MALFORMED_ERASURE, "an erasure record is of another stage")
        return None
    return Records(files, content, metadata)


def check_records(
    records: Records,
    session: UUID | None,
    documents: tuple[Manifest | None, bytes | None, Checkpoint | None],
    access: Access,
    found: Found,
) -> Erased | None:
    """Whose records they are, what they name and who signed them.

    documents: manifest, its bytes, checkpoint. None when the records are not this session's,
    so that nothing of it counts as erased.
    """
    both = [record for record in (records.content, records.metadata) if record is not None]
    wrong = [what for record in both for what in _foreign(record, session, documents)]
    for what in dict.fromkeys(wrong):
        found.add(Verdict.ERASURE_MISMATCH, f"the erasure record {what}")
    if wrong:
        return None
    signers = [
        signer
        for note in (records.files.content, records.files.metadata)
        if note is not None
        for signer in _signers(note, access, found)
    ]
    for record in both:
        if record.decided - record.ended < record.keep_days * DAY:
            what = f"the {record.stage} was erased before the {record.keep_days} days of its policy"
            found.add(Verdict.ERASED_EARLY, what)
        found.add(Verdict.ERASED, _told(record))
    leaves, headers = _left(records, found)
    facts = ErasureFacts(
        **records.last.model_dump(exclude={"version", "session", "chunks"}),
        signers=list(dict.fromkeys(signers)),
    )
    return Erased(facts, leaves, headers)


def _foreign(
    record: Erasure,
    session: UUID | None,
    documents: tuple[Manifest | None, bytes | None, Checkpoint | None],
) -> list[str]:
    """In what a record does not fit the session's documents."""
    manifest, data, checkpoint = documents
    wrong = []
    if session is not None and record.session != str(session):
        wrong.append(f"is of session {record.session}")
    if data is not None and record.manifest_hash != manifest_hash(data).hex():
        wrong.append("names another manifest")
    if checkpoint is not None and record.manifest_hash != checkpoint.manifest.hex():
        wrong.append("names another manifest than the checkpoint")
    roots = {manifest.root} if manifest else set()
    counts = {manifest.chunks} if manifest else set()
    if checkpoint is not None:
        roots.add(checkpoint.root.hex())
        counts.add(checkpoint.size)
    if roots and record.root not in roots:
        wrong.append("names another root")
    if counts and record.chunks not in counts:
        wrong.append("counts other chunks")
    return wrong


def _signers(note: bytes, access: Access, found: Found) -> list[str]:
    """The trusted keys of a storage that signed a record."""
    text = note.decode("utf-8")
    _, signatures = split_note(text)
    names = ", ".join(f"{name}+{blob[:4].hex()}" for name, blob in signatures)
    if not access.trusted:
        why = f"no key is trusted, so the signature of {names} cannot be checked"
        found.skip(Area.CONTENT, "who erased it (signer not pinned)", why)
        return []
    signers, refused = [], False
    for verifier in access.trusted:
        signed = (verifier.name, verifier.key_id) in ((n, blob[:4]) for n, blob in signatures)
        if not signed or not verifier.name.endswith(STORAGE_NAME):
            continue
        try:
            open_note(text, verifier)
            signers.append(str(verifier))
        except InvalidSignature as error:
            refused = True
            found.add(Verdict.FORGED_ERASURE, f"the erasure record: {error.what}")
    if not signers and not refused:
        what = f"the erasure record is signed by {names}, which is no storage that you trust"
        found.add(Verdict.UNTRUSTED_ERASURE, what)
    return signers


def _left(records: Records, found: Found) -> tuple[dict[int, Expected], dict[int, bytes]]:
    """Leaves and headers that stay, as far as they are those that the records name."""
    leaves: dict[int, Expected] = {}
    headers: dict[int, bytes] = {}
    try:
        if _is_named("leaves.txt", records.files.leaves, records.content.leaves_hash, found):
            read = read_leaves(records.files.leaves or b"")
            leaves = {index: Expected(leaf) for index, leaf in enumerate(read)}
        if records.metadata is None and records.content.headers_hash is not None:
            wanted = records.content.headers_hash
            if _is_named("headers.bin", records.files.headers, wanted, found):
                headers = read_headers(records.files.headers or b"")
    except FormatError as error:
        found.add(Verdict.MALFORMED_ERASURE, error.what)
    return leaves, headers


def _is_named(name: str, data: bytes | None, wanted: str, found: Found) -> bool:
    if data is not None and digest(data) == wanted:
        return True
    what = f"{name} is missing" if data is None else f"{name} is not what the record names"
    found.add(Verdict.ERASURE_MISMATCH, what)
    return False


def _told(record: Erasure) -> str:
    when = datetime.fromtimestamp(record.decided / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    policy = f"the {record.scope} policy, which keeps it for {record.keep_days} d"
    return f"its {record.stage} was erased on {when} by {record.by} on {record.host} under {policy}"


def merged_listing(
    left: Mapping[int, Expected], listed: Mapping[int, Expected], name: str, found: Found
) -> dict[int, Expected]:
    """The leaves that stayed as the list of chunks; the source's own has to agree with them."""
    for index, expected in listed.items():
        known = left.get(index)
        if known is not None and known.leaf not in (expected.leaf, UNKNOWN):
            what = f"the {name} has another leaf of chunk {index} than was left"
            found.add(Verdict.CATALOG_MISMATCH, what, index)
    return {
        index: expected if expected.leaf == UNKNOWN else listed.get(index, expected)
        for index, expected in left.items()
    }
