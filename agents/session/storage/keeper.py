"""Keeping chunks and manifests: file first, then catalog, then event; the first one wins.

Each step may be the last before a crash; done again, all of them lead to the same place:
the file is found to be there, the catalog entry is made if it is missing, the event is
sent again, which its readers take as a no-op.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from agents.platform.blobs import CHECKPOINT, KEY, MANIFEST, Blobs, SessionErased, chunk_name
from agents.platform.catalog import Catalog, chunk_document, manifest_document
from agents.platform.inserts import Inserts
from agents.platform.points import async_point
from agents.session.storage.metrics import StorageMetrics
from schemas.canonical import Strict
from schemas.events import ChunkConflict, ManifestConflict, ManifestStored, chunk_stored
from schemas.manifests import Manifest, manifest_hash
from schemas.merkle import leaf_hash
from schemas.stored import ChunkRecord, ManifestRecord

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Keeper:
    """Stores records of `session.chunks` and `session.manifests`.

    Both methods return the event that says what came of it, None for what belongs to an
    erased session, and raise Transient while disk or catalog do not take it.
    """

    blobs: Blobs
    catalog: Catalog
    pool: ThreadPoolExecutor
    metrics: StorageMetrics
    entries: Inserts = field(init=False)

    def __post_init__(self) -> None:
        self.entries = Inserts(self.catalog)

    async def keep_chunk(self, record: ChunkRecord) -> Strict | None:
        """Store a chunk and, with a session's first, the wrapped key."""
        try:
            return await self._keep_chunk(record)
        except SessionErased as error:
            self._late(str(record.chunk.header.session), error)
            return None

    def _late(self, session: str, error: SessionErased) -> None:
        self.metrics.erased.inc()
        log.warning("not stored: the session was erased", session=session, error=str(error))

    async def _keep_chunk(self, record: ChunkRecord) -> Strict:
        header, leaf = record.chunk.header, record.chunk.leaf
        session, name = str(header.session), chunk_name(header.index)
        files = [(name, record.chunk.data), (KEY, record.wrapped_key)]
        if (first := await self._keep_files(session, files)) is not None:
            await self._refuse(session, name, leaf.hex(), record.chunk.data)
            return ChunkConflict(
                session=session, index=header.index,
                stored_leaf=(await self._run(leaf_hash, first)).hex(), refused_leaf=leaf.hex(),
            )  # fmt: skip
        document = chunk_document(header, leaf, len(record.chunk.data))
        await async_point("storage.file-stored")
        if await self.entries.insert("chunks", document):
            self.metrics.chunks.inc()
            self.metrics.bytes.inc(len(record.chunk.data))
        else:
            self.metrics.duplicates.inc()
        await async_point("storage.entry-made")
        return chunk_stored(header, leaf, len(record.chunk.data))

    async def keep_manifest(self, record: ManifestRecord, manifest: Manifest) -> Strict | None:
        """Store a manifest and its checkpoint."""
        try:
            return await self._keep_manifest(record, manifest)
        except SessionErased as error:
            self._late(manifest.session, error)
            return None

    async def _keep_manifest(self, record: ManifestRecord, manifest: Manifest) -> Strict:
        session, digest = manifest.session, manifest_hash(record.manifest).hex()
        files = [
            (MANIFEST, record.manifest), (CHECKPOINT, record.checkpoint.encode()),
            (KEY, record.wrapped_key),
        ]  # fmt: skip
        if (first := await self._keep_files(session, files)) is not None:
            await self._refuse(session, MANIFEST, digest, record.manifest)
            return ManifestConflict(
                session=session, stored_hash=manifest_hash(first).hex(), refused_hash=digest
            )
        document = manifest_document(session, record.manifest, record.checkpoint)
        await async_point("storage.file-stored")
        if await self.entries.insert("manifests", document):
            self.metrics.manifests.inc()
        else:
            self.metrics.duplicates.inc()
        await async_point("storage.entry-made")
        return ManifestStored(session=session, manifest_hash=digest)

    async def _keep_files(self, session: str, files: Sequence[tuple[str, bytes]]) -> bytes | None:
        """Store a record's file, and with it the others, of which the key is the last.

        Returns the file that stands in the place of the first and differs; then nothing else of
        the record is stored. Another key is kept aside.
        """
        with self.metrics.put_seconds.time():
            first, other_key = await self._run(self._put_files, session, files)
        if other_key:
            name, wrapped = files[-1]
            await self._refuse(session, name, hashlib.sha256(wrapped).hexdigest(), wrapped)
        return first

    def _put_files(
        self, session: str, files: Sequence[tuple[str, bytes]]
    ) -> tuple[bytes | None, bool]:
        """In a thread, all at once: what `_keep_files` returns, and whether the key differs."""
        done, other_key = 0, False
        while (done := done + self.blobs.put_all(session, files[done:])) < len(files):
            name, data = files[done]
            if done == 0 and (first := self.blobs.get(session, name)) != data:
                return first, False
            if name == KEY:
                other_key = self.blobs.get(session, name) != data
            done += 1
        return None, other_key

    async def _refuse(self, session: str, name: str, digest: str, data: bytes) -> None:
        """Keep aside what differs from the first one."""
        stem, _, ending = name.rpartition(".")
        await self._run(self.blobs.put_conflict, session, f"{stem}.{digest}.{ending}", data)
        await self.catalog.insert(
            "conflicts",
            {"_id": f"{session}:{name}:{digest}", "session": session, "name": name,
             "hash": digest, "size": len(data)},
        )  # fmt: skip
        self.metrics.conflicts.inc()
        log.error("conflict kept aside", session=session, name=name, hash=digest)

    async def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)
