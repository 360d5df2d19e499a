"""Sending to `dead.letters` what cannot be taken, so that its neighbours go on.

letters = DeadLetters(producer, topic=NAME, service="storage", metrics=metrics)
await letters.refuse(record, error)      returns when the broker holds the letter
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from agents.platform.metrics import Metrics
from agents.platform.producer import Header, Producer, RecordTooLarge
from schemas.deadletters import DeadLetter, one_line, shorten, to_kafka
from schemas.errors import LucidError

log = structlog.get_logger(__name__)


class Refusable(Protocol):
    """What a letter needs of a record; aiokafka's ConsumerRecord has it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


def letter_of(record: Refusable, error: LucidError, service: str) -> DeadLetter:
    """The dead letter of a record that `error` speaks of."""
    headers, left_out = shorten(record.headers)
    stamp = record.timestamp
    return DeadLetter(
        service=service,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=stamp if stamp is not None and stamp >= 0 else None,
        code=error.code,
        reason=one_line(str(error)),
        key=record.key,
        value=record.value,
        headers=headers,
        left_out=left_out,
    )


class DeadLetters:
    """Where one service puts records that it cannot take."""

    def __init__(
        self, producer: Producer, *, topic: str, service: str, metrics: Metrics | None = None
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._service = service
        self._metrics = metrics

    async def refuse(self, record: Refusable, error: LucidError) -> DeadLetter:
        """Put a record aside; returns once all in-sync replicas hold it.

        A record that is too large for the topic is put aside without its value: its origin
        still names it. Raises what Producer.send raises.
        """
        letter = letter_of(record, error, self._service)
        try:
            await self._send(letter)
        except RecordTooLarge:
            letter = letter.without_value()
            await self._send(letter)
        log.warning("record refused", topic=letter.topic, partition=letter.partition,
                    offset=letter.offset, code=letter.code, reason=letter.reason)  # fmt: skip
        if self._metrics is not None:
            self._metrics.refused(letter.topic, letter.code)
        return letter

    async def _send(self, letter: DeadLetter) -> None:
        key, headers, value = to_kafka(letter)
        await self._producer.send(self._topic, value, key=key, headers=headers)
