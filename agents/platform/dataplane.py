"""The data plane: bulk topics consumed in batches, committed only in order.

A room gives the Runner a factory of PartitionWorkers, one for each partition it is
assigned, and never sees the consumer. Offsets are committed over a contiguous prefix of
finished records, and only while the partition is still ours.

The order is always: 1 effect acknowledged, 2 progress acknowledged, 3 offset committed.
The worker does 1 and 2 before it lets `position()` pass a record; the Runner does 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from agents.platform.points import async_point
from agents.platform.retry import Deadline
from schemas.errors import LucidError

log = structlog.get_logger(__name__)

POLL_MS = 200
COMMIT_EVERY = 1.0  # seconds
COMMIT_SECONDS = 5.0
REVOKE_DEADLINE = 5.0  # seconds; well under the broker's rebalance timeout of 5 minutes
STUCK_AFTER = 30.0  # seconds without a turn of the loop: not healthy


class RunnerStuck(LucidError):
    """The loop of a data-plane runner has not turned for too long."""


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

    def position(self) -> int | None:
        """The offset before which every record is finished; None before the first record."""
        return next(iter(self._open), self._next)


class PartitionWorker(Protocol):
    """What a room does with the records of one partition, while the partition is assigned."""

    async def start(self) -> None:
        """Restore what is needed before the first record."""

    async def take(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Accept records in offset order; schedules work and returns soon."""

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
        """Start `work`; its `size` counts as busy until it has ended."""
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

    def cancel(self) -> None:
        """Give up what runs."""
        for task in set(self._tasks):
            task.cancel()


MakeWorker = Callable[[TopicPartition, int | None, Fail], PartitionWorker]


class Runner(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of a consumer group on the data plane.

    busy_limit: bytes in flight over all partitions above which fetching pauses; it resumes
    under half of it. Bytes in flight drain by themselves, so pausing cannot deadlock.
    """

    def __init__(
        self,
        *,
        servers: str,
        group: str,
        topics: Sequence[str],
        make_worker: MakeWorker,
        busy_limit: int,
        fetch_bytes: int,
        consumer_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._topics = list(topics)
        self._make_worker = make_worker
        self._busy_limit = busy_limit
        self._workers: dict[TopicPartition, PartitionWorker] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        # Held while a batch is handed over and while partitions are given away. Not while one
        # is fetched: getmany waits for a rebalance to end, which waits for the listener.
        self._turn = asyncio.Lock()
        self._rebalances = 0
        self._failed: asyncio.Future[None] | None = None
        self._last_turn = time.monotonic()
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=servers,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=fetch_bytes,
            fetch_max_bytes=4 * fetch_bytes,
            fetch_max_wait_ms=100,
            **(consumer_options or {}),
        )

    @property
    def assigned(self) -> list[TopicPartition]:
        """The partitions that have a worker, in order."""
        return sorted(self._workers)

    def busy(self) -> int:
        """Bytes in flight over all partitions."""
        return sum(worker.busy() for worker in self._workers.values())

    async def healthy(self) -> None:
        """Raise RunnerStuck when the loop has not turned for 30 s."""
        idle = time.monotonic() - self._last_turn
        if idle > STUCK_AFTER:
            raise RunnerStuck(f"no records were polled for {idle:.0f} s")

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in flight, commit and leave.

        Raises what a worker failed with.
        """
        self._failed = asyncio.get_running_loop().create_future()
        self._consumer.subscribe(self._topics, listener=self)
        await self._consumer.start()
        try:
            await self._loop(stop)
            async with self._turn:
                await self._release(list(self._workers), REVOKE_DEADLINE)
        finally:
            for worker in self._workers.values():
                await worker.close()
            self._workers.clear()
            if self._failed.done():
                self._failed.exception()
            await self._consumer.stop()

    async def _loop(self, stop: asyncio.Event) -> None:
        assert self._failed is not None
        next_commit = time.monotonic() + COMMIT_EVERY
        while not stop.is_set():
            if self._failed.done():
                self._failed.result()
            batches = await self._consumer.getmany(timeout_ms=POLL_MS)
            rebalances = self._rebalances
            async with self._turn:
                self._last_turn = time.monotonic()
                if rebalances != self._rebalances:
                    continue  # fetched for an assignment that is over; they come again
                for partition, records in batches.items():
                    worker = await self._worker(partition)
                    await worker.take(records)
                self._balance()
                if time.monotonic() >= next_commit:
                    await self._commit(list(self._workers))
                    next_commit = time.monotonic() + COMMIT_EVERY
            # Without this a revoke could starve behind a loop that takes the lock again at once.
            await asyncio.sleep(0)

    async def _worker(self, partition: TopicPartition) -> PartitionWorker:
        worker = self._workers.get(partition)
        if worker is None:
            committed = await self._consumer.committed(partition)
            worker = self._make_worker(partition, committed, self._fail)
            await worker.start()
            self._workers[partition] = worker
            log.info("assigned", topic=partition.topic, partition=partition.partition,
                     committed=committed)  # fmt: skip
        return worker

    def _fail(self, error: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _balance(self) -> None:
        """Pause all partitions above the limit of bytes in flight, resume under half of it."""
        busy = self.busy()
        assigned = self._consumer.assignment()
        if busy > self._busy_limit:
            self._paused = set(assigned)
            self._consumer.pause(*assigned)
        elif self._paused and busy <= self._busy_limit // 2:
            self._consumer.resume(*(self._paused & assigned))
            self._paused = set()

    async def _commit(self, partitions: Sequence[TopicPartition]) -> None:
        await async_point("runner.before-commit")
        offsets = {}
        for partition in partitions:
            position = self._workers[partition].position()
            if position is not None and position != self._committed.get(partition):
                offsets[partition] = position
        if not offsets:
            return
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._consumer.commit(offsets)
        except TimeoutError:
            log.warning("commit got no answer, trying again")
            return
        except (CommitFailedError, IllegalStateError) as error:
            # The group moved on without us; the next owner redoes the work, with equal bytes.
            log.warning("commit refused", error=str(error))
            return
        except KafkaError as error:
            log.warning("commit failed, trying again", error=repr(error))
            return
        await async_point("runner.after-commit")
        self._committed.update(offsets)
        for partition, offset in offsets.items():
            await self._workers[partition].committed(offset)

    async def _release(self, partitions: Sequence[TopicPartition], seconds: float) -> None:
        deadline = Deadline(seconds)
        held = [partition for partition in partitions if partition in self._workers]
        await asyncio.gather(*(self._workers[partition].drain(deadline) for partition in held))
        await self._commit(held)
        for partition in held:
            await self._workers.pop(partition).close()
            self._committed.pop(partition, None)
            self._paused.discard(partition)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Drain, commit and drop the partitions, before the group gives them to others."""
        self._rebalances += 1
        with self._reported():
            async with self._turn:
                await self._release(sorted(revoked), REVOKE_DEADLINE)
        if revoked:
            log.info("revoked", partitions=[f"{p.topic}-{p.partition}" for p in sorted(revoked)])

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Make a worker for each partition that has none yet."""
        with self._reported():
            async with self._turn:
                for partition in sorted(assigned):
                    await self._worker(partition)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """aiokafka logs and forgets what its listeners raise; the loop must hear of it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - handed on to run()
            self._fail(error)
