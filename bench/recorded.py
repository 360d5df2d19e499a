"""Many sessions on the frames topic at once, and when all of them are stored.

Their records are those of a recorder: chained, signed, with a wrapped key; the payloads are what
`lucid load` sends. They come in the order of their times, so that sessions are interleaved.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from agents.load.content import Content, load_content
from agents.load.schedule import Step
from agents.load.session import Identity, LoadSession
from agents.platform.contract import load_contract
from agents.platform.keys import load_recipients, load_signer
from agents.platform.producer import Header, Producer, Sending
from agents.platform.settings import Settings
from bench.services import Running, ends, service
from schemas.frames import Kind, to_kafka

TOPIC = "session.frames"
UNCONFIRMED = 512  # records on their way to the broker


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was put on the topic. frames: records with pixels. raw: payload bytes of all records.

    start, end: the offsets of each partition before and after.
    """

    sessions: tuple[str, ...]
    frames: int
    records: int
    raw: int
    start: dict[int, int]
    end: dict[int, int]


def prepared(name: str, total: int, record_bytes: int = 0, noise: float = 0.0) -> Content:
    """Content for `total` bytes; see `load_content`."""
    return load_content(name, noise=noise, record_bytes=record_bytes, need=total)


async def record(
    settings: Settings, content: Content, *, sessions: int, total: int, rate: float
) -> Recorded:
    """Sessions that have about `total` bytes together, `rate` bytes a second each (event time)."""
    contract = load_contract(settings)
    frames, limits = contract.topic(TOPIC), contract.limits
    identity = Identity(
        load_signer(settings, "recorder"), load_recipients(settings), settings.host,
        "lucid-bench", "bench", content.name,
    )  # fmt: skip
    start = await ends(settings, TOPIC)
    duration = total / sessions / rate
    begin = time.time() - duration
    made = [LoadSession(identity, frames.partitions, round(begin * 1e6)) for _ in range(sessions)]
    count = raw = pictures = 0
    waiting: deque[Sending] = deque()
    name = frames.full_name
    sending = {name: limits[name]}
    async with Producer(settings, sending, batch_bytes=max(sending.values())) as producer:
        for step, number in in_time(
            content.sizes, sessions=sessions, total=total, duration=duration
        ):
            session = made[number]
            payload = content.payloads[step.payload] if step.kind is Kind.FRAMES else b""
            at = round((begin + step.at) * 1e6)
            one = session.make(step.kind, payload, at, step.at)
            key, headers, value = to_kafka(one)
            wide: list[Header] = list(headers)
            waiting.append(await producer.submit(
                name, value, key=key, headers=wide, partition=session.partition,
                timestamp_ms=one.time // 1000,
            ))  # fmt: skip
            count += 1
            raw += len(one.payload)
            pictures += one.kind is Kind.FRAMES
            while len(waiting) > UNCONFIRMED:
                await producer.acknowledged(waiting.popleft())
        for left in waiting:
            await producer.acknowledged(left)
    names = tuple(session.name for session in made)
    return Recorded(names, pictures, count, raw, start, await ends(settings, TOPIC))


def in_time(
    sizes: Sequence[int], *, sessions: int, total: int, duration: float
) -> Iterator[tuple[Step, int]]:
    """All sessions' records by their times, with the session's number.

    The payloads go round until they are `total` bytes, and each session has as long a part of that
    as the others. So the frames are the same, whatever the number of sessions.
    """
    count = size = 0
    while size < total:
        size += sizes[count % len(sizes)]
        count += 1
    each = -(-count // sessions)
    for number in range(sessions):
        yield Step(0.0, Kind.OPEN, -1), number
    for place in range(each):
        for number in range(sessions):
            if (at := number * each + place) < count:
                seconds = duration * (place + number / sessions) / each
                yield Step(seconds, Kind.FRAMES, at % len(sizes)), number
    for number in range(sessions):
        yield Step(duration, Kind.CLOSE, -1), number


@contextmanager
def both(settings: Settings) -> Iterator[tuple[Running, Running]]:
    """Processor and storage as processes of their own; storage is ready first."""
    with service(settings, "storage") as storage, service(settings, "processor") as processor:
        yield processor, storage


def cpu_seconds(running: Running) -> float:
    """Seconds of CPU that a service took since its start, kernel's included."""
    times = psutil.Process(running.process.pid).cpu_times()
    return float(times.user + times.system)


def wait_stored(settings: Settings, storage: Running, recorded: Recorded) -> float:
    """Wait until all chunks and manifests of the sessions are files; when that was (Unix time)."""
    left = set(recorded.sessions)

    def stored() -> bool:
        left.difference_update([one for one in left if _stored(settings, one)])
        return not left

    storage.wait(stored, "stored sessions", 0.05)
    return time.time()


def _stored(settings: Settings, session: str) -> bool:
    folder = settings.blobs_dir / session
    try:
        chunks = int(json.loads((folder / "manifest.json").read_bytes())["chunks"])
    except FileNotFoundError:
        return False
    return sum(path.name.endswith(".chunk") for path in folder.iterdir()) == chunks
