"""Sending lifecycle events to `session.events`."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from agents.platform.contract import Contract
from agents.platform.producer import Producer
from agents.platform.retry import Backoff, Transient, retry
from schemas.canonical import Strict
from schemas.events import SessionEvent

log = structlog.get_logger(__name__)


class EventBus:
    """Events of one service; `source` names it and its host, as CloudEvents wants it."""

    def __init__(
        self, producer: Producer, contract: Contract, *, service: str, host: str,
        stop: asyncio.Event | None = None,
    ) -> None:  # fmt: skip
        self._producer = producer
        self._topic = contract.topic("session.events").full_name
        self._source = f"lucid/{service}/{host}"
        self._stop = stop or asyncio.Event()

    async def emit(self, data: Strict, subject: str, *, correlation: str = "") -> SessionEvent:
        """Send an event; returns once the broker holds it.

        Trouble that passes is waited out until the service stops; then it is raised.
        """
        event = SessionEvent(data, self._source, subject, correlation=correlation)

        def note(error: Transient, pause: float) -> None:
            log.warning("sending an event again", type=event.type, session=subject,
                        pause=round(pause, 2), error=str(error))  # fmt: skip

        await retry(
            partial(self._producer.send_event, self._topic, event),
            backoff=Backoff(most=5.0),
            stop=self._stop,
            on_retry=note,
        )
        return event
