"""A lock between processes that goes away with its holder."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.platform.stack.errors import StackBusy

_POLL_SECONDS = 0.1


@contextmanager
def file_lock(path: Path, *, wait_seconds: float, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on file `path`, which is made and stays.

    `waiting` is called once if somebody else holds it. Raises StackBusy after
    `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    told = False
    with path.open("ab") as file:
        while not _try_lock(file.fileno()):
            if not told:
                waiting()
                told = True
            if time.monotonic() > deadline:
                raise StackBusy(
                    f"another process has held {path} for {wait_seconds:.0f} s",
                    hint="Wait for it to finish, or end it",
                )
            time.sleep(_POLL_SECONDS)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
