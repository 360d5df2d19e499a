"""Where a replay's results go: beside what is stored, never into a topic.

What differs is also written to a folder of its own, from which a repair takes it. A chunk
that is identical is written there only on request: its bytes are in the store already.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from agents.platform.blobs import CHECKPOINT, KEY, MANIFEST, Blobs, StoreFailed, chunk_name
from agents.platform.catalog import Catalog, Document
from agents.platform.deadletters import Refusable
from agents.session.processor.chunker import NoOpenRecord, SessionEnded
from schemas.canonical import Strict, encode
from schemas.chunks import HEADER_SIZE, MAX_CIPHERTEXT, Chunk
from schemas.errors import LucidError
from schemas.manifests import Manifest, checkpoint_of
from schemas.notes import Signer, Verifier
from schemas.progress import SessionProgress
from schemas.replay import (
    Binding,
    Compared,
    Contradiction,
    Difference,
    compare_chunk,
    compare_file,
    find_binding,
    judge,
    signed_checkpoint,
)

Result = TypeVar("Result")
MAX_CHUNK = HEADER_SIZE + MAX_CIPHERTEXT
BLOCK = 1024**2


@dataclass
class SessionResult:
    """What the replay of one session gave.

    offset: of its `open`. differences: everything but identical files. binding: what says
    which bytes are the session's; problem: why nothing does. bound: the log gives just that.
    note: the checkpoint that belongs to the replayed manifest, if it is there or can be signed.
    """

    session: str
    partition: int
    offset: int
    chunks: int = 0
    identical: int = 0
    raw_bytes: int = 0
    differences: list[Compared] = field(default_factory=list)
    progress: SessionProgress | None = None
    manifest: Manifest | None = None
    binding: Binding | None = None
    problem: str = ""
    note: str | None = None
    refused: dict[str, int] = field(default_factory=dict)
    unopened: str = ""

    @property
    def bound(self) -> bool:
        return (
            self.binding is not None
            and self.manifest is not None
            and self.binding.names(self.manifest)
        )

    @property
    def root(self) -> str:
        """Over the replayed chunks, in hex."""
        return self.progress.tree().root().hex() if self.progress else ""

    @property
    def outcome(self) -> str:
        """`identical`, `repaired`, `different`, or `unopened`."""
        if self.unopened:
            return "unopened"
        if not self.differences:
            return "identical"
        return "repaired" if all(row.settled for row in self.differences) else "different"


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored file: its hash, its bytes unless it is too large for what it claims to be."""

    data: bytes | None
    digest: str | None


class Comparing:
    """Compares what a worker makes of the log with store and catalog (a worker's Results).

    store: the installation's files; out: the folder for what the log gave; keep_all: write
    identical chunks there, too. trusted: keys whose checkpoints count. signer: the
    processor's, None when it is not here.
    """

    def __init__(
        self, store: Blobs, out: Blobs, catalog: Catalog, pool: ThreadPoolExecutor,
        trusted: Sequence[Verifier], signer: Signer | None, *, keep_all: bool,
    ) -> None:  # fmt: skip
        self.store, self.out, self.catalog = store, out, catalog
        self.signer = signer
        self._pool = pool
        self._trusted = [*trusted, *([signer.verifier] if signer else [])]
        self._keep_all = keep_all
        self.results: dict[str, SessionResult] = {}

    # -- What the reading loop says and asks ----------------------------------------------------

    def begin(self, session: str, partition: int, offset: int) -> bool:
        """An `open` was found; whether it is the session's first."""
        if session in self.results:
            return False
        self.results[session] = SessionResult(session, partition, offset)
        return True

    def erased(self, session: str) -> bool:
        """Whether the session's content was erased, so that it is not made again."""
        return self.store.erased(session)

    def over(self, session: str) -> bool:
        """Nothing more of the session has to be read."""
        found = self.results[session]
        return found.manifest is not None or bool(found.unopened)

    async def finish(self) -> list[SessionResult]:
        """The results, once everything that was read has been compared."""
        for found in self.results.values():
            if found.manifest is None and found.progress is not None:
                await self._compare_key(found, found.progress)
        return list(self.results.values())

    # -- Results of a worker ----------------------------------------------------------------------

    async def read_progress(self, partition: int) -> list[SessionProgress]:
        """None: a replay starts at a session's `open`."""
        return []

    async def publish_progress(self, progress: SessionProgress) -> None:
        """Nothing depends on it: a replay is not resumed."""

    async def forget(self, progress: SessionProgress) -> None:
        """See `publish_progress`."""

    async def tell(self, data: Strict, subject: str) -> None:
        """Nothing: it was told when the session was sealed."""

    async def refuse(self, raw: Refusable, error: LucidError) -> None:
        """Count what the processor would put aside as a dead letter."""
        found = self.results.get((raw.key or b"").decode(errors="replace"))
        if found is None or isinstance(error, SessionEnded | NoOpenRecord):
            return
        if raw.offset == found.offset:
            found.unopened = str(error)
        found.refused[error.code] = found.refused.get(error.code, 0) + 1

    async def publish_chunk(self, progress: SessionProgress, chunk: Chunk) -> None:
        """Compare a chunk with the file and the catalog's entry of its index."""
        session = progress.opened.session
        entry = await self.catalog.get("chunks", f"{session}:{chunk.header.index}")
        named = str(entry.get("leaf")) if entry else None
        row = await self._run(self._compare_chunk, chunk, named)
        found = self.results[session]
        found.chunks += 1
        found.raw_bytes += chunk.header.raw_size
        found.progress = progress
        self._note(found, row)

    def _compare_chunk(self, chunk: Chunk, named: str | None) -> Compared:
        session, name = str(chunk.header.session), chunk_name(chunk.header.index)
        try:
            stored = self._stored(session, name, MAX_CHUNK, b"\x00")
            row = compare_chunk(name, chunk, stored.data, stored.digest, named)
        except StoreFailed as error:
            leaf = chunk.leaf.hex()
            row = Compared(name, Difference.UNREADABLE, leaf, None, named, error.what)
        if self._keep_all or row.difference is not Difference.IDENTICAL:
            self.out.put(session, name, chunk.data)
        return row

    async def publish_manifest(self, progress: SessionProgress, manifest: Manifest) -> None:
        """The session has ended: compare its documents, and say what binds it."""
        found = self.results[manifest.session]
        data = encode(manifest)
        if self._keep_all:
            await self._run(self.out.put, found.session, MANIFEST, data)
        entry = await self.catalog.get("manifests", found.session)
        stored, note, problem = await self._run(self._documents, found.session)
        found.problem = problem
        try:
            found.binding = find_binding(
                manifest.session_id, (stored, _text(entry, "manifest")),
                (note, _decoded(_text(entry, "checkpoint"))), self._trusted,
                progress.opened.recorder,
            )  # fmt: skip
        except Contradiction as error:
            found.problem = found.problem or str(error)
        found.manifest = manifest
        found.differences = judge(found.differences, bound=found.bound)
        self._note(found, self._compare_manifest(found, data, stored, entry))
        self._note(found, self._compare_checkpoint(found, manifest, note))
        await self._compare_key(found, progress)
        await self._extra(found, manifest.chunks)

    def _documents(self, session: str) -> tuple[bytes | None, str | None, str]:
        try:
            note = _decoded(self.store.find(session, CHECKPOINT))
            return self.store.find(session, MANIFEST), note, ""
        except StoreFailed as error:
            return None, None, str(error)

    def _compare_manifest(
        self, found: SessionResult, data: bytes, stored: bytes | None, entry: Document | None
    ) -> Compared:
        bound = found.binding.checkpoint.manifest.hex() if found.binding else None
        named = bound or (str(entry.get("hash")) if entry else None)
        held = None if stored is None else _sha256(stored)
        row = compare_file(MANIFEST, _sha256(data), held, named)
        if entry is not None and _text(entry, "manifest") != data:
            other = str(entry.get("hash"))
            self._note(found, Compared(f"{MANIFEST} of the catalog", Difference.OTHER_ENTRY,
                                       _sha256(data), held, other))  # fmt: skip
        if row.difference is Difference.IDENTICAL and entry is None:
            return replace(row, difference=Difference.NO_ENTRY)
        return row

    def _compare_checkpoint(
        self, found: SessionResult, manifest: Manifest, stored: str | None
    ) -> Compared:
        """Any note of a trusted processor over this manifest is the right one."""
        wanted = checkpoint_of(manifest)
        recorder = manifest.recorder
        if stored and signed_checkpoint(stored, self._trusted, recorder) == wanted:
            found.note = stored
        elif found.bound and found.binding and found.binding.note:
            found.note = found.binding.note
        elif self.signer is not None:
            found.note = self.signer.sign(wanted.to_text())
        held = _sha256(stored.encode()) if stored is not None else None
        if found.note is None:
            difference = Difference.MISSING if stored is None else Difference.DIFFERENT
            return Compared(CHECKPOINT, difference, None, held, detail="no key here signs it")
        named = _sha256(found.note.encode()) if found.bound else None
        return compare_file(CHECKPOINT, _sha256(found.note.encode()), held, named)

    async def _compare_key(self, found: SessionResult, progress: SessionProgress) -> None:
        wanted = progress.opened.wrapped_key_hash
        try:
            stored = await self._run(self._stored, found.session, KEY, BLOCK, b"")
        except StoreFailed as error:
            row = Compared(KEY, Difference.UNREADABLE, wanted, detail=error.what)
        else:
            row = compare_file(KEY, wanted, stored.digest, wanted if found.bound else None)
        self._note(found, row)

    async def _extra(self, found: SessionResult, chunks: int) -> None:
        """What is stored beyond the session's end."""
        indexes = await self._run(self.store.chunk_indexes, found.session)
        beyond = {index for index in indexes if index >= chunks}
        index = chunks
        while await self.catalog.get("chunks", f"{found.session}:{index}"):
            beyond.add(index)
            index += 1
        for index in sorted(beyond):
            name = chunk_name(index)
            entry = await self.catalog.get("chunks", f"{found.session}:{index}")
            stored = await self._run(self._stored, found.session, name, MAX_CHUNK, b"\x00")
            named = str(entry.get("leaf")) if entry else None
            self._note(found, Compared(name, Difference.EXTRA, None, stored.digest, named))

    # -- Files ----------------------------------------------------------------------------------

    def _stored(self, session: str, name: str, most: int, prefix: bytes) -> Stored:
        """A file with SHA-256(prefix ‖ bytes); raises StoreFailed."""
        digest = hashlib.sha256(prefix)
        try:
            with self.store.path(session, name).open("rb") as file:
                data = file.read(most + 1)
                digest.update(data)
                if len(data) <= most:
                    return Stored(data, digest.hexdigest())
                while block := file.read(BLOCK):
                    digest.update(block)
                return Stored(None, digest.hexdigest())
        except FileNotFoundError:
            return Stored(None, None)
        except OSError as error:
            raise StoreFailed(f"cannot read {name} of session {session}: {error}") from error

    @staticmethod
    def _note(found: SessionResult, row: Compared) -> None:
        if row.difference is not Difference.IDENTICAL:
            found.differences.append(row)
        elif row.name.endswith(".chunk"):
            found.identical += 1

    async def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(entry: Document | None, name: str) -> bytes | None:
    found = entry.get(name) if entry else None
    return found.encode() if isinstance(found, str) else None


def _decoded(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")
