"""Files that a command writes for its user: whole or not at all, and never by surprise.

FileProblem
├── FileExists        there is one already
└── FileUnwritable    the disk or its permissions do not take it
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.platform.blobs import link_first, sync_folder
from schemas.errors import LucidError

WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class FileProblem(LucidError):
    """An output file cannot be written."""

    exit_status = 73  # EX_CANTCREAT of sysexits.h


class FileExists(FileProblem):
    """The output file exists, and nobody said to replace it."""


class FileUnwritable(FileProblem):
    """Writing the output file failed."""


@contextmanager
def whole_file(path: Path, *, force: bool) -> Iterator[Path]:
    """A new file beside `path` to write to; takes its name, durably, once it is whole.

    Raises FileExists, unless `force`, and FileUnwritable, also for an OSError of the body.
    """
    temporary: Path | None = None
    try:
        if path.is_dir():
            raise FileUnwritable(f"{path} is a folder", hint="Name a file in it")
        if path.exists() and not force:
            raise FileExists(f"{path} exists already", hint="--force replaces it")
        # The suffix stays the last one: libraries tell formats by it.
        handle, name = tempfile.mkstemp(prefix=".lucid-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _publish(temporary, path, force)
        temporary = None
    except OSError as error:
        raise FileUnwritable(
            f"cannot write {path}: {error.strerror or error}",
            hint="Choose a folder that exists, is yours and has room",
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _publish(temporary: Path, path: Path, force: bool) -> None:
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        with suppress(PermissionError):  # a file system without modes, as on a memory stick
            os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if force:
        os.replace(temporary, path)
    else:
        _link(temporary, path)
    sync_folder(path.parent)


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name unless somebody else took it meanwhile."""
    try:
        taken = not link_first(temporary, path)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        taken = not _take_name(temporary, path)
    else:
        temporary.unlink()
    if taken:
        raise FileExists(f"{path} appeared meanwhile", hint="--force replaces it")


def _take_name(temporary: Path, path: Path) -> bool:
    """The same where there are no hard links, as on a memory stick: the name first."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    os.replace(temporary, path)
    return True
