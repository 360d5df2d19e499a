"""Events that go out in the order in which they were put, beside the work that makes them.

    emitter = Emitter(producer, contract, "xrdp.process.events")
    emitter.put(event)                  at once, whether a broker answers or not
    yield [emitter, …]                  a part of a service: sends them

For a room whose work must go on while no broker answers, and that tells its whole state anew
when it starts: what a killed service had not sent is told then.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from agents.platform.contract import Contract
from agents.platform.producer import Producer
from agents.platform.retry import Backoff, Transient, retry
from agents.platform.service import StopSignal
from schemas.envelope import Event

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 2.0
LATEST = 10_000  # events that wait; beyond them the oldest are dropped


class Emitter:
    """Sends events of one topic, each once its predecessor is acknowledged."""

    def __init__(self, producer: Producer, contract: Contract, topic: str) -> None:
        self.name = f"events to {topic}"
        self._producer = producer
        self._topic = contract.topic(topic).full_name
        self._waiting: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Send an event after all that were put before."""
        if self._waiting.qsize() >= LATEST:
            dropped = self._waiting.get_nowait()
            log.error("an event was dropped, too many wait", subject=dropped.subject)
        self._waiting.put_nowait(event)

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return self._waiting.qsize()

    async def run(self, stop: StopSignal, /) -> None:
        """Send until `stop` is set, then what is left, as far as two seconds allow."""
        sending = asyncio.create_task(self._send_all())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([sending, stopped], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            # What waits now; whatever its state is then, the next service tells it anew.
            deadline = asyncio.get_running_loop().time() + LEAVE_SECONDS
            while self.waiting and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.05)
        finally:
            sending.cancel()
            stopped.cancel()
            await asyncio.gather(sending, stopped, return_exceptions=True)

    async def _send_all(self) -> None:
        while True:
            event = await self._waiting.get()
            await retry(
                partial(self._producer.send_event, self._topic, event),
                backoff=Backoff(most=5.0),
                on_retry=self._note,
            )

    def _note(self, error: Transient, pause: float) -> None:
        log.warning("sending an event again", topic=self._topic, pause=round(pause, 2),
                    error=str(error))  # fmt: skip
