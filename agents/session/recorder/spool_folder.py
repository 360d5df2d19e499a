"""The folder of a recorder's spools: which there are, who has one open, what goes wrong there.

LucidError
├── SpoolFull           over its limit, or its disk is full, while the broker takes nothing
├── SpoolFailed         the disk does not take or give it
├── SpoolBusy           another recorder is writing this session
└── SpoolUnreadable     no head, a damaged one, or one of another recorder
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from schemas.errors import LucidError

HEAD = "head"
ENDED = ".ended"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class SpoolFull(LucidError):
    """More records wait for the broker than the spool, or its disk, may hold."""

    exit_status = 74  # EX_IOERR of sysexits.h


class SpoolFailed(LucidError):
    """The disk of the spool does not take or give a record."""

    exit_status = 74  # EX_IOERR of sysexits.h


class SpoolBusy(LucidError):
    """Another process is recording this session."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


class SpoolUnreadable(LucidError):
    """A spool cannot be gone on with."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


def leftovers(folder: Path) -> list[Path]:
    """The spools in a folder, oldest session first, whether somebody has them open or not."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [one for one in entries if one.suffix != ENDED and (one / HEAD).is_file()]


def unattended(folder: Path) -> list[Path]:
    """Those of `leftovers` that no recorder has open now."""
    return [one for one in leftovers(folder) if not _is_locked(one)]


def _is_locked(place: Path) -> bool:
    try:
        os.close(lock(place))
    except (SpoolBusy, OSError):
        return True
    return False


def session_of(place: Path) -> UUID:
    """The session of a spool, which is its name; raises SpoolUnreadable."""
    try:
        return UUID(place.name)
    except ValueError as error:
        raise SpoolUnreadable(
            f"{place} is not the spool of a session", hint="Its name has to be a session id"
        ) from error


def lock(place: Path) -> int:
    """A descriptor that holds the spool's lock; raises SpoolBusy."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SpoolBusy(
            f"session {place.name} is being recorded by another process of this host",
            hint="Stop that recorder first; a session has one recorder",
        ) from None
    return descriptor


@contextlib.contextmanager
def on_disk(place: Path) -> Iterator[None]:
    """Raise what the disk says as SpoolFull or SpoolFailed."""
    try:
        yield
    except OSError as error:
        kind = SpoolFull if error.errno in _NO_SPACE else SpoolFailed
        raise kind(
            f"the spool {place} does not work: {error.strerror or error}",
            hint="Free some space, or set LUCID_RECORDER_SPOOL to another disk",
        ) from error
