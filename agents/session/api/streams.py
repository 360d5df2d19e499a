"""Live events as server-sent events: where a stream is, what of it a reader sees.

An event's id is the place behind it on each partition of the topic, `12.0.7.3`: with it as
Last-Event-ID a stream goes on without a gap or a repetition, in any API process.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

from agents.platform.reader import open_reader
from agents.session.api.follower import Feed, Overrun, Placed
from agents.session.api.problems import ApiProblem, Code
from agents.session.api.support import json_bytes
from schemas.access import EVERYTHING, Claims, sees
from schemas.envelope import CONTENT_TYPE
from schemas.errors import FormatError
from schemas.events import SessionOpened, event_from_kafka

if TYPE_CHECKING:
    from agents.session.api.context import Api

FETCH_BYTES = 1024**2
MOST_PAST = 100_000
"""Events that a stream reads again from the topic at most."""
_ID = re.compile(r"\d{1,18}(\.\d{1,18}){0,255}", re.ASCII)


@dataclass(slots=True)
class Slots:
    """How many more streams may run."""

    free: int

    def take(self) -> bool:
        """Take one, if there is one."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    def give(self) -> None:
        self.free += 1


@dataclass(slots=True)
class Positions:
    """The offset that comes next, of each partition."""

    offsets: dict[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Positions:
        """Read an event's id; raises ApiProblem."""
        if not _ID.fullmatch(text):
            raise ApiProblem(Code.INVALID_REQUEST, "Last-Event-ID is none that a stream has given")
        return cls({part: int(offset) for part, offset in enumerate(text.split("."))})

    def take(self, placed: Placed) -> bool:
        """Pass an event; whether it is a new one."""
        if placed.offset < self.offsets.get(placed.partition, 0):
            return False
        self.offsets[placed.partition] = placed.offset + 1
        return True

    def __str__(self) -> str:
        count = max(self.offsets, default=-1) + 1
        return ".".join(str(self.offsets.get(part, 0)) for part in range(count))


@dataclass(slots=True)
class Watching:
    """What a reader sees: by scope, session and the beginning of the type.

    known: owner and project of sessions that were opened while the stream runs.
    """

    claims: Claims
    session: str
    prefix: str
    known: dict[str, tuple[str, str]] = field(default_factory=dict)

    def wants(self, api: Api, placed: Placed) -> bool:
        """Whether the reader gets an event."""
        event = placed.event
        if isinstance(event.data, SessionOpened):
            self.known[event.subject] = (event.data.owner, event.data.project)
        if self.session not in ("", event.subject) or not event.type.startswith(self.prefix):
            return False
        if self.claims.owners == self.claims.projects == (EVERYTHING,):
            return True
        row = api.index.get(event.subject)
        owner = (row.owner, row.project) if row else self.known.get(event.subject)
        return owner is not None and sees(self.claims, *owner)


async def live_events(
    api: Api, watching: Watching, positions: Positions | None
) -> AsyncIterator[dict[str, str]]:
    """The fields of each server-sent event, until the reader is too slow or the service stops."""
    with api.follower.subscribe(api.section.stream_queue) as feed:
        place = Positions(api.follower.positions) if positions is None else positions
        if positions is None:
            yield {"event": "lucid.stream.started", "id": str(place), "data": "{}"}
        else:
            async for found in _past(api, place):
                if not isinstance(found, Placed):
                    yield {"event": "lucid.stream.skipped", "data": json_bytes(found).decode()}
                elif place.take(found) and watching.wants(api, found):
                    yield _fields(found, place)
        async for placed in _until_overrun(api, feed):
            if place.take(placed) and watching.wants(api, placed):
                yield _fields(placed, place)


async def _until_overrun(api: Api, feed: Feed) -> AsyncIterator[Placed]:
    stopped = asyncio.create_task(api.stop.wait())
    try:
        while True:
            coming = asyncio.create_task(feed.next())
            await asyncio.wait([coming, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                return
            try:
                yield coming.result()
            except Overrun:
                return
    finally:
        stopped.cancel()


async def _past(api: Api, place: Positions) -> AsyncIterator[Placed | dict[str, int]]:
    """What happened since `place`: from memory, else from the topic.

    What is too old, or too much, comes as the number of events that are left out, by partition.
    """
    held = api.follower.since(place.offsets)
    if held is not None:
        for placed in held:
            yield placed
        return
    async with open_reader(api.settings, api.contract, "session.events", FETCH_BYTES) as reader:
        starts = _starts(reader.bounds, place.offsets)
        wanted = place.offsets
        skipped = {str(p): start - wanted.get(p, 0) for p, start in starts.items()}
        if any(count > 0 for count in skipped.values()):
            yield {part: count for part, count in skipped.items() if count > 0}
        async for raw in reader.records(starts):
            try:
                event = event_from_kafka(raw.key, raw.headers, raw.value)
            except FormatError:
                continue
            yield Placed(raw.partition, raw.offset, event)


def _starts(bounds: Mapping[int, tuple[int, int]], wanted: Mapping[int, int]) -> dict[int, int]:
    """Where to read on; at most MOST_PAST events, and none that have expired."""
    starts = {}
    for part, (first, end) in bounds.items():
        least = max(first, end - MOST_PAST // max(1, len(bounds)))
        starts[part] = min(max(wanted.get(part, 0), least), end)
    return starts


def _fields(placed: Placed, place: Positions) -> dict[str, str]:
    """An event as SSE has it; `data` is a CloudEvent in the JSON format."""
    event = placed.event
    data = {
        "specversion": "1.0", "id": event.id, "source": event.source, "type": event.type,
        "subject": event.subject,
        "time": event.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": CONTENT_TYPE, "data": event.data.model_dump(mode="json"),
    }  # fmt: skip
    return {"event": event.type, "id": str(place), "data": json_bytes(data).decode()}
