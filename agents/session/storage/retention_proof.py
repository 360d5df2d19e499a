"""What has to be right before a session's content goes, and what stays of it.

Every chunk is read once more: what its leaf does not bear out now can never be checked again.

LucidError
└── Damaged           the session is not whole: retention leaves it to people
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.platform.blobs import (
    CHECKPOINT,
    CONFLICTS,
    ERASED_CONTENT,
    HEADERS,
    KEY,
    LEAVES,
    MANIFEST,
    TEMPORARY,
    Blobs,
    chunk_index,
    chunk_name,
)
from schemas.chunks import HEADER_SIZE, read_chunk
from schemas.erasure import UNKNOWN, write_headers, write_leaves
from schemas.errors import FormatError, LucidError
from schemas.manifests import Manifest, checkpoint_of, manifest_hash, read_manifest
from schemas.merkle import root
from schemas.notes import Checkpoint, split_note

SHOWN = 5
DOCUMENTS = frozenset({MANIFEST, CHECKPOINT, KEY, LEAVES, HEADERS, ERASED_CONTENT})


class Damaged(LucidError):
    """A session's files are not what catalog, manifest and checkpoint say."""

    exit_status = 65

    def __init__(self, session: str, problems: Sequence[str]) -> None:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        super().__init__(
            f"session {session} is not whole: {'; '.join(problems[:SHOWN])}{more}",
            hint="Look at it with `lucid verify`, then erase it with --damaged",
        )
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Proof:
    """What an erasure record names, and the files that stay. size: bytes of the content."""

    manifest_hash: str | None
    root: str | None
    chunks: int
    leaves: bytes
    headers: bytes
    size: int


@dataclass(slots=True)
class _Found:
    leaves: list[bytes]
    headers: list[bytes]
    problems: list[str]
    size: int = 0


def prove(
    blobs: Blobs, session: str, listed: Mapping[int, str], *, complete: bool, damaged: bool
) -> Proof:
    """Read all of a session's content; raises Damaged, unless `damaged` ones are taken, too.

    listed: the leaf of each chunk in the catalog, in hex. complete: the session was counted as
    that, so that no chunk may be missing on both sides. Raises StoreFailed.
    """
    problems: list[str] = []
    manifest, data = _manifest(blobs, session, problems)
    there = blobs.chunk_indexes(session)
    count = manifest.chunks if manifest else max([*there, *listed, -1]) + 1
    problems += [f"chunk {index} is more than the manifest counts" for index in there
                 if index >= count]  # fmt: skip
    found = _Found([], [], problems)
    for index in range(count):
        _chunk(blobs, session, index, listed.get(index), found, wanted=manifest is not None)
    unknown = [index for index, leaf in enumerate(found.leaves) if leaf == UNKNOWN]
    if complete:
        problems += [f"chunk {index} is neither stored nor listed" for index in unknown]
    known = manifest is not None and not unknown
    if manifest is not None and known and root(found.leaves).hex() != manifest.root:
        problems.append("the leaves have another root than the manifest")
    problems += _others(blobs, session, manifest)
    if problems and not damaged:
        raise Damaged(session, problems)
    return Proof(
        manifest_hash(data).hex() if data is not None and manifest else None,
        manifest.root if manifest else None, count,
        write_leaves(found.leaves), write_headers(found.headers), found.size,
    )  # fmt: skip


def _manifest(
    blobs: Blobs, session: str, problems: list[str]
) -> tuple[Manifest | None, bytes | None]:
    data, note = blobs.find(session, MANIFEST), blobs.find(session, CHECKPOINT)
    if data is None:
        return None, None
    try:
        manifest = read_manifest(data)
    except FormatError as error:
        problems.append(f"its manifest cannot be read: {error.what}")
        return None, data
    try:
        text, _ = split_note((note or b"").decode())
        if Checkpoint.parse(text) != checkpoint_of(manifest):
            problems.append("its checkpoint names another manifest")
    except (FormatError, UnicodeDecodeError):
        problems.append("its checkpoint is missing or cannot be read")
    return manifest, data


def _chunk(
    blobs: Blobs, session: str, index: int, listed: str | None, found: _Found, *, wanted: bool
) -> None:
    data = blobs.find(session, chunk_name(index))
    if data is None:
        if listed is not None:
            found.problems.append(f"chunk {index} is missing")
        found.leaves.append(UNKNOWN if listed is None else bytes.fromhex(listed))
        return
    found.size += len(data)
    try:
        chunk = read_chunk(data)
    except FormatError as error:
        found.problems.append(f"chunk {index} cannot be read: {error.what}")
        found.leaves.append(UNKNOWN if listed is None else bytes.fromhex(listed))
        return
    if (str(chunk.header.session), chunk.header.index) != (session, index):
        found.problems.append(f"at place {index} is another chunk")
    elif listed is not None and chunk.leaf.hex() != listed:
        found.problems.append(f"chunk {index} is not what the catalog names")
    else:
        found.headers.append(data[:HEADER_SIZE])
    if listed is None and wanted:
        found.problems.append(f"the catalog does not list chunk {index}")
    found.leaves.append(chunk.leaf if listed is None else bytes.fromhex(listed))


def _others(blobs: Blobs, session: str, manifest: Manifest | None) -> list[str]:
    """Files beside the chunks that people should look at before they are gone."""
    problems = []
    key = blobs.find(session, KEY)
    if key is None:
        problems.append("its wrapped key is missing")
    elif manifest is not None and hashlib.sha256(key).hexdigest() != manifest.wrapped_key_hash:
        problems.append("its wrapped key is not the one that the manifest names")
    for name in names_of(blobs, session):
        if name.startswith(f"{CONFLICTS}/"):
            problems.append(f"{name} differs from what was stored first")
        elif name not in DOCUMENTS and chunk_index(name) is None and TEMPORARY not in name:
            problems.append(f"{name[:100]} is no file of the store")
    return problems


def names_of(blobs: Blobs, session: str) -> list[str]:
    """All files in a session's folder, those below it with their folder; in order."""
    folder = blobs.folder(session)
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
