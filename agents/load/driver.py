"""Sends the records of a plan when they are due, and hears what became of them.

driver = Driver(settings, contract, plan, content, identity, patience=15)
await driver.run(producer, partitions, stop)    every record is confirmed or has failed
driver.settled                                  manifests that storage has announced
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

from agents.load.content import Content
from agents.load.latency import Latencies
from agents.load.schedule import Plan, Step, arrivals, steps
from agents.load.session import REASON, Identity, LoadSession
from agents.platform.clock import wall_clock
from agents.platform.eventbus import EventBus
from agents.platform.listening import Poll, Record
from agents.platform.producer import Header, Producer, Sending
from schemas.canonical import Strict
from schemas.errors import FormatError, LucidError
from schemas.events import ChunkStored, ManifestStored, SessionClosed, SessionEvent, SessionOpened
from schemas.frames import FrameRecord, Kind, to_kafka
from schemas.topics import Contract

LEAD_SECONDS = 0.5  # before the first record, so that it is not late already
LOOK_SECONDS = 0.1
MOST_PROBLEMS = 20


class Driver:
    """One load. All latencies count from the time at which a record was due.

    confirmed: to the broker's acknowledgement. stored: of a chunk, from its last record to the
    event that it is on disk and in the catalog. late: to when the record was handed over here.
    """

    def __init__(
        self, contract: Contract, plan: Plan, content: Content, identity: Identity, *,
        patience: float,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.confirmed, self.stored, self.late = Latencies(), Latencies(), Latencies()
        self.sessions: dict[str, LoadSession] = {}
        self.settled: set[str] = set()
        self.stored_chunks = self.stored_bytes = 0
        self.sent = self.acknowledged = self.sent_bytes = self.acknowledged_bytes = 0
        self.running = self.failed = 0
        self.problems: list[str] = []
        self.broken = self.stopped = False
        self.start = 0.0
        self._topic = contract.topic("session.frames").full_name
        self._contract, self._content, self._identity = contract, content, identity
        self._patience = patience
        self._heard_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._wall = 0.0

    # -- what others look at ----------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Records that are on their way to the broker."""
        return self.sent - self.acknowledged - self.failed

    def stop(self) -> None:
        """End all sessions now, with their `close`."""
        self.stopped = True
        self._stop.set()

    def problem(self, text: str) -> None:
        """Note what went wrong, each once."""
        if text not in self.problems and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)

    # -- sending -----------------------------------------------------------------------------------

    async def run(self, producer: Producer, partitions: int) -> None:
        """Until every record of the plan is confirmed or has failed, or the broker is given up."""
        loop = asyncio.get_running_loop()
        begins = arrivals(self.plan)
        made = [LoadSession(self._identity, partitions, wall_clock()) for _ in begins]
        self.sessions = {one.name: one for one in made}
        events = EventBus(producer, self._contract, service="load", host=self._identity.host,
                          stop=self._stop)  # fmt: skip
        self.start = loop.time() + LEAD_SECONDS
        self._wall = time.time() - loop.time()
        phases = random.Random(f"phases {self.plan.seed}")
        longest = min(1.0, self.plan.duration / 2)
        work = [
            asyncio.create_task(
                self._session(one, producer, events, self.start + begin, phases.uniform(0, longest))
            )
            for one, begin in zip(made, begins, strict=True)
        ]
        await self._guarded(asyncio.gather(*work))
        await self._guarded(self._quiet())

    async def _quiet(self) -> None:
        while self.outstanding or self._tasks:
            await asyncio.sleep(LOOK_SECONDS)

    async def _guarded(self, work: Any) -> None:
        """Wait for work, as long as the broker confirms something now and then."""
        task = asyncio.ensure_future(work)
        while not (await asyncio.wait([task], timeout=LOOK_SECONDS))[0]:
            silent = asyncio.get_running_loop().time() - self._heard_at
            if self.broken or (self.outstanding and silent > self._patience):
                if not self.broken:
                    self.problem(
                        f"the broker confirmed nothing for {silent:.0f} s, "
                        f"{self._heard_at - self.start:.1f} s after the start, while "
                        f"{self.outstanding} records were on their way"
                    )
                self.broken = True
                for one in [task, *self._tasks]:
                    one.cancel()
                await asyncio.gather(task, *self._tasks, return_exceptions=True)
                return
        task.result()

    async def _session(
        self, session: LoadSession, producer: Producer, events: EventBus, begin: float,
        phase: float,
    ) -> None:  # fmt: skip
        await self._until(begin)
        if self._stop.is_set():
            del self.sessions[session.name]
            return
        self.running += 1
        try:
            await self._send(session, producer, Step(0.0, Kind.OPEN, -1), begin)
            self._announce(events, self._opened(session))
            plan = self.plan
            for step in steps(
                self._content.sizes, rate=plan.rate, duration=plan.duration, phase=phase
            ):
                due = begin + step.at
                await self._until(due)
                if self._stop.is_set() and step.kind is not Kind.CLOSE:
                    now = asyncio.get_running_loop().time()
                    await self._send(session, producer, Step(0, Kind.CLOSE, -1), max(now, begin))
                    break
                await self._send(session, producer, step, due)
            self._announce(events, SessionClosed(
                session=session.name, next_seq=session.next_seq, raw_bytes=session.frame_bytes,
                reason=REASON,
            ))  # fmt: skip
        finally:
            self.running -= 1

    async def _until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        while (ahead := due - loop.time()) > 0 and not self._stop.is_set():
            await asyncio.sleep(min(ahead, 0.5))

    async def _send(self, session: LoadSession, producer: Producer, step: Step, due: float) -> None:
        loop = asyncio.get_running_loop()
        payload = self._content.payloads[step.payload] if step.kind is Kind.FRAMES else b""
        record = session.make(step.kind, payload, round((self._wall + due) * 1e6), due)
        if not self.outstanding:
            self._heard_at = loop.time()  # silence counts from here
        self.sent += 1
        self.sent_bytes += len(record.payload)
        self.late.add(loop.time() - due)
        try:
            sending = await self._submit(session, producer, record)
        except LucidError as error:
            self._fail(session, record.seq, error)
            return
        size = len(record.payload)
        sending.future.add_done_callback(
            lambda done: self._took(session, producer, sending, record.seq, due, size)
        )

    async def _submit(
        self, session: LoadSession, producer: Producer, record: FrameRecord
    ) -> Sending:
        key, headers, value = to_kafka(record)
        wide: list[Header] = list(headers)
        return await producer.submit(
            self._topic, value, key=key, headers=wide, partition=session.partition,
            timestamp_ms=record.time // 1000,
        )  # fmt: skip

    def _took(
        self, session: LoadSession, producer: Producer, sending: Sending, seq: int, due: float,
        size: int,
    ) -> None:  # fmt: skip
        if sending.future.cancelled() or sending.future.exception() is not None:
            self._later(self._refused(session, producer, sending, seq))
            return
        now = asyncio.get_running_loop().time()
        self._heard_at = now
        self.acknowledged += 1
        self.acknowledged_bytes += size
        session.acknowledged += 1
        self.confirmed.add(now - due)

    async def _refused(
        self, session: LoadSession, producer: Producer, sending: Sending, seq: int
    ) -> None:
        try:
            await producer.acknowledged(sending)
        except LucidError as error:
            self._fail(session, seq, error)
        except asyncio.CancelledError:
            self._fail(session, seq, LucidError("the connection to the broker was given up"))

    def _fail(self, session: LoadSession, seq: int, error: LucidError) -> None:
        session.failed.append(seq)
        self.failed += 1
        self.problem(f"records were not taken: {error}")

    # -- events ------------------------------------------------------------------------------------

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _announce(self, events: EventBus, data: SessionOpened | SessionClosed) -> None:
        async def emit() -> None:
            try:
                await events.emit(data, data.session)
            except LucidError as error:
                self.problem(f"an event was not taken: {error}")

        self._later(emit())

    def _opened(self, session: LoadSession) -> SessionOpened:
        opened = session.open_payload
        return SessionOpened(
            session=session.name, partition=session.partition, offset=0, host=opened.host,
            recorder=opened.recorder, codec=opened.codec, source=opened.source,
            owner=opened.owner, project=opened.project,
            started=round((self._wall + session.intended[0]) * 1e6),
        )  # fmt: skip

    async def hear(self, poll: Poll) -> None:
        """Take in what storage says of this load's chunks, until cancelled."""
        while True:
            try:
                records = await poll(LOOK_SECONDS)
            except LucidError as error:
                self.problem(f"events of storage could not be read: {error}")
                await asyncio.sleep(1.0)
                continue
            now = asyncio.get_running_loop().time()
            for record in records:
                self._hear(record, now)

    def _hear(self, record: Record, now: float) -> None:
        session = self.sessions.get((record.key or b"").decode("utf-8", "replace"))
        if session is None:
            return
        try:
            data: Strict = SessionEvent.from_kafka(record.key, record.headers, record.value).data
        except FormatError:
            return  # whose it is will report it
        if isinstance(data, ChunkStored) and 0 < data.next_seq <= session.sent:
            self.stored.add(now - session.intended[data.next_seq - 1])
            self.stored_chunks += 1
            self.stored_bytes += data.raw_size
        elif isinstance(data, ManifestStored):
            self.settled.add(session.name)
