"""The small interface that every source implements.

    source.open() -> SourceInfo            on any thread; raises SourceError before a session is
                                           opened, so that nothing is recorded of nothing
    source.skip(frames, raw_bytes)         once it is open: a recorder before this one had them
    source.run(emit, control)              in a thread of its own, until its end
    source.close()                         gives everything back; may be called twice

`emit(payload, time)` hands over one payload of at most MAX_PAYLOAD bytes with its event
time in microseconds since 1970. It blocks while the spool is full, which is the only
back-pressure there is, and raises Stopped once the recording is over.

LucidError
└── SourceError         nothing can be captured
    ├── NoDisplay       the display cannot be opened
    ├── DisplayLost     the display went away while it was recorded
    └── NoInput         the file cannot be read
Stopped                 not an error: the recording is over
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.errors import LucidError

Emit = Callable[[bytes, int], None]
CODEC_BYTES = "bytes/1"


class SourceError(LucidError):
    """A source cannot be captured."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class NoDisplay(SourceError):
    """An X display cannot be opened."""


class DisplayLost(SourceError):
    """An X display went away while it was recorded."""


class NoInput(SourceError):
    """A file cannot be read."""


class Stopped(Exception):
    """The recording is over; a source lets it pass."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source records. codec: how its payloads are read. details: for people.

    live: what is not captured at once is gone, as on a screen.
    """

    type: str
    codec: str
    details: Mapping[str, str | int] = field(default_factory=dict)
    live: bool = False


class Control:
    """Pausing and stopping a source from another thread."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._pauses = self._seen = 0

    def pause(self) -> None:
        self._pauses += 1
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def stop(self) -> None:
        self.stopped.set()
        self._running.set()

    @property
    def paused(self) -> bool:
        return not self._running.is_set()

    @property
    def interrupted(self) -> bool:
        """There was a pause since the last `wait_while_paused`, however short."""
        return self._pauses != self._seen

    def wait_while_paused(self) -> bool:
        """Block while paused; whether it had been since the last call. Raises Stopped."""
        self._running.wait()
        self.check()
        was, self._seen = self.interrupted, self._pauses
        return was

    def check(self) -> None:
        """Raise Stopped once the recording is over."""
        if self.stopped.is_set():
            raise Stopped


class Source(Protocol):
    """Something that can be recorded."""

    def open(self) -> SourceInfo:
        """Get hold of it; raises SourceError."""

    def skip(self, frames: int, raw_bytes: int) -> None:
        """Begin behind so many payloads and their bytes; raises SourceError."""

    def run(self, emit: Emit, control: Control) -> None:
        """Capture until its end, or until Stopped passes; raises SourceError when it is lost."""

    def close(self) -> None:
        """Give everything back."""


def now() -> int:
    """Event time: microseconds since 1970."""
    return time.time_ns() // 1000
