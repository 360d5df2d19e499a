"""Events of `rdp.session.events`: in the order in which they are put, however long it takes.

    outbox.put(data, kept=session id, correlation=…)   at once; sent while `run` runs

An event of a session is kept with the session until the broker has it, so that a controller
that is killed in between loses none; it may then come twice, with the same id. `saved` is
called with a session's id when the broker has one more of its events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from agents.platform.producer import Producer
from agents.platform.retry import Backoff, Transient, retry
from agents.platform.service import StopSignal
from agents.rdp.controller.store import Unsent
from schemas.canonical import Strict
from schemas.rdp_session_events import RdpSessionEvent, rdp_session_subject

log = structlog.get_logger(__name__)

MAX_WAITING = 100_000
"""Events in memory; of more, the oldest that are kept with no session are let go."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event, and the session that it is kept with."""

    event: Unsent
    kept: str


def unsent(event: RdpSessionEvent) -> Unsent:
    """An event as its Kafka record."""
    key, headers, value = event.to_kafka()
    texts = [(name, text.decode()) for name, text in headers]
    return Unsent(key=key.decode(), headers=texts, value=value.decode())


class Outbox:
    """A part of the service. source: `lucid/rdp-controller/HOST`."""

    name = "outbox"

    def __init__(self, producer: Producer, topic: str, source: str) -> None:
        self._producer, self._topic, self._source = producer, topic, source
        self._waiting: deque[Waiting] = deque()
        self._changed = asyncio.Event()
        self.sent: Callable[[str, Unsent], None] = lambda session, event: None
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, data: Strict, *, kept: str = "", correlation: str = "") -> Unsent:
        """Queue an event; what has to be kept of it."""
        subject = rdp_session_subject(data)
        event = unsent(RdpSessionEvent(data, self._source, subject, correlation=correlation))
        self.again(event, kept)
        return event

    def again(self, event: Unsent, kept: str) -> None:
        """Queue an event that an earlier controller could not send."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            log.error("too many events wait, one is let go", key=self._waiting.popleft().event.key)
        self._waiting.append(Waiting(event, kept))
        self._changed.set()

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set; what waits then is sent as long as the broker takes it."""
        stop.on_set.append(self._changed.set)
        while self._waiting or not stop.is_set():
            await self._changed.wait()
            self._changed.clear()
            while self._waiting:
                try:
                    await self._send(self._waiting[0], stop)
                except Transient as error:
                    log.warning("events wait for the next controller", count=len(self._waiting),
                                error=str(error))  # fmt: skip
                    return
                one = self._waiting.popleft()
                self.sent(one.kept, one.event)

    async def _send(self, one: Waiting, stop: StopSignal) -> None:
        headers = [(name, text.encode()) for name, text in one.event.headers]
        await retry(
            lambda: self._producer.send(
                self._topic, one.event.value.encode(), key=one.event.key.encode(),
                headers=[*headers],
            ),
            backoff=Backoff(most=5.0),
            stop=stop,
            on_retry=lambda error, pause: log.warning(
                "sending an event again", pause=round(pause, 2), error=str(error)
            ),
        )  # fmt: skip
