"""Sending a command and waiting for the event that answers it, for commands of the shell.

    async with Answers(settings, contract, "rdp.server.events", ServerEvent) as answers:
        await producer.send(topic, encode(command), key=…)
        event = await answers.wait(command.id, seconds=60)

Listening begins before the command is sent, so that no answer is too early.

LucidError
└── NoAnswer          nobody answered in time
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import AsyncExitStack
from typing import Generic, Self, TypeVar

from agents.platform.contract import Contract
from agents.platform.listening import Poll, Record, listening
from agents.platform.settings import Settings
from schemas.envelope import Event
from schemas.errors import FormatError, LucidError

Answer = TypeVar("Answer", bound=Event)
POLL = 1.0


class NoAnswer(LucidError):
    """Nobody answered a command in time."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


class Answers(Generic[Answer]):
    """The events of a topic from now on. Raises BrokerUnreachable, TopicMissing."""

    _poll: Poll

    def __init__(
        self, settings: Settings, contract: Contract, topic: str, kind: type[Answer]
    ) -> None:
        self._listening, self._kind = listening(settings, contract, topic), kind
        self._open = AsyncExitStack()
        self._unread: deque[Record] = deque()

    async def __aenter__(self) -> Self:
        self._poll = await self._open.enter_async_context(self._listening)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def wait(
        self, correlation: str, seconds: float, *, types: tuple[type, ...] = (object,)
    ) -> Answer:
        """The first event with this correlation id whose data is of one of these types.

        What comes before it is passed over, what comes after it is there for the next call.
        Raises NoAnswer, BrokerUnreachable.
        """
        deadline = time.monotonic() + seconds
        while True:
            while self._unread:
                event = self._event(self._unread.popleft())
                answers = getattr(event, "correlation", "") == correlation
                if event is not None and answers and isinstance(event.data, types):
                    return event
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._unread.extend(await self._poll(min(left, POLL)))
        raise NoAnswer(
            f"nobody answered command {correlation} within {seconds:g} s",
            hint="The command is kept for a day; see that the service runs that carries it out",
        )

    def _event(self, record: Record) -> Answer | None:
        try:
            return self._kind.from_kafka(record.key, tuple(record.headers), record.value)
        except FormatError:
            return None  # whoever consumes it refuses it
