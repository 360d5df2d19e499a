"""Offsets over a contiguous prefix, and runners that share partitions on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from agents.platform.broker import administering
from agents.platform.dataplane import (
    STOP_RESERVE,
    Fail,
    OffsetTracker,
    Runner,
    RunnerStuck,
    Tasks,
)
from agents.platform.expiry import Expired, where_to_start
from agents.platform.group_consumer import Gate
from agents.platform.metrics import Metrics
from agents.platform.partition import TASK_OVERHEAD
from agents.platform.producer import Producer
from agents.platform.retry import Deadline
from agents.platform.service import STOP_WITHIN, StopSignal
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from tests.conftest import Stack
from tests.platform.topics import create_topic, expire
from tests.waiting import until

PARTITIONS = 4


@given(st.sets(st.integers(0, 60), min_size=1), st.randoms(use_true_random=False))
def test_a_position_never_passes_what_is_not_finished(offsets: set[int], order: Any) -> None:
    tracker = OffsetTracker()
    assert tracker.position() is None
    waiting = sorted(offsets)
    for offset in waiting:
        tracker.add(offset)
    finishing = list(waiting)
    order.shuffle(finishing)
    for done in finishing:
        tracker.done(done)
        waiting.remove(done)
        assert tracker.position() == (waiting[0] if waiting else max(offsets) + 1)


def test_an_offset_is_added_once_and_in_order() -> None:
    tracker = OffsetTracker()
    tracker.skip(5)
    assert tracker.position() == 6
    with pytest.raises(ValueError, match="offset 5"):
        tracker.add(5)


class Collecting:
    """A worker whose records are finished when the test opens the gate."""

    def __init__(self, partition: TopicPartition, log: Log, fail: Fail) -> None:
        self.partition, self.log = partition, log
        self.tracker, self.tasks = OffsetTracker(), Tasks(fail)

    async def start(self) -> None:
        self.log.started.append(self.partition.partition)

    def expected(self) -> int | None:
        return self.log.expected

    async def expired(self, lost: Expired) -> None:
        self.log.lost.append((lost.partition, lost.first, lost.next_offset))
        self.tracker.jump(lost.next_offset)

    async def take(self, records: Sequence[Any]) -> None:
        for record in records:
            self.tracker.add(record.offset)
            self.tasks.spawn(self._finish(record), len(record.value))

    async def _finish(self, record: Any) -> None:
        await self.log.gate.wait()
        if record.value == b"poison":
            raise RuntimeError("a bug")
        self.log.done.append((record.partition, record.offset))
        self.tracker.done(record.offset)

    def position(self) -> int | None:
        return self.tracker.position()

    def busy(self) -> int:
        return self.tasks.busy

    async def committed(self, offset: int) -> None:
        self.log.commits.append((self.partition.partition, offset))

    async def drain(self, deadline: Deadline) -> None:
        await self.tasks.drain(deadline)

    async def close(self) -> None:
        self.tasks.cancel()
        self.log.closed.append(self.partition.partition)


class Log:
    """What the workers of one runner did."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.started: list[int] = []
        self.closed: list[int] = []
        self.done: list[tuple[int, int]] = []
        self.commits: list[tuple[int, int]] = []
        self.lost: list[tuple[int, int, int]] = []
        self.expected: int | None = None


async def remake(group: Group) -> None:
    """Another topic under the same name."""
    async with administering(group.settings) as admin:
        await admin.delete_topics([group.topic])
        async with asyncio.timeout(20):
            while group.topic in await admin.list_topics():
                await asyncio.sleep(0.05)
    await create_topic(group.settings, group.topic, PARTITIONS)


class Group:
    """A topic of its own, and runners of one consumer group on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topic = f"dataplane-{uuid4().hex[:8]}"
        self.running: list[tuple[StopSignal, asyncio.Task[None]]] = []

    def runner(
        self,
        log: Log,
        busy_limit: int = 10**6,
        gate: Gate | None = None,
        within: float = STOP_WITHIN,
        **options: Any,
    ) -> tuple[Runner, asyncio.Task[None]]:
        self.metrics = Metrics("test", version="0")
        runner = Runner(
            metrics=self.metrics,
            kafka=kafka_options(self.settings), group=self.topic, topics=[self.topic],
            make_worker=lambda partition, _, fail: Collecting(partition, log, fail),
            busy_limit=busy_limit, fetch_bytes=65536, gate=gate,
            consumer_options={"heartbeat_interval_ms": 300, **options},
        )  # fmt: skip
        stop = StopSignal(within)
        task = asyncio.create_task(runner.run(stop))
        self.running.append((stop, task))
        return runner, task

    async def stop(self, which: int = -1) -> None:
        stop, task = self.running.pop(which)
        stop.set()
        async with asyncio.timeout(15):
            await task

    async def send(self, count: int, value: bytes = b"x") -> None:
        """`count` records on each partition."""
        async with Producer(self.settings, {self.topic: 10**6}) as producer:
            for number in range(count * PARTITIONS):
                await producer.send(self.topic, value, partition=number % PARTITIONS)


@pytest.fixture
async def group(stack: Stack, tmp_path: Path) -> AsyncIterator[Group]:
    found = Group(Settings.load(home=tmp_path, kafka=stack.kafka))
    await create_topic(found.settings, found.topic, PARTITIONS)
    yield found
    for _, task in found.running:
        task.cancel()
    await asyncio.gather(*(task for _, task in found.running), return_exceptions=True)


async def test_two_runners_share_the_partitions_and_lose_nothing(group: Group) -> None:
    first, second = Log(), Log()
    one, _ = group.runner(first)
    await group.send(5)
    await until(lambda: len(first.done) == 5 * PARTITIONS)
    two, _ = group.runner(second)
    await until(lambda: len(one.assigned) == len(two.assigned) == PARTITIONS // 2)
    assert {*one.assigned, *two.assigned} == {
        TopicPartition(group.topic, number) for number in range(PARTITIONS)
    }
    await group.send(5)
    await until(lambda: len({*first.done, *second.done}) == 10 * PARTITIONS)
    await group.stop(0)
    await until(lambda: len(two.assigned) == PARTITIONS)
    await group.send(5)
    await until(lambda: len({*first.done, *second.done}) == 15 * PARTITIONS)
    assert len(first.done) + len(second.done) == 15 * PARTITIONS, "a commit came too late"
    await two.healthy()


async def test_work_that_does_not_end_leaves_time_for_the_commit(group: Group) -> None:
    log = Log()
    log.gate.clear()
    runner, task = group.runner(log, within=STOP_RESERVE + 0.2)
    stop = group.running[-1][0]
    await group.send(1)
    await until(lambda: runner.busy() > PARTITIONS * TASK_OVERHEAD)
    stop.set()
    await asyncio.wait([task], timeout=15)
    assert task.done()
    assert stop.deadline.remaining() > STOP_RESERVE / 2
    assert log.done == []


async def test_what_was_not_finished_comes_again_to_the_next_owner(group: Group) -> None:
    first, second = Log(), Log()
    first.gate.clear()
    _, task = group.runner(first)
    await group.send(3)
    await until(lambda: len(first.started) == PARTITIONS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    group.running.clear()
    assert (first.done, first.commits) == ([], [])
    group.runner(second)
    await until(lambda: len(second.done) == 3 * PARTITIONS)
    await group.stop()
    assert sorted(second.commits)[-1] == (PARTITIONS - 1, 3)
    assert sorted(second.closed) == list(range(PARTITIONS))


async def test_fetching_pauses_above_the_limit_and_goes_on_below(group: Group) -> None:
    log = Log()
    log.gate.clear()
    runner, _ = group.runner(log, busy_limit=20_000)
    await group.send(20, bytes(10_000))
    await until(lambda: runner.busy() > 20_000)
    held = runner.busy()
    await until(lambda: runner._valve.paused)
    assert held < 20 * PARTITIONS * 10_000
    log.gate.set()
    await until(lambda: len(log.done) == 20 * PARTITIONS)
    await until(lambda: not runner._valve.paused)


async def test_a_closed_gate_holds_the_member_up_and_in_its_group(group: Group) -> None:
    log, other, asked, is_open = Log(), Log(), [0], [False]

    async def gate(busy: int) -> bool:
        asked[0] += 1
        return is_open[0]

    runner, _ = group.runner(log, gate=gate, session_timeout_ms=6000, max_poll_interval_ms=1000)
    await group.send(5)
    await until(lambda: len(runner.assigned) == PARTITIONS)
    begin = time.monotonic()
    # Over the poll interval: a member that was not heard of would have lost its partitions.
    await until(lambda: time.monotonic() - begin > 2 and asked[0] > 5)
    assert (log.done, runner.busy(), log.closed) == ([], 0, [])
    assert len(runner.assigned) == PARTITIONS
    await runner.healthy()
    # What a rebalance brings is held up, too.
    group.runner(other, gate=gate)
    await until(lambda: len(runner.assigned) == PARTITIONS // 2 and other.started)
    turns = asked[0]
    await until(lambda: asked[0] > turns + 6)
    assert log.done + other.done == []
    is_open[0] = True
    await until(lambda: len({*log.done, *other.done}) == 5 * PARTITIONS)
    is_open[0] = False
    turns = asked[0]
    await until(lambda: asked[0] > turns + 2)
    await group.send(1)
    turns = asked[0]
    await until(lambda: asked[0] > turns + 6)
    assert len(log.done) + len(other.done) == 5 * PARTITIONS
    is_open[0] = True
    await until(lambda: len({*log.done, *other.done}) == 6 * PARTITIONS)


async def test_small_records_are_bounded_by_what_they_take_not_by_what_they_hold(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.platform.dataplane.MAX_RECORDS", 10)
    log = Log()
    log.gate.clear()
    runner, _ = group.runner(log, busy_limit=20 * TASK_OVERHEAD)
    await group.send(50, b"x")
    await until(lambda: runner._valve.paused)
    assert 20 * TASK_OVERHEAD < runner.busy() <= 30 * (TASK_OVERHEAD + 1)
    log.gate.set()
    await until(lambda: len(log.done) == 50 * PARTITIONS)
    assert len(set(log.done)) == 50 * PARTITIONS, "what was dropped while paused comes once"


async def test_a_bug_in_a_worker_ends_the_runner_and_commits_nothing_of_it(group: Group) -> None:
    log = Log()
    _, task = group.runner(log)
    await group.send(1, b"poison")
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(task, 30)
    assert [commit for commit in log.commits if commit[1] > 0] == []


async def test_a_loop_that_does_not_turn_is_not_healthy(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = group.runner(Log())
    await runner.healthy()
    monkeypatch.setattr("agents.platform.dataplane.STUCK_AFTER", -1.0)
    with pytest.raises(RunnerStuck, match="no records were polled"):
        await runner.healthy()


@pytest.mark.parametrize(
    ("committed", "expected", "begin", "start", "lost"),
    [
        (None, None, 0, 0, None),
        (None, None, 7, 7, None),
        (None, 3, 7, 7, (3, 7)),
        (None, 9, 7, 7, None),
        (5, None, 5, 5, None),
        (5, 2, 5, 5, None),
        (5, 2, 7, 7, (5, 7)),
        (12, None, 5, 12, None),
        (13, None, 5, 5, None),
    ],
)
def test_where_a_partition_is_taken_up_and_what_is_lost_there(
    committed: int | None, expected: int | None, begin: int, start: int,
    lost: tuple[int, int] | None,
) -> None:  # fmt: skip
    assert where_to_start(committed, expected, begin, end=12) == (start, lost)


async def test_what_expired_while_nobody_read_is_reported_once_and_then_passed(
    group: Group,
) -> None:
    first, second, third = Log(), Log(), Log()
    group.runner(first)
    await group.send(3)
    await until(lambda: len(first.done) == 3 * PARTITIONS)
    await group.stop()
    assert first.lost == []
    await group.send(3)
    await expire(group.settings, group.topic, 1, 5)
    group.runner(second)
    await until(lambda: len(second.done) == 3 * PARTITIONS - 2)
    assert second.lost == [(1, 3, 5)]
    lines = group.metrics.exposition().decode()
    place = f'partition="1",service="test",topic="{group.topic}"'
    assert f"lucid_offsets_expired_total{{{place}}} 2.0" in lines
    assert f"lucid_overtaken_offsets{{{place}}} 2.0" in lines
    assert f"lucid_read_position{{{place}}} 6.0" in lines
    await group.stop()
    await expire(group.settings, group.topic, 1, 6)
    group.runner(third)
    await until(lambda: len(third.started) == PARTITIONS)
    await group.send(1)
    await until(lambda: len(third.done) == PARTITIONS)
    assert third.lost == []


async def test_all_of_a_partition_expired_is_reported_without_any_further_record(
    group: Group,
) -> None:
    first, second = Log(), Log()
    first.gate.clear()
    _, task = group.runner(first)
    await group.send(2)
    await until(lambda: len(first.started) == PARTITIONS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    group.running.clear()
    await expire(group.settings, group.topic, 2, 2)
    second.expected = 1
    group.runner(second)
    await until(lambda: second.lost)
    assert second.lost == [(2, 1, 2)]
    await until(lambda: (2, 2) in second.commits)


async def test_retention_that_overtakes_a_running_consumer_is_reported(group: Group) -> None:
    log = Log()
    log.gate.clear()
    runner, _ = group.runner(log, busy_limit=20_000)
    await group.send(20, bytes(10_000))
    await until(lambda: runner._valve.paused and runner.busy() > 20_000)
    position = runner._next[TopicPartition(group.topic, 0)]
    assert position < 19
    await expire(group.settings, group.topic, 0, 19)
    log.gate.set()
    await until(lambda: (0, 19) in log.done)
    [(partition, lost_from, lost_to)] = log.lost
    # What had been fetched before is not lost.
    assert (partition, lost_to) == (0, 19)
    assert position <= lost_from
    taken = {offset for number, offset in log.done if number == 0}
    assert taken == {*range(lost_from), 19}


async def test_a_topic_that_is_made_anew_under_a_running_consumer_is_read_from_its_beginning(
    group: Group,
) -> None:
    log = Log()
    runner, _ = group.runner(log)
    await group.send(3)
    await until(lambda: len(log.done) == 3 * PARTITIONS)
    log.done.clear()
    await remake(group)
    await group.send(1)
    await until(lambda: sorted(log.done) == [(number, 0) for number in range(PARTITIONS)])
    assert log.lost == []
    await runner.healthy()
