"""One session's events: in order, and however long the broker is away."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from agents.platform.eventbus import EventBus
from agents.platform.retry import Transient
from agents.session.recorder.signals import Changed
from schemas.canonical import Strict
from schemas.events import SessionHeartbeat

log = structlog.get_logger(__name__)

AGAIN_SECONDS = 1.0


class Announcer:
    """Queues events and sends them as long as `run` runs; nobody waits for them but on purpose.

    A heartbeat that waits is replaced by the next one, so that an outage fills no memory.
    """

    def __init__(self, events: EventBus, session: str) -> None:
        self._events, self._session = events, session
        self._waiting: deque[Strict] = deque()
        self._changed = Changed()

    def put(self, data: Strict) -> None:
        """Send an event behind all others."""
        old = self._waiting[-1] if len(self._waiting) > 1 else None
        if isinstance(data, SessionHeartbeat) and isinstance(old, SessionHeartbeat):
            self._waiting.pop()
        self._waiting.append(data)
        self._changed.tell()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._changed.until(lambda: bool(self._waiting))
            try:
                await self._events.emit(self._waiting[0], self._session)
            except Transient as error:
                # The bus gives up at once while its service stops; this session may not yet.
                log.warning("an event waits", session=self._session, error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            self._waiting.popleft()
            self._changed.tell()

    async def delivered(self) -> None:
        """Wait until every event is on the broker."""
        await self._changed.until(lambda: not self._waiting)
