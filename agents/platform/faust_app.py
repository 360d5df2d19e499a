"""Faust, with its commit decisions replaced by ours.

    app = create_app(settings, "storage", positions)

Faust 0.15.3 decides what to commit from a list of acked offsets, and passes unfinished
records in several ways (a gap at the head, a gap in the offsets, no earlier commit). Here
its consumer asks `positions` instead, for each partition it owns, and what Faust's own
bookkeeping says is not looked at. It runs in the caller's loop, without Faust's Worker:
no signal handlers, no web server, no logging set-up.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol

import faust
import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP
from mode.services import WaitResults
from mode.supervisors import CrashingSupervisor
from mode.threads import WorkerThread
from yarl import URL

from agents.platform.group_consumer import METADATA_MS, leave_group
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options

log = structlog.get_logger(__name__)

FETCH_BYTES = 8 * 1024**2
BUFFERED_EVENTS = 32
SESSION_SECONDS = 15.0  # after which the partitions of a killed member go to others
CANCEL_SECONDS = 0.5  # for what was cancelled to end; what swallows it is left behind


class Positions(Protocol):
    """Who knows what is finished, and wants to hear of assignments."""

    def owned(self) -> Iterable[TP]:
        """The partitions that something may be committed for."""

    def position(self, tp: TP) -> int | None:
        """The offset before which every record is finished; None: nothing to commit."""

    async def revoking(self, revoked: set[TP]) -> None:
        """Finish what runs, soon; afterwards positions are committed a last time."""

    def revoked(self, revoked: set[TP]) -> None:
        """The partitions are gone."""

    def committed(self, offsets: Mapping[TP, int]) -> None:
        """The broker holds these positions."""


class LeavableThread(WorkerThread):
    """A thread that the process does not wait for at its end."""

    def __init__(self, service: Any, **options: Any) -> None:
        super().__init__(service, **options)
        self.daemon = True


class PatientThread(AIOKafkaConsumerThread):
    """A commit that fails is tried again by the next one, where Faust's would crash.

    It ends in bounded time without a broker, where Faust's dies of what aiokafka raises then,
    says so to nobody, or waits for an answer; app.stop() waits for it.
    """

    Worker = LeavableThread

    async def on_thread_stop(self) -> None:
        """Drop what is asked of the thread, and leave the group if the broker lets us."""
        stopping = asyncio.create_task(self._stop_calls())
        await asyncio.wait([stopping], timeout=CANCEL_SECONDS)
        if self._consumer is not None:
            await leave_group(self._consumer)

    async def _stop_calls(self) -> None:
        queue = self.method_queue
        # Faust would make each of these calls now, one after the other, however long it takes.
        while not queue._queue.empty():
            promise = queue._queue.get_nowait().promise
            promise._loop.call_soon_threadsafe(promise.cancel)
        await queue.stop()

    async def _gather_remaining_tasks(self) -> None:
        """Faust would wait for ever for a task that swallows its cancellation."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        wanted = {
            TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()
        }
        try:
            await self._ensure_consumer().commit(wanted)
        except (CommitFailedError, IllegalStateError) as error:
            # The group moved on without us; the next owner does the work again.
            log.warning("commit refused", error=error)
            return False
        except KafkaError as error:
            log.warning("commit failed, trying again", error=error)
            return False
        return True


@types.coroutine
def _go_on(coroutine: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that has begun, and waits."""
    while True:
        try:
            result = yield waits_for
        except BaseException as error:  # noqa: BLE001 - thrown into the coroutine
            step, given = coroutine.throw, error
        else:
            step, given = coroutine.send, result
        try:
            waits_for = step(given)
        except StopIteration as end:
            return end.value


async def _rest(coroutine: Any, waits_for: Any) -> Any:
    return await _go_on(coroutine, waits_for)


class InOrderConsumer(Consumer):
    """Commits what `app.positions` says, and nothing else."""

    app: ControlApp

    def __init__(self, *args: Any, **options: Any) -> None:
        # Faust notes a commit as done when it failed, so what is on the broker is noted here.
        self._on_broker: dict[TP, int] = {}
        super().__init__(*args, **options)

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:
        """Faust asks this for each record: hand it over, unless the flow is suspended meanwhile.

        Its own makes four tasks for that, in half of the time that a record takes altogether.
        What is done at once needs none.
        """
        first, *others = coros
        if timeout is not None or not all(map(inspect.iscoroutine, coros)):
            return await super().wait_first(*coros, timeout=timeout)
        try:
            waits_for = first.send(None)
        except BaseException as end:
            for one in others:
                one.close()
            if not isinstance(end, StopIteration):
                raise
            return WaitResults([first], [end.value], stopped=False)
        return await super().wait_first(_rest(first, waits_for), *others)

    async def commit_last(self) -> None:
        """Commit what is finished, also since the commit began that may run now.

        Unlike Faust's `commit` this may be cancelled while it waits for another one.
        """
        if self._commit_fut is not None:
            await asyncio.wait([self._commit_fut])
        await self.commit()

    async def on_stop(self) -> None:
        """The plane has asked for the last commit; Faust would wait for another one for ever."""

    def _new_consumer_thread(self) -> PatientThread:
        return PatientThread(self, loop=self.loop, beacon=self.beacon)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for tp in self.app.positions.owned():
            if topics is None or tp in topics or tp.topic in topics:
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return self.app.positions.position(tp)

    def _should_commit(self, tp: TP, offset: int) -> bool:
        return self._on_broker.get(tp) != offset

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Faust would count the record after a gap as finished."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust would log an error for each partition that is idle for 5 minutes."""

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        done = bool(await super()._commit(offsets))
        if done:
            self._on_broker.update(offsets)
            self.app.positions.committed(offsets)
        return done

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """The last commit comes before Faust forgets the partitions, which it does first."""
        if revoked and not self.app.should_stop:
            await self.app.positions.revoking(revoked)
            await self.commit()
        self.app.positions.revoked(revoked)
        for tp in revoked:
            self._on_broker.pop(tp, None)
        await super().on_partitions_revoked(revoked)


class InOrderTransport(Transport):
    Consumer = InOrderConsumer


class ControlApp(faust.App):
    """A Faust app that runs inside a service."""

    positions: Positions

    def _new_transport(self) -> InOrderTransport:
        return InOrderTransport(self.conf.broker_consumer, self)

    async def last_commit(self) -> None:
        """Commit what is finished; InOrderConsumer.commit_last."""
        consumer = self.consumer
        assert isinstance(consumer, InOrderConsumer)
        await consumer.commit_last()

    @property
    def generation(self) -> int:
        """The generation of the consumer group that this member works in."""
        return int(self.consumer_generation_id)


def credentials(settings: Settings) -> SSLCredentials | SASLCredentials | None:
    """`kafka_options` as Faust takes them; None without TLS and SASL."""
    options = kafka_options(settings)
    context = options.get("ssl_context")
    if "sasl_mechanism" in options:
        return SASLCredentials(
            username=options["sasl_plain_username"], password=options["sasl_plain_password"],
            ssl_context=context, mechanism=options["sasl_mechanism"],
        )  # fmt: skip
    return None if context is None else SSLCredentials(context)


def create_app(settings: Settings, group: str, positions: Positions) -> ControlApp:
    """An app of consumer group `group`, not started.

    The reasons for these settings are measurements: docs/decisions.md, "Faust".
    """
    data = settings.home / "faust" / group
    data.mkdir(parents=True, exist_ok=True)
    app = ControlApp(
        group,
        broker=[URL(f"kafka://{server}") for server in settings.kafka_servers().split(",")],
        broker_credentials=credentials(settings),
        datadir=data,
        autodiscover=False,
        web_enabled=False,
        store="memory://",
        stream_wait_empty=False,
        stream_buffer_maxsize=BUFFERED_EVENTS,
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_MS,
        broker_commit_interval=1.0,
        broker_session_timeout=SESSION_SECONDS,
        broker_heartbeat_interval=SESSION_SECONDS / 5,
        broker_request_timeout=30.0,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        agent_supervisor=CrashingSupervisor,
        producer_request_timeout=30.0,
    )
    app.positions = positions
    return app
