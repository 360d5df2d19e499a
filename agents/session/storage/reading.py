"""Reading files for a check: at a limited rate, past the page cache, stoppable at once.

LucidError
└── Halted        the service stops, or nobody waits for the result any more
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.session.storage.damage import Seen
from schemas.errors import LucidError

BLOCK = 256 * 1024


class Halted(LucidError):
    """Reading was stopped before its end."""


class TokenBucket:
    """Bytes that may pass: `rate` a second, at most a second's worth at once. Pure.

    rate 0 is no limit.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = float(rate)
        self._then = clock()

    def take(self, size: int) -> float:
        """Seconds to wait before going on, now that `size` bytes have passed."""
        if not self._rate:
            return 0.0
        now = self._clock()
        refill = (now - self._then) * self._rate
        self._tokens = min(float(self._rate), self._tokens + refill) - size
        self._then = now
        return max(0.0, -self._tokens / self._rate)


class Reader:
    """Looks at files from one worker thread.

    rate: bytes a second. count: called with the bytes of each block. `halt` ends all reading.
    """

    def __init__(self, rate: int, count: Callable[[int], object] = lambda _: None) -> None:
        self._bucket = TokenBucket(rate)
        self._count = count
        self._halt = threading.Event()

    def halt(self) -> None:
        """Stop reading, now and for good."""
        self._halt.set()

    def look(self, path: Path, size: int | None, new_hash: Callable[[], Any] | None) -> Seen | None:
        """What is at `path`; None if nothing is. Raises Halted.

        Its content is read only for a hash, and not when its size is another one than `size`.
        """
        if self._halt.is_set():
            raise Halted("reading was stopped")
        try:
            return self._look(path, size, new_hash)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return Seen(error=error.strerror or str(error))

    def _look(self, path: Path, size: int | None, new_hash: Callable[[], Any] | None) -> Seen:
        facts = path.lstat()
        # Of a link the time is that of the name: the newer of write and link.
        age = max(0.0, time.time() - facts.st_ctime)
        if new_hash is None:
            return Seen(facts.st_size, age)
        if not stat.S_ISREG(facts.st_mode):
            return Seen(facts.st_size, age, error="not a regular file")
        if size is not None and size != facts.st_size:
            return Seen(facts.st_size, age)
        # Not a link, and not a pipe that would block, whatever was put there meanwhile.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return Seen(facts.st_size, age, self._hash(descriptor, new_hash()))
        finally:
            os.close(descriptor)

    def _hash(self, descriptor: int, digest: Any) -> str:
        """The hash of a file as it is on disk: what the page cache holds would hide rot."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        at = 0
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
            os.posix_fadvise(descriptor, at, len(block), os.POSIX_FADV_DONTNEED)
            at += len(block)
            self._count(len(block))
            if self._halt.wait(self._bucket.take(len(block))):
                raise Halted("reading was stopped")
        return str(digest.hexdigest())
