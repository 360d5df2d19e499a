"""Bundles: one session in one file, for someone who has no server and trusts nobody.

The format is docs/formats/bundle.md: a plain ustar archive of public formats with fixed
metadata and a fixed order of members, so that a session has one bundle.

FormatError
└── BundleError
    ├── NotABundle             the file starts as no bundle does
    ├── UnknownBundleVersion   also an UnknownVersion
    ├── TruncatedBundle        also a Truncated
    ├── UnknownMember          a member that no bundle has
    ├── WrongOrder             members out of their order
    ├── DuplicateMember
    ├── MissingMember          a document that every bundle has
    ├── DamagedMember          header, padding or a small document breaks the format
    └── TrailingData           bytes after the end
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

from schemas import ustar
from schemas.bundle_readme import ERASED_README, ERASED_VERSION, README, VERSION
from schemas.datakey import MAX_WRAPPED
from schemas.erasure import ErasureFiles
from schemas.errors import FormatError, LucidError, Truncated, UnknownVersion
from schemas.manifests import Manifest, read_manifest
from schemas.merkle import leaf_hash
from schemas.notes import MAX_NOTE, Verifier
from schemas.ustar import BLOCK, InvalidMember
from schemas.verify_chunk import MAX_CHUNK, Expected
from schemas.verify_source import SessionSource

_FIRST_LINE = re.compile(rb"Lucid bundle ([0-9]{1,9})\n")
_CHUNK = re.compile(r"chunks/([0-9]{8})\.chunk")
_LEAF = re.compile(r"[0-9a-f]{64}")
MAX_CHUNKS = 10**8

# Documents in their order: the most bytes each may have, and whether every bundle has it.
_DOCUMENTS: dict[str, tuple[int, bool]] = {
    "README.txt": (64 * 1024, True),
    "manifest.json": (2 * 1024**2, True),
    "checkpoint.txt": (4 * MAX_NOTE, True),
    "leaves.txt": (64 * 1024**2, True),
    "key.age": (MAX_WRAPPED, False),
    "recorder.vkey": (1024, True),
    "processor.vkey": (1024, False),
    "erasure-content.txt": (4 * MAX_NOTE, False),
    "headers.bin": (216 * 1024**2, False),
}
_READMES = {VERSION: README, ERASED_VERSION: ERASED_README}
_ERASED = ("erasure-content.txt", "headers.bin")
_RANK = {name: rank for rank, name in enumerate(_DOCUMENTS)}


class BundleError(FormatError):
    """A file is not a bundle as docs/formats/bundle.md has it."""


class NotABundle(BundleError):
    """The file is something else."""


class UnknownBundleVersion(BundleError, UnknownVersion):
    """A bundle of a version that this reader does not know."""


class TruncatedBundle(BundleError, Truncated):
    """The file ends too early."""


class UnknownMember(BundleError):
    """A member that no bundle has."""


class WrongOrder(BundleError):
    """A member stands where it does not belong."""


class DuplicateMember(BundleError):
    """A member stands in the bundle twice."""


class MissingMember(BundleError):
    """A document is not there."""


class DamagedMember(BundleError):
    """A member's header, padding, size or text breaks the format."""


class TrailingData(BundleError):
    """The file goes on after its end."""


class NothingToBundle(LucidError):
    """The session has no manifest or checkpoint yet."""


# Writing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """size: bytes of the bundle. missing: chunks that the source did not have."""

    size: int
    chunks: int
    missing: list[int]


def write_bundle(
    out: BinaryIO, source: SessionSource, step: Callable[[int, int], None] = lambda *_: None
) -> Written:
    """Write the bundle of a session that has ended; `step(done, chunks)` after each chunk.

    The bytes are the source's as they are, wrong or right: checking is `verify`'s part.
    Raises NothingToBundle, BundleError, and what source and `out` raise.
    """
    documents, count = _documents_of(source)
    writer = _Writer(out)
    for name, data in documents.items():
        writer.add(name, data)
    missing = []
    present = [] if source.erasure() is not None else sorted(source.present())
    extra = [index for index in present if index >= count]
    for done, index in enumerate([*range(count), *extra], start=1):
        chunk = source.chunk(index)
        if chunk is None:
            missing.append(index)
        else:
            writer.add(_chunk_name(index), chunk)
        step(done, count + len(extra))
    return Written(writer.finish(), count + len(extra) - len(missing), missing)


def _documents_of(source: SessionSource) -> tuple[dict[str, bytes], int]:
    """The documents in their order, and how many chunks follow."""
    manifest, checkpoint = source.manifest(), source.checkpoint()
    erasure = source.erasure()
    if erasure is not None and manifest is None:
        raise NothingToBundle(
            f"the manifest of session {source.session} was erased",
            hint="`lucid verify` says when; what is left are checkpoint, leaves and records",
        )
    if manifest is None or checkpoint is None:
        raise NothingToBundle(
            f"session {source.session} has no manifest and checkpoint",
            hint="Wait until it has ended and is processed; `lucid sessions show` tells",
        )
    parsed = read_manifest(manifest)
    wanted = {
        "README.txt": README if erasure is None else ERASED_README,
        "manifest.json": manifest,
        "checkpoint.txt": checkpoint,
        "leaves.txt": _leaves_of(source, parsed),
        "key.age": source.wrapped_key() if erasure is None else None,
        "recorder.vkey": _line(source.recorder_key or parsed.recorder),
        "processor.vkey": _line(source.processor_key) if source.processor_key else None,
        "erasure-content.txt": erasure.content if erasure else None,
        "headers.bin": erasure.headers or b"" if erasure else None,
    }
    count = parsed.chunks if erasure is None else 0
    return {name: data for name, data in wanted.items() if data is not None}, count


def _line(text: str) -> bytes:
    return f"{text}\n".encode()


def _leaves_of(source: SessionSource, manifest: Manifest) -> bytes:
    """The leaves as the source lists them, else of its chunks; a line of zeros for none."""
    if manifest.chunks > MAX_CHUNKS:
        raise DamagedMember(f"the manifest counts {manifest.chunks} chunks")
    erasure = source.erasure()
    if erasure is not None and erasure.leaves is not None:
        return erasure.leaves
    listing = source.listing() or {}
    lines = []
    for index in range(manifest.chunks):
        listed = listing.get(index)
        data = None if listed else source.chunk(index)
        leaf = listed.leaf if listed else leaf_hash(data) if data is not None else bytes(32)
        lines.append(f"{leaf.hex()}\n")
    return "".join(lines).encode()


def _chunk_name(index: int) -> str:
    return f"chunks/{index:08d}.chunk"


class _Writer:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._position = 0

    def add(self, name: str, data: bytes) -> None:
        if len(data) > _limit(name):
            raise DamagedMember(f"{name} has {len(data)} bytes, more than a bundle takes")
        for part in (ustar.header(name, len(data)), data, ustar.padding(len(data))):
            self._put(part)

    def finish(self) -> int:
        self._put(ustar.ending(self._position))
        return self._position

    def _put(self, data: bytes) -> None:
        self._out.write(data)
        self._position += len(data)


def _limit(name: str) -> int:
    """The most bytes a member may have: a chunk one more than any chunk has."""
    return _DOCUMENTS[name][0] if name in _DOCUMENTS else MAX_CHUNK + 1


# Reading ------------------------------------------------------------------------------------


class Bundle:
    """A bundle in a seekable stream: documents in memory, chunks read when asked for.

    A SessionSource; `chunk` may be called from any thread.
    """

    name = "bundle"
    session: UUID | None = None
    ended = True

    def __init__(self, stream: BinaryIO) -> None:
        """Read everything but the chunks' bytes; raises BundleError."""
        self._stream = stream
        self._guard = threading.Lock()
        self._documents: dict[str, bytes] = {}
        self._chunks: dict[int, tuple[int, int]] = {}
        self._last = -1, -1  # rank and chunk index of the member before
        self._size = stream.seek(0, 2)
        stream.seek(0)
        self._read_members()
        for name, (_, needed) in _DOCUMENTS.items():
            if needed and name not in self._documents:
                raise MissingMember(f"the bundle has no {name}")
        self._check_version()
        self._leaves = _parse_leaves(self._documents["leaves.txt"])
        self.recorder_key = _parse_key("recorder.vkey", self._documents)
        self.processor_key = _parse_key("processor.vkey", self._documents)

    def _check_version(self) -> None:
        """What only an erased session has, all of it, and just there."""
        erased = self._documents["README.txt"] == ERASED_README
        for name in _ERASED:
            if erased and name not in self._documents:
                raise MissingMember(f"the bundle has no {name}")
            if not erased and name in self._documents:
                raise UnknownMember(f"the bundle has a member {name!r}, which its version has not")

    def erasure(self) -> ErasureFiles | None:
        documents = self._documents
        if "erasure-content.txt" not in documents:
            return None
        return ErasureFiles(
            documents["erasure-content.txt"], None, documents["leaves.txt"],
            documents["headers.bin"],
        )  # fmt: skip

    def manifest(self) -> bytes | None:
        return self._documents["manifest.json"]

    def checkpoint(self) -> bytes | None:
        return self._documents["checkpoint.txt"]

    def wrapped_key(self) -> bytes | None:
        return self._documents.get("key.age")

    def listing(self) -> Mapping[int, Expected] | None:
        return self._leaves

    def disagreements(self) -> list[str]:
        return []

    def present(self) -> Collection[int]:
        return self._chunks.keys()

    def chunk(self, index: int) -> bytes | None:
        """The bytes of a chunk; raises TruncatedBundle if the file shrinks meanwhile."""
        if index not in self._chunks:
            return None
        offset, size = self._chunks[index]
        with self._guard:
            self._stream.seek(offset)
            return self._take(size)

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            raise TruncatedBundle(
                f"the bundle ends at byte {self._size}, inside a member or its padding",
                hint="The file was cut off: copy it again",
            )
        return data

    def _read_members(self) -> None:
        self._check_start()
        position = 0
        while any(block := self._take(BLOCK)):
            try:
                name, size = ustar.read_header(block)
            except InvalidMember as error:
                raise DamagedMember(f"at byte {position}: {error.what}") from error
            self._check_place(name, size)
            self._read_member(name, size, position + BLOCK)
            position += BLOCK + size + -size % BLOCK
        self._check_ending(position)

    def _check_start(self) -> None:
        start = self._stream.read(BLOCK)
        if start[:11] != b"README.txt\x00" or start[257:263] != b"ustar\x00":
            raise NotABundle(
                "the file is not a bundle: it does not start with a README.txt in a tar archive",
                hint="`lucid bundle SESSION -o FILE` writes one",
            )
        self._stream.seek(0)

    def _check_place(self, name: str, size: int) -> None:
        """A member is known, within its limit, and comes after the one before it."""
        match = _CHUNK.fullmatch(name)
        if not match and name not in _DOCUMENTS:
            raise UnknownMember(f"the bundle has a member {name!r}, which no bundle has")
        place = (len(_RANK), int(match[1])) if match else (_RANK[name], -1)
        if name in self._documents or (match and place[1] in self._chunks):
            raise DuplicateMember(f"the bundle has {name} twice")
        if place < self._last:
            raise WrongOrder(f"{name} is out of its order in the bundle")
        if size > _limit(name):
            raise DamagedMember(f"{name} has {size} bytes, at most {_limit(name)}")
        self._last = place

    def _read_member(self, name: str, size: int, start: int) -> None:
        match = _CHUNK.fullmatch(name)
        if match:
            self._chunks[int(match[1])] = start, size
            self._stream.seek(start + size)
        else:
            self._documents[name] = self._take(size)
            if name == "README.txt":
                _check_readme(self._documents[name])
        if any(self._take(-size % BLOCK)):
            raise DamagedMember(f"the padding after {name} is not zero")

    def _check_ending(self, position: int) -> None:
        expected = position + len(ustar.ending(position))
        if self._size < expected:
            raise TruncatedBundle(f"the bundle has {self._size} bytes, not {expected}")
        if self._size > expected:
            raise TrailingData(f"the bundle goes on for {self._size - expected} bytes")
        if any(self._take(expected - position - BLOCK)):
            raise TrailingData("the bundle goes on after its last member")


def _check_readme(data: bytes) -> None:
    """The text is fixed for a version, so that nobody writes other advice into it."""
    match = _FIRST_LINE.match(data)
    if match and int(match[1]) not in _READMES:
        raise UnknownBundleVersion(
            f"a bundle has version {match[1].decode()}, this reader knows 1 and 2",
            hint="Use a newer Lucid",
        )
    if data not in _READMES.values():
        raise DamagedMember("README.txt is not the text that every bundle has")


def _parse_leaves(data: bytes) -> dict[int, Expected]:
    lines = data.decode("ascii", "replace").split("\n")
    if lines.pop() or not lines or not all(_LEAF.fullmatch(line) for line in lines):
        raise DamagedMember("leaves.txt is not lines of 64 hexadecimal digits")
    return {index: Expected(bytes.fromhex(line)) for index, line in enumerate(lines)}


def _parse_key(name: str, documents: Mapping[str, bytes]) -> str | None:
    data = documents.get(name)
    if data is None:
        return None
    text = data.decode("utf-8", "replace")
    try:
        key = str(Verifier.parse(text))
    except FormatError as error:
        raise DamagedMember(f"{name}: {error.what}") from error
    if text != f"{key}\n":
        raise DamagedMember(f"{name} is not one line")
    return key
