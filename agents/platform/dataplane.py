"""The data plane: bulk topics consumed in batches, committed only in order.

A room gives the Runner a factory of PartitionWorkers, one for each partition it is
assigned, and never sees the consumer. Offsets are committed over a contiguous prefix of
finished records, and only while the partition is still ours.

The order is always: 1 effect acknowledged, 2 progress acknowledged, 3 offset committed.
The worker does 1 and 2 before it lets `position()` pass a record; offset_commits.py does 3.

A broker that goes away, restarts, or forgets the group costs time only: partitions are
taken up in the background until the broker answers, and a consumer that is beyond help is
replaced. Records that expired before they were read are reported (agents/platform/expiry.py)
and only then passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from agents.platform.deadletters import arrived
from agents.platform.expiry import ANSWER_SECONDS, Expired, bounds, where_to_start
from agents.platform.group_consumer import Gate, Valve, group_options, leave_group
from agents.platform.metrics import Metrics
from agents.platform.offset_commits import OffsetCommits
from agents.platform.partition import Fail, OffsetTracker, PartitionWorker, Tasks
from agents.platform.retry import (
    Backoff,
    BrokerUnreachable,
    Deadline,
    Transient,
    retry,
    wait_stopped,
)
from agents.platform.service import StopSignal
from schemas.errors import LucidError

__all__ = ["Fail", "OffsetTracker", "PartitionWorker", "Runner", "RunnerStuck", "Tasks"]

log = structlog.get_logger(__name__)

POLL_MS = 200
COMMIT_EVERY = 1.0  # seconds
STOP_RESERVE = 5.0  # seconds of a stop that the last commit and leaving the group get
REVOKE_DEADLINE = 5.0  # seconds; well under the broker's rebalance timeout of 5 minutes
MAX_RECORDS = 1000  # of one turn: small ones take more for their objects than for their bytes
STUCK_AFTER = 30.0  # seconds without a turn of the loop: not healthy
LOG_START_EVERY = 15.0  # seconds between looks at where the broker's logs begin


class RunnerStuck(LucidError):
    """The loop of a data-plane runner has not turned for too long."""


MakeWorker = Callable[[TopicPartition, int | None, Fail], PartitionWorker]


class Runner(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of a consumer group on the data plane.

    busy_limit: bytes in flight over all partitions above which fetching pauses; it resumes
    under half of it. Bytes in flight drain by themselves, so pausing cannot deadlock.
    gate: asked each turn; all partitions are paused while it says no. The member stays in its
    group, and what is in flight goes on.
    """

    def __init__(
        self,
        *,
        kafka: Mapping[str, Any],
        group: str,
        topics: Sequence[str],
        make_worker: MakeWorker,
        busy_limit: int,
        fetch_bytes: int,
        metrics: Metrics | None = None,
        gate: Gate | None = None,
        consumer_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._topics = list(topics)
        self._make_worker = make_worker
        self._metrics = metrics
        self._valve = Valve(busy_limit, gate)
        self._workers: dict[TopicPartition, PartitionWorker] = {}
        self._starting: dict[TopicPartition, asyncio.Task[None]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._commits = OffsetCommits(metrics)
        # Held while a batch is handed over and while partitions are given away. Not while one
        # is fetched: getmany waits for a rebalance to end, which waits for the listener.
        self._turn = asyncio.Lock()
        self._rebalances = 0
        self._failed: asyncio.Future[None] | None = None
        self._last_turn = time.monotonic()
        self._options = {**group_options(kafka, group, fetch_bytes), **(consumer_options or {})}
        self._consumer = AIOKafkaConsumer(**self._options)

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

    async def run(self, stop: StopSignal, /) -> None:
        """Work until `stop` is set, then finish what is in flight, commit and leave.

        Raises what a worker failed with.
        """
        self._failed = asyncio.get_running_loop().create_future()
        pauses = Backoff(most=5.0)
        try:
            while not stop.is_set():
                try:
                    await self._consume(stop)
                except (KafkaError, BrokerUnreachable) as error:
                    if self._failed.done():
                        self._failed.result()
                    log.warning("the consumer failed, making a new one", error=repr(error))
                    await wait_stopped(stop, pauses.next())
                    self._consumer = AIOKafkaConsumer(**self._options)
        finally:
            if self._failed.done():
                self._failed.exception()

    async def _consume(self, stop: StopSignal) -> None:
        """The life of one consumer."""
        self._consumer.subscribe(self._topics, listener=self)
        looking = asyncio.create_task(self._look_at_log_starts())
        try:
            await self._consumer.start()
            await self._loop(stop)
            error = self._failed.exception() if self._failed and self._failed.done() else None
            if error is None or isinstance(error, LucidError):
                # What is in flight beside the failure ends well, such as the letters before it.
                async with self._turn:
                    seconds = stop.deadline.remaining() - STOP_RESERVE
                    await self._release(list(self._workers), min(seconds, REVOKE_DEADLINE))
            if error is not None:
                raise error
        finally:
            looking.cancel()
            await self._cancel_starting()
            for worker in self._workers.values():
                await worker.close()
            for known in (self._workers, self._next, self._valve.paused):
                known.clear()
            self._commits.clear()
            await leave_group(self._consumer)

    async def _loop(self, stop: asyncio.Event) -> None:
        assert self._failed is not None
        stopped = asyncio.create_task(stop.wait())
        next_commit = time.monotonic() + COMMIT_EVERY
        try:
            while not stop.is_set():
                polling = asyncio.create_task(self._poll())
                # A poll waits for a rebalance, which takes for ever while the broker is away.
                waiting: list[asyncio.Future[Any]] = [polling, stopped, self._failed]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if self._failed.done() or not polling.done():
                    polling.cancel()
                    await asyncio.wait([polling])
                    break
                async with self._turn:
                    self._last_turn = time.monotonic()
                    await self._take(*polling.result())
                    if time.monotonic() >= next_commit:
                        await self._commits.commit(self._consumer, self._workers)
                        next_commit = time.monotonic() + COMMIT_EVERY
                # Without this a revoke could starve behind a loop that takes the lock at once.
                await asyncio.sleep(0)
        finally:
            stopped.cancel()

    async def _poll(self) -> tuple[int, dict[TopicPartition, Any], KafkaError | None]:
        """Records, or what keeps a partition from them, and the assignment they belong to."""
        try:
            batches = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_RECORDS)
        except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
            return self._rebalances, {}, error
        return self._rebalances, batches, None

    async def _take(
        self, rebalances: int, batches: dict[TopicPartition, Any], error: KafkaError | None
    ) -> None:
        if rebalances != self._rebalances:
            return  # fetched for an assignment that is over; they come again
        if error is not None:
            await self._out_of_range(error)
        for partition, records in batches.items():
            worker = self._workers.get(partition)
            if worker is None:
                raise IllegalStateError(f"records of {partition}, which nobody works on")
            if records[0].offset > self._next[partition]:
                await self._explain_gap(partition, records[0].offset)
            await worker.take([arrived(record) for record in records])
            self._passed(partition, records[-1].offset + 1)
        await self._valve.balance(self._consumer, self._workers)

    def _passed(self, partition: TopicPartition, offset: int) -> None:
        """Everything before `offset` was taken, or is known not to be there."""
        self._next[partition] = offset
        if self._metrics is not None:
            self._metrics.read(partition.topic, partition.partition, offset)

    # -- taking partitions up --------------------------------------------------------------

    async def _start(self, partition: TopicPartition) -> None:
        """Take a partition up, however long the broker does not answer."""

        def note(error: Transient, pause: float) -> None:
            log.warning("cannot take a partition up yet", topic=partition.topic,
                        partition=partition.partition, error=str(error))  # fmt: skip

        try:
            await retry(lambda: self._begin(partition), backoff=Backoff(most=5.0), on_retry=note)
        except Exception as error:  # noqa: BLE001 - handed on to run()
            self._fail(error)

    async def _begin(self, partition: TopicPartition) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                committed = await self._consumer.committed(partition)
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnreachable(
                f"the broker does not say what is committed: {error!r}"
            ) from error
        begin, end = await bounds(self._consumer, partition)
        if committed is not None and committed > end:
            log.error("the log ends before the committed offset, reading all of it",
                      topic=partition.topic, partition=partition.partition,
                      committed=committed, end=end)  # fmt: skip
            committed = None
        worker = self._make_worker(partition, committed, self._fail)
        try:
            await worker.start()
            start, lost = where_to_start(committed, worker.expected(), begin, end)
            if lost is not None:
                await self._report(worker, Expired(partition.topic, partition.partition, *lost))
            is_open = await self._valve.is_open(self.busy())
        except BaseException:
            await worker.close()
            raise
        if partition not in self._consumer.assignment():
            await worker.close()
            return
        self._consumer.seek(partition, start)
        if is_open and not self._valve.paused:
            self._consumer.resume(partition)
        else:
            self._valve.paused.add(partition)
        self._workers[partition] = worker
        self._passed(partition, start)
        log.info("assigned", topic=partition.topic, partition=partition.partition,
                 committed=committed, start=start)  # fmt: skip

    async def _cancel_starting(self) -> None:
        tasks = list(self._starting.values())
        self._starting.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fail(self, error: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    # -- what expired ----------------------------------------------------------------------

    async def _report(self, worker: PartitionWorker, lost: Expired) -> None:
        log.error("records expired before they were read", topic=lost.topic,
                  partition=lost.partition, first=lost.first, next=lost.next_offset)  # fmt: skip
        if self._metrics is not None:
            self._metrics.expired(lost.topic, lost.partition, lost.count)
        await worker.expired(lost)

    async def _out_of_range(self, error: KafkaError) -> None:
        """The broker does not have a partition's next record: find out what became of it."""
        named = error.args[0] if error.args else ()
        places: list[TopicPartition] = list(named) if isinstance(named, dict) else [named]
        for partition in places:
            worker = self._workers.get(partition)
            if worker is None:
                continue
            begin, end = await bounds(self._consumer, partition)
            position = self._next[partition]
            if position > end:
                # Another log under the same name: what the worker knows is of no use there.
                raise error
            if position < begin:
                await self._report(
                    worker, Expired(partition.topic, partition.partition, position, begin)
                )
                self._passed(partition, begin)
                self._consumer.seek(partition, begin)

    async def _explain_gap(self, partition: TopicPartition, offset: int) -> None:
        """Compaction leaves gaps that mean nothing; what begins behind a gap tells of a loss."""
        position = self._next[partition]
        begin = min(offset, (await bounds(self._consumer, partition))[0])
        if begin > position:
            lost = Expired(partition.topic, partition.partition, position, begin)
            await self._report(self._workers[partition], lost)

    async def _look_at_log_starts(self) -> None:
        """Show where the logs begin, before they begin past what is finished."""
        while self._metrics is not None:
            await asyncio.sleep(LOG_START_EVERY)
            places = list(self._workers)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    begins = await self._consumer.beginning_offsets(places) if places else {}
            except (KafkaError, TimeoutError):
                continue
            for partition, begin in begins.items():
                if partition in self._workers:
                    position = self._workers[partition].position()
                    finished = self._next[partition] if position is None else position
                    self._metrics.log_start(partition.topic, partition.partition, begin, finished)

    # -- giving partitions up --------------------------------------------------------------

    async def _release(self, partitions: Sequence[TopicPartition], seconds: float) -> None:
        deadline = Deadline(seconds)
        held = {
            partition: self._workers[partition]
            for partition in partitions if partition in self._workers
        }  # fmt: skip
        await asyncio.gather(*(worker.drain(deadline) for worker in held.values()))
        await self._commits.commit(self._consumer, held)
        for partition in held:
            await self._workers.pop(partition).close()
            self._commits.forget(partition)
            self._valve.paused.discard(partition)
            if self._metrics is not None:
                self._metrics.revoked(*partition)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Drain, commit and drop the partitions, before the group gives them to others."""
        self._rebalances += 1
        with self._reported():
            await self._cancel_starting()
            async with self._turn:
                await self._release(sorted(revoked), REVOKE_DEADLINE)
        if revoked:
            log.info("revoked", partitions=[f"{p.topic}-{p.partition}" for p in sorted(revoked)])

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Take each partition up, in the background: no heartbeat is sent while this runs."""
        with self._reported():
            for partition in sorted(assigned):
                # Paused, so nothing is fetched from there before it is known where to start.
                self._consumer.pause(partition)
                self._consumer.seek(partition, 0)
                self._starting[partition] = asyncio.create_task(self._start(partition))

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """aiokafka logs and forgets what its listeners raise; the loop must hear of it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - handed on to run()
            self._fail(error)
