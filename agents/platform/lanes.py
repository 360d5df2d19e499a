"""What the control plane keeps of each partition: its records in order, and who handles them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from faust.types import TP, EventT

from agents.platform.partition import OffsetTracker
from agents.platform.producer import Header
from agents.platform.retry import Permanent
from schemas.deadletters import Replay, take_off
from schemas.errors import FormatError, LucidError
from schemas.sessions import parse_session_id

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is on the broker. timestamp: milliseconds since 1970.

    replay: of a record that was refused before; its header is taken off.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: bytes | None
    headers: tuple[Header, ...]
    value: bytes | None
    replay: Replay | None = None

    @property
    def size(self) -> int:
        return len(self.key or b"") + len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Route:
    """What is done with the records of one topic.

    handle: takes at most `most` records of a partition, in order, and returns the refused
    ones' errors by offset; the records come again when it raises. gather: seconds to wait for
    more of them behind the first.
    """

    topic: str
    handle: Callable[[Sequence[Record]], Awaitable[Mapping[int, LucidError]]]
    most: int = 1
    gather: float = 0.0


def one_by_one(
    parse: Callable[[Record], Model], handle: Callable[[Model, Record], Awaitable[None]]
) -> Callable[[Sequence[Record]], Awaitable[Mapping[int, LucidError]]]:
    """The handler of a route that takes a record at a time."""

    async def take(records: Sequence[Record]) -> Mapping[int, LucidError]:
        (record,) = records
        try:
            await handle(parse(record), record)
        except (FormatError, Permanent) as error:
            return {record.offset: error}
        return {}

    return take


@dataclass(frozen=True, slots=True)
class Item:
    """An event that waits in a lane, and the stream it came from."""

    event: EventT[bytes]
    stream: Any
    record: Record
    route: Route


class Lane:
    """One partition in one generation of the group."""

    def __init__(self, tp: TP, generation: int, next_offset: int) -> None:
        self.tp = tp
        self.generation = generation
        self.next_offset = next_offset
        self.tracker = OffsetTracker()
        self.queue: asyncio.Queue[Item] = asyncio.Queue()
        # Faust itself holds events weakly.
        self.events: dict[int, EventT[bytes]] = {}
        self.closing = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def rest(self, first: Item) -> list[Item]:
        """`first`, and what waits behind it, as far as its route takes it at once."""
        items = [first]
        while len(items) < first.route.most and not self.queue.empty():
            items.append(self.queue.get_nowait())
        return items

    async def leave(self, seconds: float) -> None:
        """Take nothing new; wait for the record that runs, then cancel it."""
        self.closing.set()
        if self.task is not None:
            await asyncio.wait([self.task], timeout=max(0.0, seconds))
            self.task.cancel()


def record_of(message: Any) -> Record:
    """The record of a Faust message; its headers with the repeated ones."""
    stamp = message.timestamp
    headers, replay = take_off(message.headers or ())
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp=None if stamp is None or stamp < 0 else round(stamp * 1000),
        key=message.key,
        headers=tuple(headers),
        value=message.value,
        replay=replay,
    )


def context_of(record: Record) -> dict[str, object]:
    """What log lines say while a record is handled."""
    found: dict[str, object] = {
        "topic": record.topic, "partition": record.partition, "offset": record.offset,
    }  # fmt: skip
    with contextlib.suppress(FormatError, UnicodeDecodeError):
        found["session"] = str(parse_session_id((record.key or b"").decode()))
    return found
