"""Files of the runtime folder: whole or not there, private unless a desktop's user reads them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from agents.platform.retry import Transient

PRIVATE, READABLE, SCRIPT = 0o600, 0o644, 0o755


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """A folder with exactly this mode, and those above it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)


def write_private(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace a file by another that is whole and on disk; it never has a wider mode."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


class RoomBusy(Transient):
    """Another room keeps the servers of this folder."""


class FolderLock:
    """Held as long as a room keeps a folder's servers; the kernel lets go of a killed room's."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name(f"{folder.name}.lock")
        self._descriptor = -1

    async def take(self) -> None:
        """Take it; raises RoomBusy."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise RoomBusy(
                f"another xrdp room keeps the servers of {self._path.with_suffix('')}",
                hint="Stop that one first, or set LUCID_XRDP_FOLDER and LUCID_HOST",
            ) from error
        self._descriptor = descriptor

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let go of it at the end."""
        try:
            yield
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
