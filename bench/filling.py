"""Sessions that are put on the frames topic at once, as fast as the broker takes them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agents.load.session import Identity, LoadSession
from agents.platform.contract import load_contract
from agents.platform.keys import load_recipients, load_signer
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from bench.services import ends
from schemas.frames import Kind, to_kafka

BATCH_BYTES = 1024**2  # the most that session.frames takes
STEP_US = 10_000  # event time from one record to the next
AT_ONCE = 64  # records on their way


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions on the frames topic: their ids, payload bytes, and the offsets of their records."""

    sessions: list[str]
    records: int
    raw: int
    start: Mapping[int, int]
    end: Mapping[int, int]


async def fill(settings: Settings, sessions: int, payloads: Sequence[bytes], each: int) -> Load:
    """Sessions of `each` payloads, taken in turns, as if all had been recorded at a time.

    Their content differs only in where in `payloads` it begins.
    """
    contract = load_contract(settings)
    topic = contract.topic("session.frames")
    signer = load_signer(settings, "recorder")
    who = Identity(signer, load_recipients(settings), settings.host, "", "", "bench")
    begin = time.time_ns() // 1000
    made = [LoadSession(who, topic.partitions, begin) for _ in range(sessions)]
    start = await ends(settings, "session.frames")
    async with Producer(settings, contract.limits, batch_bytes=BATCH_BYTES) as producer:
        sending = []
        for session, kind, payload, when in _records(made, payloads, each, begin):
            key, headers, value = to_kafka(session.make(kind, payload, when, 0.0))
            where = session.id.int % topic.partitions
            sending.append(
                await producer.submit(
                    topic.full_name, value, key=key, headers=[*headers], partition=where
                )
            )
            if len(sending) > AT_ONCE:
                await producer.acknowledged(sending.pop(0))
        await asyncio.gather(*map(producer.acknowledged, sending))
    end = await ends(settings, "session.frames")
    return Load(
        [one.name for one in made], sum(end.values()) - sum(start.values()),
        sum(one.frame_bytes for one in made), start, end,
    )  # fmt: skip


def _records(
    sessions: Sequence[LoadSession], payloads: Sequence[bytes], each: int, begin: int
) -> Iterator[tuple[LoadSession, Kind, bytes, int]]:
    contents = [
        itertools.islice(itertools.cycle(payloads), number * 7 % len(payloads), None)
        for number in range(len(sessions))
    ]
    for session in sessions:
        yield session, Kind.OPEN, b"", begin
    for step in range(each):
        for session, content in zip(sessions, contents, strict=True):
            yield session, Kind.FRAMES, next(content), begin + step * STEP_US
    for session in sessions:
        yield session, Kind.CLOSE, b"", begin + each * STEP_US


def half_noise(count: int, size: int, seed: int = 0) -> list[bytes]:
    """Payloads that halve when compressed, since one half of them is the same in each."""
    noise = random.Random(seed)
    still = noise.randbytes(size // 2)
    return [still + noise.randbytes(size - len(still)) for _ in range(count)]
