"""Sending to `dead.letters` what cannot be taken, so that its neighbours go on.

    letters = open_letters(service, producer, contract)
    await letters.refuse(record, error)      returns when the broker holds the letter

Both planes pass every record through `arrived` before a parser sees it.

LucidError
└── TooManyLetters    agents/platform/letter_limit.py: the service has to stop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import structlog
from aiokafka import ConsumerRecord

from agents.platform.contract import Contract
from agents.platform.letter_limit import LetterLimit
from agents.platform.metrics import Metrics
from agents.platform.producer import Header, Producer, RecordTooLarge
from agents.platform.service import Service
from schemas.deadletters import DeadLetter, Replay, one_line, shorten, take_off, to_kafka
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


@dataclass
class Replayed(ConsumerRecord):  # type: ignore[misc]
    """A record that was refused before, without the header that says so."""

    replay: Replay


def arrived(record: ConsumerRecord[bytes, bytes]) -> ConsumerRecord[bytes, bytes]:
    """The record as its producer wrote it; `lucid-replay` is taken off and kept beside."""
    headers, replay = take_off(record.headers)
    if replay is None:
        return record
    same = {one.name: getattr(record, one.name) for one in fields(ConsumerRecord)}
    return Replayed(**{**same, "headers": headers}, replay=replay)


def letter_of(record: Refusable, error: LucidError, service: str) -> DeadLetter:
    """The dead letter of a record that `error` speaks of."""
    headers, left_out = shorten(record.headers)
    stamp = record.timestamp
    # Only records that were replayed have it, and only in the planes' own types.
    replay: Replay | None = getattr(record, "replay", None)
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
        tries=replay.tries if replay else 1,
        first=replay.first if replay else "",
    )


def open_letters(service: Service, producer: Producer, contract: Contract) -> DeadLetters:
    """The dead letters of a service, with its limit and a health check."""
    letters = DeadLetters(
        producer,
        topic=contract.topic("dead.letters").full_name,
        service=service.name,
        metrics=service.metrics,
        limit=LetterLimit(service.settings.dead_letter_limit),
    )
    service.health.add("letters", letters.healthy)
    return letters


class DeadLetters:
    """Where one service puts records that it cannot take, as long as they are few."""

    def __init__(
        self, producer: Producer, *, topic: str, service: str, metrics: Metrics | None = None,
        limit: LetterLimit | None = None,
    ) -> None:  # fmt: skip
        self._limit = limit or LetterLimit()
        self._producer = producer
        self._topic = topic
        self._service = service
        self._metrics = metrics

    async def refuse(self, record: Refusable, error: LucidError) -> DeadLetter:
        """Put a record aside; returns once all in-sync replicas hold it.

        A record that is too large for the topic is put aside without its value: its origin
        still names it. Raises TooManyLetters, and what Producer.send raises.
        """
        place = (record.topic, record.partition)
        if self._metrics is not None:
            self._metrics.limited(*place, lambda: self._limit.counted(place), self._limit.limit)
        self._limit.admit(place, record.offset, record.key, error)
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

    async def healthy(self) -> None:
        """Raise TooManyLetters once a partition is over its limit."""
        if self._limit.exceeded is not None:
            raise self._limit.exceeded

    async def _send(self, letter: DeadLetter) -> None:
        key, headers, value = to_kafka(letter)
        await self._producer.send(self._topic, value, key=key, headers=headers)
