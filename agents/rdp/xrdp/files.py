"""Files of the runtime folder: whole or not there, private unless a desktop's user reads them."""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE, SCRIPT = 0o600, 0o755


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
