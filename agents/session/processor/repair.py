"""Restoring stored files from the log: only what is signed, named or missing; nothing is lost.

What rotted is moved aside before the right bytes take its name. After each chunk its entry
is there and `ChunkStored` is sent, as storage does, so that the pipeline's view follows.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from agents.platform.blobs import CHECKPOINT, KEY, MANIFEST, Blobs, SessionErased
from agents.platform.catalog import Catalog, chunk_document, manifest_document
from agents.platform.eventbus import EventBus
from agents.platform.retry import Deadline, retry
from agents.session.processor.comparing import SessionResult
from schemas.canonical import encode
from schemas.chunks import read_chunk
from schemas.events import ManifestStored, chunk_stored
from schemas.manifests import manifest_hash
from schemas.replay import Compared, Difference, refusal

DOCUMENTS = (KEY, MANIFEST, CHECKPOINT)
RESTORED, REPLACED, ENTERED = "restored", "replaced", "entered into the catalog"
SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Repair:
    """Puts right what `out` has the right bytes of. Raises StoreFailed and Unreachable."""

    store: Blobs
    out: Blobs
    catalog: Catalog
    events: EventBus

    async def session(self, found: SessionResult) -> list[int]:
        """Repair what may be repaired; the indexes of chunks that were. Each row says more."""
        try:
            return await self._session(found)
        except SessionErased as error:  # while its log was read
            found.problem = error.what
            return []

    async def _session(self, found: SessionResult) -> list[int]:
        if self.store.erased(found.session):
            raise SessionErased(f"session {found.session} was erased")
        chunks = [row for row in found.differences if row.name not in DOCUMENTS]
        documents = {row.name: row for row in found.differences if row.name in DOCUMENTS}
        indexes = []
        for row in chunks:
            why = found.problem or refusal(row, found.binding, bound=found.bound)
            done = (
                replace(row, repair=f"not repaired: {why}")
                if why
                else await self._chunk(found, row)
            )
            self._set(found, row, done)
            if not why:
                indexes.append(int(row.name.partition(".")[0]))
        whole = all(row.settled for row in found.differences if row.name not in DOCUMENTS)
        for name in DOCUMENTS:
            if name in documents:
                row = documents[name]
                why = _document_refusal(row, found, whole=whole)
                done = (
                    replace(row, repair=f"not repaired: {why}")
                    if why
                    else (await self._document(found, row))
                )
                self._set(found, row, done)
        await self._enter_manifest(found)
        return indexes

    @staticmethod
    def _set(found: SessionResult, before: Compared, after: Compared) -> None:
        found.differences[found.differences.index(before)] = after

    async def _chunk(self, found: SessionResult, row: Compared) -> Compared:
        data = await asyncio.to_thread(self.out.get, found.session, row.name)
        chunk = read_chunk(data)
        assert chunk.leaf.hex() == row.replayed, row
        did = ENTERED
        if row.difference is not Difference.NO_ENTRY:
            did = await self._put(found.session, row, data)
        document = chunk_document(chunk.header, chunk.leaf, len(data))
        await retry(lambda: self.catalog.insert("chunks", document), deadline=Deadline(SECONDS))
        stored = chunk_stored(chunk.header, chunk.leaf, len(data))
        await self.events.emit(stored, found.session)
        if row.named is not None and row.named != row.replayed:
            return replace(row, repair=f"{did}; the catalog's entry still names another leaf")
        return replace(row, repair=did, repaired=True)

    async def _put(self, session: str, row: Compared, data: bytes) -> str:
        if row.difference is Difference.MISSING:
            await asyncio.to_thread(self.store.put, session, row.name, data)
            return RESTORED
        stem, _, ending = row.name.rpartition(".")
        aside = f"{stem}.{row.stored}.{ending}"
        await asyncio.to_thread(self.store.replace, session, row.name, aside, data)
        await self.catalog.insert(
            "conflicts",
            {"_id": f"{session}:{row.name}:{row.stored}", "session": session, "name": row.name,
             "hash": row.stored, "size": self.store.path(session, f"conflicts/{aside}")
             .stat().st_size},
        )  # fmt: skip
        return f"{REPLACED}; the former file is conflicts/{aside}"

    async def _document(self, found: SessionResult, row: Compared) -> Compared:
        if row.difference is Difference.NO_ENTRY:
            return replace(row, repair=ENTERED, repaired=True)
        did = await self._put(found.session, row, _content(found, row.name))
        return replace(row, repair=did, repaired=True)

    async def _enter_manifest(self, found: SessionResult) -> None:
        """Entry and event of a manifest whose file or entry was restored."""
        rows = {row.name: row for row in found.differences}
        row = rows.get(MANIFEST)
        if found.manifest is None or found.note is None or row is None or not row.repaired:
            return
        data = encode(found.manifest)
        document = manifest_document(found.session, data, found.note)
        await retry(lambda: self.catalog.insert("manifests", document), deadline=Deadline(SECONDS))
        digest = manifest_hash(data).hex()
        await self.events.emit(
            ManifestStored(session=found.session, manifest_hash=digest), found.session
        )


def _content(found: SessionResult, name: str) -> bytes:
    assert found.progress is not None
    if name == KEY:
        return found.progress.opened.wrapped_key
    assert found.manifest is not None
    assert found.note is not None
    return encode(found.manifest) if name == MANIFEST else found.note.encode()


def _document_refusal(row: Compared, found: SessionResult, *, whole: bool) -> str:
    """Why a document may not be restored; empty when it may. whole: all chunks are right."""
    if found.problem:
        return found.problem
    if row.difference is Difference.UNREADABLE:
        return "the disk does not give the file, so it cannot be moved aside"
    if row.name != KEY and found.note is None:
        return "its checkpoint needs the processor's key, which is not here"
    if found.binding is not None:
        return "" if found.bound else f"the log does not give what the {found.binding.by} names"
    if row.difference not in (Difference.MISSING, Difference.NO_ENTRY):
        return "nothing but the stored file says what it ought to be, so it stands"
    return "" if whole else "some chunks are not what the log gives"
