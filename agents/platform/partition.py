"""One partition of the data plane: what a room makes of it, and which offset may be committed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from aiokafka import ConsumerRecord

from agents.platform.expiry import Expired
from agents.platform.retry import Deadline

TASK_OVERHEAD = 12 * 1024
"""Bytes of a task and the objects around its record, measured with storage's at a dead catalog."""


class OffsetTracker:
    """Which offset of one partition may be committed.

    Offsets are added in increasing order (gaps are fine: transaction markers and
    compaction leave them) and finished in any order.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[int, None] = OrderedDict()
        self._next: int | None = None

    def add(self, offset: int) -> None:
        if self._next is not None and offset < self._next:
            raise ValueError(f"offset {offset} was added after {self._next - 1}")
        self._open[offset] = None
        self._next = offset + 1

    def skip(self, offset: int) -> None:
        """Add an offset that is finished already."""
        self.add(offset)
        del self._open[offset]

    def done(self, offset: int) -> None:
        del self._open[offset]

    def jump(self, offset: int) -> None:
        """Nothing before `offset` will be added any more."""
        self._next = max(self._next or 0, offset)

    def position(self) -> int | None:
        """The offset before which every record is finished; None before the first record."""
        return next(iter(self._open), self._next)


class PartitionWorker(Protocol):
    """What a room does with the records of one partition, while the partition is assigned."""

    async def start(self) -> None:
        """Restore what is needed before the first record."""

    async def take(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Accept records in offset order; schedules work and returns soon."""

    def expected(self) -> int | None:
        """After `start`: where it has to go on when the group has no commit, if it knows."""

    async def expired(self, lost: Expired) -> None:
        """Report records that are gone; returns when the report is on stable storage.

        The next record comes from `lost.next_offset` on.
        """

    def position(self) -> int | None:
        """The offset before which everything is finished; None: nothing to commit."""

    def busy(self) -> int:
        """Bytes in flight that will be released without any further record."""

    async def committed(self, offset: int) -> None:
        """The broker holds this commit position."""

    async def drain(self, deadline: Deadline) -> None:
        """Finish what is in flight, as far as the deadline allows; take nothing new."""

    async def close(self) -> None:
        """Drop everything: the partition is gone."""


Fail = Callable[[BaseException], None]


class Tasks:
    """Work that runs beside the loop, with the bytes that it holds until it ends.

    What a task raises reaches `fail`.
    """

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._tasks: set[asyncio.Task[None]] = set()
        self.busy = 0

    def spawn(self, work: Coroutine[None, None, None], size: int) -> None:
        """Start `work`; its `size` and its overhead count as busy until it has ended."""
        size += TASK_OVERHEAD
        self.busy += size

        def ended(task: asyncio.Task[None]) -> None:
            self.busy -= size
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fail(error)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def drain(self, deadline: Deadline) -> None:
        """Wait for what runs, as far as the deadline allows."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=deadline.remaining())

    async def one(self) -> None:
        """Wait until a task that runs now has ended; returns at once when none runs."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> None:
        """Give up what runs."""
        for task in set(self._tasks):
            task.cancel()
