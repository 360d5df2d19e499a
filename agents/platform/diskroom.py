"""Room on a disk, with hysteresis: a service stops taking below one mark, goes on above another.

    guard = DiskGuard(folder, stop=500 << 20, resume=625 << 20, registry=metrics.registry)
    Runner(…, gate=guard.gate)             its partitions are paused while there is no room
    service.health.add("blobs", guard.check)

Bytes that were taken and are not written yet count as used: what was taken still fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Gauge

from agents.platform.health import DiskFull, free_bytes

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0  # seconds between looks at the disk, at least


class Hysteresis:
    """Whether there is room: no longer below `stop`, again from `resume` on. Pure."""

    def __init__(self, stop: int, resume: int) -> None:
        if resume <= stop:
            raise ValueError(f"{resume} bytes to go on are not above {stop} bytes to stop")
        self.stop, self.resume = stop, resume
        self.room = True

    def see(self, free: int) -> bool:
        """Take note of what is free now; whether there is room."""
        self.room = free >= (self.stop if self.room else self.resume)
        return self.room


class DiskGuard:
    """The room of one folder's file system, looked at when asked, at most once a second."""

    def __init__(
        self,
        folder: Path,
        *,
        stop: int,
        resume: int,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
        measure: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._folder = folder
        self._marks = Hysteresis(stop, resume)
        self._clock, self._measure = clock, measure
        self._looked = float("-inf")
        self._free = 0
        self._busy = 0
        self._free_gauge = Gauge(
            "lucid_disk_free_bytes", "Free bytes where records are written", registry=registry
        )
        self._busy_gauge = Gauge(
            "lucid_disk_unwritten_bytes", "Bytes taken and not finished yet", registry=registry
        )
        self._held_gauge = Gauge(
            "lucid_disk_held_up", "1 while nothing is taken for want of disk", registry=registry
        )

    def has_room(self, busy: int) -> bool:
        """Whether more may be taken. busy: bytes that are taken and still to be written."""
        self._busy = busy
        self._busy_gauge.set(busy)
        now = self._clock()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._look()
        before, room = self._marks.room, self._marks.see(self._free - busy)
        if room != before:
            self._tell(room)
        return room

    def _look(self) -> None:
        try:
            self._free = self._measure(self._folder)
        except OSError as error:
            # What cannot be asked for room has none.
            log.error("cannot measure free space", folder=str(self._folder), error=str(error))
            self._free = 0
        self._free_gauge.set(self._free)

    def _tell(self, room: bool) -> None:
        self._held_gauge.set(not room)
        facts = {"folder": str(self._folder), "free": self._free, "unwritten": self._busy}
        if room:
            log.info("there is room again: going on", **facts)
        else:
            log.error("no room: nothing is taken until there is", **facts,
                      stop=self._marks.stop, resume=self._marks.resume)  # fmt: skip

    async def gate(self, busy: int) -> bool:
        """`has_room`, as a Runner asks it."""
        return self.has_room(busy)

    async def check(self) -> None:
        """Raise DiskFull while there is no room."""
        if not self.has_room(self._busy):
            marks = self._marks
            raise DiskFull(
                f"{self._folder} has {self._free} free bytes and {self._busy} to be written; "
                f"nothing is taken below {marks.stop}, and again from {marks.resume} on",
                hint="Free some space: it goes on by itself. "
                "The marks are LUCID_MIN_FREE and LUCID_RESUME_FREE",
            )
