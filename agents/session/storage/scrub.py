"""Scrub: every stored file beside its catalog entry, session by session, file by file.

Sessions come from both sides: ids of the catalog's `sessions` and `manifests`, and folders.
Entries are read by their natural ids, for the catalog has no other quick way to them.

LucidError
└── NothingStored     neither side has anything of a session
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agents.platform.blobs import (
    CONFLICTS,
    ERASED_CONTENT,
    ERASED_METADATA,
    Blobs,
    StoreFailed,
    chunk_index,
    chunk_name,
)
from agents.platform.catalog import Catalog, Document
from agents.session.storage.damage import (
    DOCUMENTS,
    Finding,
    Seen,
    Wanted,
    hasher,
    is_ours,
    judge,
    remnant,
    wanted_chunk,
    wanted_conflict,
    wanted_documents,
    wanted_left,
)
from agents.session.storage.reading import Reader
from schemas.errors import FormatError, LucidError
from schemas.manifests import read_manifest
from schemas.sessions import InvalidSessionId, parse_session_id

BESIDE = ""
"""Stands for a session: what lies in the root folder and is no session's."""
FOLDER = "."
"""Stands for a file: a session's folder that cannot be listed."""
OTHERS = frozenset({"lost+found"})
SETTLED = frozenset({"completed", "incomplete"})
"""States of a session of which everything was counted (the pipeline writes them)."""

Result = TypeVar("Result")


class NothingStored(LucidError):
    """No service has stored anything under this session id."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


@dataclass(frozen=True, slots=True)
class Look:
    """One name that was looked at, whether there is such a file, and what is wrong with it."""

    name: str
    there: bool
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What the catalog says of a session: its entries but for those of chunks.

    indexes: chunks that should have an entry; counted: those that the manifest of a settled
    session counts. left: of an erased session, the files that stay.
    """

    entry: Document | None
    indexes: int
    counted: int
    left: Mapping[str, Wanted] | None = None


@dataclass(frozen=True, slots=True)
class Scrubber:
    """Looks at files, one at a time. Raises CatalogUnreachable, StoreFailed and Halted.

    grace: seconds after which a file without an entry, or of an unknown name, is a finding.
    """

    blobs: Blobs
    catalog: Catalog
    reader: Reader
    pool: Executor
    grace: float

    async def sessions(self) -> list[str]:
        """All sessions that either side knows, in order; BESIDE is the first."""
        folders = await self._run(self._root)
        entered = [*await self.catalog.ids("sessions"), *await self.catalog.ids("manifests")]
        found = {name for name in (*folders, *entered) if is_session(name)}
        return [BESIDE, *sorted(found)]

    def _root(self) -> list[str]:
        try:
            return [entry.name for entry in self.blobs.root.iterdir()]
        except OSError as error:
            raise StoreFailed(
                f"cannot list {self.blobs.root}: {error.strerror or error}",
                hint="Is the disk mounted? Nothing is checked until the folder is there",
            ) from error

    async def look(
        self, session: str, after: str = "", also: Mapping[str, object] | None = None
    ) -> AsyncIterator[Look]:
        """Every file of a session behind the name `after`, and those of `also`, by name."""
        known = await self._known(session)
        try:
            names = set(await self._run(self._names, session)) | set(also or ())
        except OSError as error:
            seen = Seen(error=error.strerror or str(error))
            yield Look(FOLDER, False, judge(session, FOLDER, None, seen, self.grace))
            return
        names.discard(FOLDER)
        if FOLDER in (also or ()) and after < FOLDER:
            yield Look(FOLDER, False, None)
        if known.left is not None:
            names |= set(known.left)
        elif session != BESIDE:
            names |= {chunk_name(index) for index in range(known.indexes)} | set(DOCUMENTS)
        for name in sorted(names):
            if name > after:
                yield await self._look(session, name, known)

    async def _known(self, session: str) -> _Known:
        if session == BESIDE:
            return _Known(None, 0, 0)
        state = await self.catalog.get("sessions", session) or {}
        entry = await self.catalog.get("manifests", session)
        note = await self._run(self._record, session)
        if note is not None:
            forgotten = self.blobs.path(session, ERASED_METADATA).exists()
            return _Known(entry, 0, 0, wanted_left(note, forgotten, entry))
        counted = 0
        if entry is not None and state.get("state") in SETTLED:
            counted = _chunk_count(entry)
        ahead = [int(index) + 1 for index in state.get("ahead") or []]
        indexes = max([int(state.get("next_index") or 0), counted, *ahead])
        # The pipeline may be behind: entries are made without gaps, but for a few.
        while await self.catalog.get("chunks", f"{session}:{indexes}") is not None:
            indexes += 1
        return _Known(entry, indexes, counted)

    def _record(self, session: str) -> bytes | None:
        """The record that the session was erased; empty if the disk does not give it."""
        try:
            return self.blobs.find(session, ERASED_CONTENT)
        except StoreFailed:
            return b"" if self.blobs.erased(session) else None

    def _names(self, session: str) -> list[str]:
        """What is in a session's folder, and in its `conflicts`; of the root, what is no session's.

        Raises OSError when it cannot be listed; a folder that is not there is empty.
        """
        if session == BESIDE:
            return [name for name in self._root() if not is_session(name) and name not in OTHERS]
        folder = self.blobs.folder(session)
        names = _listed(folder)
        if CONFLICTS in names and (folder / CONFLICTS).is_dir():
            names.remove(CONFLICTS)
            names += [f"{CONFLICTS}/{name}" for name in _listed(folder / CONFLICTS)]
        return names

    async def _look(self, session: str, name: str, known: _Known) -> Look:
        """The entry first, then the file: an entry without a file is no matter of time."""
        if known.left is not None and not self.blobs.stays(session, name):
            seen = await self._run(self._seen, session, name, None)
            return Look(name, seen is not None, remnant(session, name, seen))
        wanted = await self._wanted(session, name, known)
        seen = await self._run(self._seen, session, name, wanted)
        if seen is not None and wanted is None and is_ours(name):
            wanted = await self._wanted(session, name, await self._known(session))
            seen = await self._run(self._seen, session, name, wanted)
        finding = judge(session, name, wanted, seen, self.grace)
        return Look(name, seen is not None, finding)

    async def _wanted(self, session: str, name: str, known: _Known) -> Wanted | None:
        if known.left is not None:
            return known.left.get(name)
        index = chunk_index(name)
        if index is None:
            documents = wanted_documents(known.entry, chunks=known.indexes > 0)
            return documents.get(name) or wanted_conflict(name)
        entry = await self.catalog.get("chunks", f"{session}:{index}")
        if entry is not None:
            return wanted_chunk(entry)
        there = self.blobs.path(session, name).exists()
        return Wanted() if index < known.counted and not there else None

    def _seen(self, session: str, name: str, wanted: Wanted | None) -> Seen | None:
        path = self.blobs.path(session, name)
        size = None if wanted is None else wanted.size
        return self.reader.look(path, size, None if wanted is None else hasher(name))

    async def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)


def is_session(name: str) -> bool:
    """Whether a name is a session's id."""
    try:
        parse_session_id(name)
    except InvalidSessionId:
        return False
    return True


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []


def _chunk_count(entry: Document) -> int:
    try:
        return read_manifest(str(entry.get("manifest")).encode()).chunks
    except FormatError:
        return 0
