"""A small disk for the blobs, in a mount namespace of the run's own: it can be full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MARK = "LUCID_TEST_FAULTS_DISK"
SIZE = 4 * 1024**3  # a limit, not an allocation
TRIES = 20
_UNSHARE = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
_MOUNT = 'mount -t tmpfs -o size=$1,mode=700 lucid-faults "$0" && shift && exec "$@"'


def enter(folder: Path, command: Sequence[str]) -> None:
    """Become `command` with a disk of its own mounted on `folder`; returns if that cannot be."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for unshare in _UNSHARE:
        mount = [*unshare, "sh", "-c", _MOUNT, str(folder), str(SIZE)]
        if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode == 0:
            sys.stdout.flush()
            sys.stderr.flush()
            os.environ[MARK] = str(folder)
            os.execvp(mount[0], [*mount, *command])


def is_mounted(folder: Path) -> bool:
    return os.environ.get(MARK) == str(folder)


def fill(folder: Path) -> None:
    """Take all free space away: the disk becomes as small as what is on it."""
    for last in (False,) * TRIES + (True,):
        used = os.statvfs(folder)
        size = (used.f_blocks - used.f_bfree) * used.f_frsize + used.f_frsize
        # Refused when more was written meanwhile: a disk is not smaller than what is on it.
        if _remount(folder, size, must=last):
            return


def free(folder: Path) -> None:
    """Give the space back."""
    _remount(folder, SIZE)


def _remount(folder: Path, size: int, *, must: bool = True) -> bool:
    """Whether the disk has the size now; raises CalledProcessError if it has to and has not."""
    command = ["mount", "-o", f"remount,size={size}", str(folder)]
    return subprocess.run(command, capture_output=not must, check=must).returncode == 0
