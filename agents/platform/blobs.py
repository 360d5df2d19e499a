"""Sealed chunks and manifests as files: the first one wins, and a name means a whole file.

    BLOBS/<session id>/00000000.chunk      header ‖ ciphertext
    BLOBS/<session id>/manifest.json       canonical JSON
    BLOBS/<session id>/checkpoint.txt      signed note
    BLOBS/<session id>/key.age             wrapped data key
    BLOBS/<session id>/conflicts/…         what differed from the first one, by its hash
    BLOBS/<session id>/erasure-content.txt the session's content was erased: nothing of it is taken
    BLOBS/<session id>/erasure-metadata.txt and its manifest, too
    BLOBS/<session id>/leaves.txt, headers.bin   what stays of an erased session's chunks

A file is written under a temporary name, synced, linked to its own name (which fails if
somebody was first, unlike a rename), and the folder is synced. Folders are 0700, files 0600.

LucidError
├── MissingFile       the catalog or a manifest speaks of a file that is not there
├── SessionErased     the file belongs to what was erased of its session
└── Transient
    └── StoreFailed   the disk did not take or give it
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from agents.platform.points import point
from agents.platform.retry import Transient
from schemas.errors import LucidError

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.txt"
KEY = "key.age"
CONFLICTS = "conflicts"
ERASED_CONTENT = "erasure-content.txt"
ERASED_METADATA = "erasure-metadata.txt"
LEAVES = "leaves.txt"
HEADERS = "headers.bin"
LEFT = frozenset({CHECKPOINT, LEAVES, ERASED_CONTENT, ERASED_METADATA})
"""What stays of a session for ever; until its metadata is erased, manifest and headers do, too."""
TEMPORARY = ".tmp-"
_CHUNK = re.compile(r"([0-9]{8,16})\.chunk")


class MissingFile(LucidError):
    """A file that should be in the store is not there."""


class SessionErased(LucidError):
    """The session was erased, and its folder takes nothing of what was."""


class StoreFailed(Transient):
    """The disk refused to write or read; worth another try once its trouble is over."""


def chunk_name(index: int) -> str:
    """The file name of a chunk: its index with 8 digits or more."""
    return f"{index:08d}.chunk"


def chunk_index(name: str) -> int | None:
    """The index in a chunk's file name; None if it is no such name."""
    match = _CHUNK.fullmatch(name)
    return int(match[1]) if match and chunk_name(int(match[1])) == name else None


class Blobs:
    """The files of all sessions under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, session: str) -> Path:
        return self.root / session

    def path(self, session: str, name: str) -> Path:
        return self.folder(session) / name

    def put(self, session: str, name: str, data: bytes) -> bool:
        """Store a file unless there is one of that name; whether it was stored.

        Returns once file and folder are on disk, whoever wrote it. Raises StoreFailed, and
        SessionErased for what an erasure took: it is not there afterwards.
        """
        return self.put_all(session, [(name, data)]) == 1

    def put_all(self, session: str, files: Sequence[tuple[str, bytes]]) -> int:
        """Store files in this order, up to the first whose name is taken; how many were stored.

        As `put` does, with one sync of the folder for all of them. Each gets its name once all
        are on disk, and none before those before it.
        """
        if not files:
            return 0
        names = [name for name, _ in files]
        self._refuse_erased(session, *names)
        try:
            stored = self._put(self.folder(session), files)
        except OSError as error:
            raise StoreFailed(
                f"cannot store {', '.join(names)} of session {session}: {error.strerror or error}",
                hint=f"Look at the disk of {self.root}; it is tried again until it works",
            ) from error
        # Whoever erases lists the folder behind the record, so one of the two sees the other.
        self._refuse_erased(session, *names)
        return stored

    def erased(self, session: str) -> bool:
        """Whether a record says that the session's content was erased."""
        return (self.folder(session) / ERASED_CONTENT).exists()

    def stays(self, session: str, name: str) -> bool:
        """Whether the session's folder may have a file of this name."""
        if name in LEFT or not self.erased(session):
            return True
        if name not in (MANIFEST, HEADERS):
            return False
        return not (self.folder(session) / ERASED_METADATA).exists()

    def _refuse_erased(self, place: str, *names: str) -> None:
        """place: the session, or its conflicts. Raises SessionErased, StoreFailed."""
        session, _, below = place.partition("/")
        if not self.erased(session):
            return
        refused = [
            name for name in names if not self.stays(session, f"{below}/{name}" if below else name)
        ]
        for name in refused:
            self.remove(place, name)
        if refused:
            raise SessionErased(
                f"session {session} was erased: {', '.join(refused)} is not taken",
                hint="Its record is erasure-content.txt in its folder",
            )

    def remove(self, session: str, name: str) -> bool:
        """Remove a file for good; whether there was one. Raises StoreFailed."""
        path = self.path(session, name)
        try:
            path.unlink()
            sync_folder(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreFailed(
                f"cannot remove {name} of session {session}: {error.strerror or error}",
                hint=f"Look at the disk of {self.root}",
            ) from error
        return True

    def destroy(self, session: str, name: str) -> bool:
        """Overwrite a file where it is, then remove it; whether there was one.

        Disks and file systems that write elsewhere keep the former blocks until they reuse
        them. Raises StoreFailed.
        """
        path = self.path(session, name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreFailed(
                f"cannot destroy {name} of session {session}: {error.strerror or error}"
            ) from error
        try:
            os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return self.remove(session, name)

    def _put(self, folder: Path, files: Sequence[tuple[str, bytes]]) -> int:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(folder.parent)
        written: list[tuple[Path, Path]] = []
        descriptors: list[int] = []
        stored = 0
        try:
            for name, data in files:
                final = folder / name
                if final.exists():
                    break  # whoever wrote it may have died before its own sync
                temporary = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
                written.append((temporary, final))
                descriptors.append(write_new(temporary, data))
            # Behind all writing: one commit of the file system's journal then serves them all.
            for descriptor in descriptors:
                os.fsync(descriptor)
                point("blobs.written")
            for temporary, final in written:
                if not link_first(temporary, final):
                    break
                stored += 1
                point("blobs.linked")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            for temporary, _ in written:
                temporary.unlink(missing_ok=True)
        sync_folder(folder)
        return stored

    def put_conflict(self, session: str, name: str, data: bytes) -> bool:
        """Keep aside what differs from the first one; `name` carries its hash."""
        return self.put(f"{session}/{CONFLICTS}", name, data)

    def replace(self, session: str, name: str, aside: str, data: bytes) -> None:
        """Put a right file in the place of a rotten one, which stays as conflicts/`aside`.

        The rotten file has its other name on disk before it loses its own, and at no moment
        is the name without a whole file. Raises StoreFailed and SessionErased.
        """
        self._refuse_erased(session, name)
        folder = self.folder(session)
        conflicts, temporary = folder / CONFLICTS, folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            conflicts.mkdir(exist_ok=True, mode=0o700)
            sync_folder(folder)
            write_synced(temporary, data)
            link_first(folder / name, conflicts / aside)
            sync_folder(conflicts)
            os.replace(temporary, folder / name)
            sync_folder(folder)
        except OSError as error:
            raise StoreFailed(
                f"cannot replace {name} of session {session}: {error.strerror or error}",
                hint=f"Look at the disk of {self.root}",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        with suppress(SessionErased):
            self._refuse_erased(f"{session}/{CONFLICTS}", aside)
        self._refuse_erased(session, name)

    def get(self, session: str, name: str) -> bytes:
        """A file's content; raises MissingFile or StoreFailed."""
        try:
            return self.path(session, name).read_bytes()
        except FileNotFoundError as error:
            raise MissingFile(
                f"session {session} has no file {name}", hint=f"It should be under {self.root}"
            ) from error
        except OSError as error:
            raise StoreFailed(f"cannot read {name} of session {session}: {error}") from error

    def find(self, session: str, name: str) -> bytes | None:
        """A file's content, None if it is not there."""
        try:
            return self.get(session, name)
        except MissingFile:
            return None

    def chunk_indexes(self, session: str) -> list[int]:
        """The indexes of the chunk files that are there, in order."""
        try:
            names = [entry.name for entry in self.folder(session).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for name in names if (match := _CHUNK.fullmatch(name)))

    def sessions(self) -> Iterator[str]:
        """The ids of all sessions that have a folder."""
        if self.root.is_dir():
            yield from sorted(entry.name for entry in self.root.iterdir() if entry.is_dir())

    def sweep(self) -> int:
        """Remove temporary files that a crash left; how many. Call it before the first put."""
        removed = 0
        for session in self.sessions():
            for leftover in self.folder(session).rglob(f"{TEMPORARY}*"):
                leftover.unlink(missing_ok=True)
                removed += 1
        return removed


def write_new(path: Path, data: bytes) -> int:
    """Write a new private file; its descriptor. A short write is an error like any other."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_synced(path: Path, data: bytes) -> None:
    """Write a new private file and sync it."""
    descriptor = write_new(path, data)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_first(temporary: Path, final: Path) -> bool:
    """Give a file its name unless the name is taken; whether it was given."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
