"""Sending a command and waiting for the event that answers it, for commands of the shell.

    async with Answers(settings, contract, "rdp.server.events", ServerEvent) as answers:
        await producer.send(topic, encode(command), key=…)
        event = await answers.wait(command.id, seconds=60)

Listening begins before the command is sent, so that no answer is too early.

LucidError
└── NoAnswer          nobody answered in time
"""

from __future__ import annotations

import asyncio
from typing import Generic, Self, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from agents.platform.broker import unreachable
from agents.platform.contract import Contract
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from schemas.envelope import Event
from schemas.errors import FormatError, LucidError

Answer = TypeVar("Answer", bound=Event)


class NoAnswer(LucidError):
    """Nobody answered a command in time."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


class Answers(Generic[Answer]):
    """The events of a topic from now on. Raises BrokerUnreachable."""

    def __init__(
        self, settings: Settings, contract: Contract, topic: str, kind: type[Answer]
    ) -> None:
        self._settings, self._kind = settings, kind
        self._consumer = AIOKafkaConsumer(
            contract.topic(topic).full_name, **kafka_options(settings), group_id=None,
            enable_auto_commit=False, auto_offset_reset="latest", fetch_max_wait_ms=100,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            # Now, not at the first fetch: what comes in between is wanted.
            await self._consumer.seek_to_end()
            for place in self._consumer.assignment():
                await self._consumer.position(place)
        except KafkaError as error:
            await self._consumer.stop()
            raise unreachable(self._settings, error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def wait(
        self, correlation: str, seconds: float, *, types: tuple[type, ...] = (object,)
    ) -> Answer:
        """The first event with this correlation id whose data is of one of these types.

        Raises NoAnswer.
        """
        try:
            async with asyncio.timeout(seconds):
                async for raw in self._consumer:
                    try:
                        event = self._kind.from_kafka(raw.key, tuple(raw.headers), raw.value)
                    except FormatError:
                        continue  # whoever consumes it refuses it
                    answers = getattr(event, "correlation", "") == correlation
                    if answers and isinstance(event.data, types):
                        return event
        except KafkaError as error:
            raise unreachable(self._settings, error) from error
        except TimeoutError:
            pass
        raise NoAnswer(
            f"nobody answered command {correlation} within {seconds:g} s",
            hint="The command is kept for a day; see that the service runs that carries it out",
        )
