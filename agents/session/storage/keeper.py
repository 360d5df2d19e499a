"""Keeping chunks and manifests: file first, then catalog, then event; the first one wins.

Each step may be the last before a crash; done again, all of them lead to the same place:
the file is found to be there, the catalog entry is made if it is missing, the event is
sent again, which its readers take as a no-op.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog

from agents.platform.blobs import CHECKPOINT, KEY, MANIFEST, Blobs, SessionErased, chunk_name
from agents.platform.catalog import Catalog, chunk_document, manifest_document
from agents.platform.points import async_point
from agents.session.storage.metrics import StorageMetrics
from schemas.canonical import Strict
from schemas.events import ChunkConflict, ManifestConflict, ManifestStored, chunk_stored
from schemas.manifests import Manifest, manifest_hash
from schemas.merkle import leaf_hash
from schemas.stored import ChunkRecord, ManifestRecord

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Keeper:
    """Stores records of `session.chunks` and `session.manifests`.

    Both methods return the event that says what came of it, None for what belongs to an
    erased session, and raise Transient while disk or catalog do not take it.
    """

    blobs: Blobs
    catalog: Catalog
    pool: ThreadPoolExecutor
    metrics: StorageMetrics

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
        stored = await self._put(session, name, record.chunk.data)
        if not stored and (first := await self._leaf_of(session, name)) != leaf:
            await self._refuse(session, name, leaf.hex(), record.chunk.data)
            return ChunkConflict(
                session=session, index=header.index,
                stored_leaf=first.hex(), refused_leaf=leaf.hex(),
            )  # fmt: skip
        await self._keep_key(session, record.wrapped_key)
        document = chunk_document(header, leaf, len(record.chunk.data))
        await async_point("storage.file-stored")
        if await self.catalog.insert("chunks", document):
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
        if not await self._put(session, MANIFEST, record.manifest):
            first = await self._run(self.blobs.get, session, MANIFEST)
            if first != record.manifest:
                await self._refuse(session, MANIFEST, digest, record.manifest)
                return ManifestConflict(
                    session=session,
                    stored_hash=manifest_hash(first).hex(),
                    refused_hash=digest,
                )
        await self._put(session, CHECKPOINT, record.checkpoint.encode())
        await self._keep_key(session, record.wrapped_key)
        document = manifest_document(session, record.manifest, record.checkpoint)
        await async_point("storage.file-stored")
        if await self.catalog.insert("manifests", document):
            self.metrics.manifests.inc()
        else:
            self.metrics.duplicates.inc()
        await async_point("storage.entry-made")
        return ManifestStored(session=session, manifest_hash=digest)

    async def _keep_key(self, session: str, wrapped: bytes) -> None:
        if self.blobs.path(session, KEY).exists():
            first = await self._run(self.blobs.get, session, KEY)
        else:
            stored = await self._put(session, KEY, wrapped)
            first = wrapped if stored else await self._run(self.blobs.get, session, KEY)
        if first != wrapped:
            await self._refuse(session, KEY, hashlib.sha256(wrapped).hexdigest(), wrapped)

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

    async def _leaf_of(self, session: str, name: str) -> bytes:
        data = await self._run(self.blobs.get, session, name)
        return await self._run(leaf_hash, data)

    async def _put(self, session: str, name: str, data: bytes) -> bool:
        with self.metrics.put_seconds.time():
            return await self._run(self.blobs.put, session, name, data)

    async def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)
