"""Erasing one stage of one session: step by step, each of which may be the last before a crash.

1. Claim: no hold covers the session, and from now on a hold comes too late.
2. Record: what is left (leaves, headers) and the signed record are on disk. From here on the
   store takes nothing of the session (agents/platform/blobs.py).
3. Told: audit event, `lucid.session.erasing.v1`.
4. Content: the wrapped key first, then everything else, then the tombstone of its progress.
   Metadata: manifest and headers, then the catalog's entries.
5. Noted: the catalog's document, `lucid.session.shredded.v1`; the claim is given back.
6. Once the broker holds nothing any more: `lucid.session.erased.v1`.

Done again, each leads to the same place. An erasure that finds its record, the whole content
and a hold is withdrawn: until the key is destroyed a hold wins.

    erasures  {_id: "<session>:<stage>", version, session, stage, partition, ends, at, entombed,
               state: shredding | shredded | erased, files, bytes}     times in microseconds

ends: where the topics ended then; state: `shredding` until its event is sent.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import structlog

from agents.platform.audit import Audit, acting_user
from agents.platform.blobs import (
    CONFLICTS,
    ERASED_CONTENT,
    ERASED_METADATA,
    HEADERS,
    KEY,
    LEAVES,
    MANIFEST,
    Blobs,
)
from agents.platform.catalog import Catalog, Document
from agents.platform.clock import wall_clock
from agents.platform.eventbus import EventBus
from agents.platform.points import async_point
from agents.platform.settings import Settings
from agents.session.storage.retention_broker import BrokerView
from agents.session.storage.retention_holds import Register
from agents.session.storage.retention_proof import Damaged, names_of, prove
from schemas.audit import ErasureBegun
from schemas.erasure import Erasure, Stage, digest, read_erasure, read_headers, sign_erasure
from schemas.events import SessionErased, SessionErasing, SessionShredded, SessionSpared
from schemas.notes import Signer
from schemas.retention import SETTLED, Row

log = structlog.get_logger(__name__)

ERASURES = "erasures"
NOTES: dict[Stage, str] = {"content": ERASED_CONTENT, "metadata": ERASED_METADATA}
OF_METADATA = frozenset({MANIFEST, HEADERS})
AGAIN = 3_600_000_000
"""Microseconds after which a tombstone is written again: a segment is closed by what follows it."""
Outcome = Literal["shredded", "erased", "waiting", "held", "spared", "damaged", "changed", "failed"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a row. size: bytes that were removed."""

    session: str
    stage: Stage
    outcome: Outcome
    detail: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Eraser:
    """Carries out the rows of a plan; signer: None for one that only looks.

    Raises Unreachable, StoreFailed, and a FormatError for a record that is none.
    """

    settings: Settings
    blobs: Blobs
    catalog: Catalog
    register: Register
    broker: BrokerView
    events: EventBus
    audit: Audit
    signer: Signer | None
    clock: Callable[[], int] = wall_clock

    async def carry_out(self, row: Row, partition: int | None, *, damaged: bool = False) -> Done:
        """Erase, or go on with an erasure; partition: of the session's records, if known."""
        note = self._note(row)
        document = await self.catalog.get(ERASURES, f"{row.session}:{row.stage}")
        if note is None:
            refused = await self._begin(row, damaged=damaged)
            if refused is not None:
                return refused
        elif read_erasure(note) and document is None and await self._spare(row):
            return Done(
                row.session, row.stage, "spared", "a hold came before its key was destroyed"
            )
        left = await self._run(self._left, row)
        size = 0
        if document is None or left or document["state"] == "shredding":
            size = await self._shred(row, partition, document)
            document = await self.catalog.get(ERASURES, f"{row.session}:{row.stage}")
        return await self._settle(row, document, size)

    # -- 1 and 2 -----------------------------------------------------------------------------------

    async def _begin(self, row: Row, *, damaged: bool) -> Done | None:
        """Claim the session and write the record; what was refused, None if it has begun."""
        content = row.stage == "content"
        if not content and (not self.blobs.erased(row.session) or await self._content_left(row)):
            return Done(row.session, row.stage, "changed", "its content is still there")
        state = await self._state(row)
        if state not in SETTLED:
            return Done(row.session, row.stage, "changed", f"it is {state} now")
        try:
            if content:
                record, left = await self._content_record(row, state == "completed", damaged)
            else:
                record, left = await self._metadata_record(row), {}
        except Damaged as error:
            return Done(row.session, row.stage, "damaged", "; ".join(error.problems[:5]))
        forbidding = await self.register.claim(row.session, row.project)
        if forbidding:
            names = ", ".join(hold.id for hold in forbidding)
            return Done(row.session, row.stage, "held", names)
        if await self._state(row) != state:  # while it was read
            await self.register.free(row.session)
            return Done(row.session, row.stage, "changed", f"it is no longer {state}")
        await async_point("retention.claimed")
        await self._run(self._write, row.session, NOTES[row.stage], record, left)
        await async_point("retention.recorded")
        return None

    async def _state(self, row: Row) -> str:
        """The session's state; of one that a lost catalog does not know its record decides."""
        found = await self.catalog.get("sessions", row.session) or {}
        return str(found.get("state", "completed"))

    async def _content_left(self, row: Row) -> bool:
        names = await self._run(names_of, self.blobs, row.session)
        return any(name != MANIFEST and not self.blobs.stays(row.session, name) for name in names)

    async def _content_record(
        self, row: Row, complete: bool, damaged: bool
    ) -> tuple[Erasure, dict[str, bytes]]:
        listed = {one["index"]: one["leaf"] async for one in self.catalog.chunks(row.session)}
        proof = await asyncio.to_thread(
            prove, self.blobs, row.session, listed, complete=complete, damaged=damaged
        )
        record = self._record(
            row, proof.manifest_hash, proof.root, proof.chunks, digest(proof.leaves),
            digest(proof.headers),
        )  # fmt: skip
        return record, {LEAVES: proof.leaves, HEADERS: proof.headers}

    async def _metadata_record(self, row: Row) -> Erasure:
        content = read_erasure(await self._run(self.blobs.get, row.session, ERASED_CONTENT))
        return self._record(
            row, content.manifest_hash, content.root, content.chunks, content.leaves_hash, None
        )

    def _record(
        self, row: Row, manifest: str | None, root: str | None, chunks: int, leaves: str,
        headers: str | None,
    ) -> Erasure:  # fmt: skip
        assert isinstance(row.rule.keep, int)
        return Erasure(
            session=row.session, stage=row.stage, scope=row.rule.scope, keep_days=row.rule.keep,
            ended=row.ended, decided=self.clock(), by=acting_user(), host=self.settings.host,
            manifest_hash=manifest, root=root, chunks=chunks, leaves_hash=leaves,
            headers_hash=headers,
        )  # fmt: skip

    def _write(self, session: str, name: str, record: Erasure, left: dict[str, bytes]) -> None:
        assert self.signer is not None
        for other, data in left.items():
            if self.blobs.find(session, other) not in (None, data):
                self.blobs.remove(session, other)  # of a try that has left no record
            self.blobs.put(session, other, data)
        self.blobs.put(session, name, sign_erasure(record, self.signer))

    async def _spare(self, row: Row) -> bool:
        """Withdraw an erasure that has destroyed nothing, if a hold came meanwhile."""
        if row.stage != "content" or not await self._run(self._whole, row.session):
            return False
        forbidding = await self.register.claim(row.session, row.project)
        if not forbidding:
            return False
        await self.events.emit(SessionSpared(session=row.session, hold=forbidding[0].id),
                               row.session)  # fmt: skip
        await self._run(self.blobs.remove, row.session, ERASED_CONTENT)
        await self.register.free(row.session)
        return True

    def _whole(self, session: str) -> bool:
        """Whether the key, and every chunk that was there when the record was written, still is."""
        key, headers = self.blobs.find(session, KEY), self.blobs.find(session, HEADERS)
        if not key or not any(key) or headers is None:
            return False
        return set(read_headers(headers)) <= set(self.blobs.chunk_indexes(session))

    # -- 3 to 5 ------------------------------------------------------------------------------------

    async def _shred(self, row: Row, partition: int | None, document: Document | None) -> int:
        """Tell, destroy, note; the bytes that were removed."""
        note = self._note(row)
        assert note is not None
        if document is None:
            await self._tell(read_erasure(note), digest(note))
        await async_point("retention.told")
        files, size = await (self._content if row.stage == "content" else self._metadata)(row)
        await async_point("retention.files-gone")
        if row.stage == "content":
            await self.broker.entomb(row.session, partition)
            await async_point("retention.tombstone-sent")
        ends, now = await self.broker.ends(row.stage, partition), self.clock()
        before = document or {"version": 0, "files": 0, "bytes": 0}
        noted: Document = {
            "_id": f"{row.session}:{row.stage}", "version": before["version"] + 1,
            "session": row.session, "stage": row.stage, "state": "shredding",
            "partition": partition, "ends": ends, "at": now, "entombed": now,
            "files": before["files"] + files, "bytes": before["bytes"] + size,
        }  # fmt: skip
        await self.catalog.put_version(ERASURES, noted)
        await async_point("retention.noted")
        waiting = [one[:1000] for one in await self.waiting(noted)]
        event = SessionShredded(session=row.session, stage=row.stage, files=files, bytes=size,
                                waiting=waiting[:100])  # fmt: skip
        await self.events.emit(event, row.session)
        await async_point("retention.shredded")
        await self.register.free(row.session)
        await self._note_change(noted, state="shredded")
        log.info("session shredded", session=row.session, stage=row.stage, files=files, bytes=size)
        return size

    async def _tell(self, record: Erasure, record_hash: str) -> None:
        session, stage = record.session, record.stage
        await self.audit.record(
            ErasureBegun(session=session, stage=stage, scope=record.scope,
                         keep_days=record.keep_days, record=record_hash),
            session,
        )  # fmt: skip
        await self.events.emit(
            SessionErasing(session=session, stage=stage, scope=record.scope,
                           keep_days=record.keep_days, record=record_hash),
            session,
        )  # fmt: skip

    async def _content(self, row: Row) -> tuple[int, int]:
        """The key, then everything that does not stay, here and in folders of replays."""
        files = size = 0
        left = await self._run(self._left, row)
        for name in sorted(left, key=lambda name: name != KEY):
            size += await self._run(self._remove, row.session, name)
            files += 1
            point = "retention.key-destroyed" if name == KEY else "retention.file-removed"
            await async_point(point)
        with suppress(OSError):
            (self.blobs.folder(row.session) / CONFLICTS).rmdir()
        for folder in self._replayed(row.session):
            await self._run(shutil.rmtree, folder, True)
        return files, size

    async def _metadata(self, row: Row) -> tuple[int, int]:
        """Manifest and headers, then the catalog's entries; the view follows the event."""
        files = size = 0
        count = read_erasure(self._note(row) or b"").chunks
        for name in await self._run(self._left, row):
            size += await self._run(self._remove, row.session, name)
            files += 1
            await async_point("retention.file-removed")
        await self.catalog.delete("manifests", row.session)
        for index in range(count):
            await self.catalog.delete("chunks", f"{row.session}:{index}")
        for collection in ("findings", "conflicts"):
            for document in await self.catalog.find(collection, {"session": row.session}):
                await self.catalog.delete(collection, str(document["_id"]))
        return files, size

    def _left(self, row: Row) -> list[str]:
        """The files of the stage that are there still."""
        names = names_of(self.blobs, row.session)
        gone = [name for name in names if not self.blobs.stays(row.session, name)]
        return [name for name in gone if (name in OF_METADATA) is (row.stage == "metadata")]

    def _remove(self, session: str, name: str) -> int:
        """Remove a file; its size."""
        path = self.blobs.path(session, name)
        size = path.lstat().st_size if path.is_symlink() or path.exists() else 0
        if name == KEY and not path.is_symlink():
            self.blobs.destroy(session, name)
        else:
            self.blobs.remove(session, name)
        return size

    def _replayed(self, session: str) -> list[Path]:
        """What `lucid replay` has left of the session in this host's scratch folder."""
        return sorted(self.settings.scratch_dir.glob(f"replay-*/{session}"))

    # -- 6 -----------------------------------------------------------------------------------------

    async def waiting(self, document: Document) -> list[str]:
        """What still holds something of a shredded stage, a sentence each."""
        session, partition = str(document["session"]), document["partition"]
        found = await self.broker.holds(document["ends"], document["at"])
        if document["stage"] == "content":
            if await self.broker.has_progress(session, partition):
                found.append("session.progress has its wrapped key until the next compaction")
            spools = sorted((self.settings.home / "spool").glob(f"{session}*"))
            found += [f"a recorder's spool on this host: {one}" for one in spools]
        return found

    async def _settle(self, row: Row, document: Document | None, size: int) -> Done:
        """Say that nothing is left, once nothing is."""
        assert document is not None
        waiting = [] if document["state"] == "erased" else await self.waiting(document)
        if not waiting:
            if document["state"] != "erased":
                await self.events.emit(SessionErased(session=row.session, stage=row.stage),
                                       row.session)  # fmt: skip
                await self._note_change(document, state="erased", ends=[])
            return Done(row.session, row.stage, "erased", size=size)
        if row.stage == "content" and self.clock() - document["entombed"] >= AGAIN:
            await self.broker.entomb(row.session, document["partition"])
            await self._note_change(document, entombed=self.clock())
        return Done(
            row.session, row.stage, "shredded" if size else "waiting", "; ".join(waiting), size
        )

    async def _note_change(self, document: Document, **changes: object) -> None:
        await self.catalog.put_version(
            ERASURES, {**document, **changes, "version": document["version"] + 1}
        )

    def _note(self, row: Row) -> bytes | None:
        return self.blobs.find(row.session, NOTES[row.stage])

    async def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.to_thread(work, *arguments)
