"""Where in `session.frames` a replay reads, and what is checked before it starts.

ReplayProblem
├── BadRange          the range names no part of the log
├── NotInLog          no `open` record of the session is on the broker
├── ExpiredRange      the beginning of what was asked for is no longer on the broker
└── AnotherKey        all that is stored of the session is sealed with another data key
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from agents.platform.blobs import MANIFEST, Blobs, chunk_name
from agents.platform.broker import TopicMissing, unreachable
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, read_broker
from agents.platform.retry import Deadline
from agents.platform.settings import Settings
from agents.session.processor.sealer import open_session, session_key
from schemas.chunks import HEADER_SIZE, read_header
from schemas.controls import Open
from schemas.errors import FormatError, LucidError
from schemas.frames import from_kafka
from schemas.manifests import read_manifest

Record: TypeAlias = "ConsumerRecord[bytes, bytes]"
FRAMES = "session.frames"
POLL_MS = 200
ANSWER_SECONDS = 15.0
CLOCK_MARGIN_MS = 60_000  # between the clocks of a session's id and of its records
SHOWN = 5


class ReplayProblem(LucidError):
    """A replay cannot be started as it was asked for."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class BadRange(ReplayProblem):
    """A partition, offset or time that the log does not have."""

    exit_status = 64  # EX_USAGE


class NotInLog(ReplayProblem):
    """The session's `open` record is not on the broker."""


class ExpiredRange(ReplayProblem):
    """Records that are asked for have gone from the broker."""


class AnotherKey(ReplayProblem):
    """The log's session key is not the one that the stored chunks are sealed with."""

    exit_status = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a partition: from `start`; sessions that open before `opens_before` are
    followed to their end, at most to offset `end`."""

    partition: int
    start: int
    opens_before: int
    end: int


class Log:
    """The partitions of `session.frames`, read from any offset, without a group."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, topic: str, partitions: int
    ) -> None:
        self._settings = settings
        self.consumer = consumer
        self.places = [TopicPartition(topic, number) for number in range(partitions)]
        self.bounds: dict[int, tuple[int, int]] = {}

    async def look(self) -> None:
        """Take down the first offset of each partition and the one behind its last."""
        first = await self.consumer.beginning_offsets(self.places)
        ends = await self.consumer.end_offsets(self.places)
        self.bounds = {one.partition: (first[one], ends[one]) for one in self.places}

    async def at_time(self, when: datetime) -> dict[int, int]:
        """Of each partition the first offset of that event time or later, else its end."""
        asked = dict.fromkeys(self.places, max(0, round(when.timestamp() * 1000)))
        found = await self.consumer.offsets_for_times(asked)
        return {
            one.partition: hit.offset if (hit := found.get(one)) else self.bounds[one.partition][1]
            for one in self.places
        }

    async def records(self, starts: Mapping[int, int]) -> AsyncGenerator[Record, None]:
        """Records from the given offsets to the ends that `look` found.

        Raises BrokerUnreachable when none comes for 15 s.
        """
        live = {self.places[p] for p, start in starts.items() if start < self.bounds[p][1]}
        self.consumer.assign(sorted(live))
        for place in live:
            self.consumer.seek(place, starts[place.partition])
        deadline = Deadline(ANSWER_SECONDS)
        while live:
            if deadline.expired:
                raise unreachable(self._settings, f"no answer for {ANSWER_SECONDS:g} s")
            batches = await self.consumer.getmany(timeout_ms=POLL_MS)
            for records in batches.values():
                deadline = Deadline(ANSWER_SECONDS)
                for raw in records:
                    yield raw
            for place in list(live):
                if await self.consumer.position(place) >= self.bounds[place.partition][1]:
                    live.discard(place)
                    self.consumer.pause(place)

    async def find_open(self, session: UUID) -> Record | None:
        """The session's `open` record, looked for from about when its id was made."""
        made = datetime.fromtimestamp(max(0, (session.int >> 80) - CLOCK_MARGIN_MS) / 1000, UTC)
        async with contextlib.aclosing(self.records(await self.at_time(made))) as found:
            async for raw in found:
                if is_open(raw) and raw.key == str(session).encode():
                    return raw
        return None

    async def record_at(self, partition: int, offset: int) -> Record | None:
        """The record of an offset that `bounds` has."""
        async with contextlib.aclosing(self.records({partition: offset})) as found:
            async for raw in found:
                return raw if raw.offset == offset else None
        return None


@asynccontextmanager
async def open_log(settings: Settings, contract: Contract, fetch_bytes: int) -> AsyncIterator[Log]:
    """The log of an installation; raises BrokerUnreachable and TopicMissing."""
    topic = contract.topic(FRAMES).full_name
    state = (await read_broker(settings, contract)).topics.get(topic)
    if state is None:
        raise TopicMissing(f"the broker has no topic {topic}", hint="Run `lucid topics apply`")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_servers(), enable_auto_commit=False,
        auto_offset_reset="none", max_partition_fetch_bytes=fetch_bytes,
        fetch_max_bytes=4 * fetch_bytes, fetch_max_wait_ms=100,
    )  # fmt: skip
    with _typed(settings):
        await consumer.start()
    try:
        log = Log(settings, consumer, topic, state.partitions)
        with _typed(settings):
            await log.look()
            yield log
    finally:
        await consumer.stop()


@contextlib.contextmanager
def _typed(settings: Settings) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise unreachable(settings, repr(error)) from error


def is_open(raw: Record) -> bool:
    """Whether a record says that it is a session's `open`; its payload is not looked at."""
    return any(name == "kind" and text == b"open" for name, text in raw.headers)


# Which part --------------------------------------------------------------------------------------


async def session_stretch(
    log: Log, catalog: Catalog, blobs: Blobs, session: UUID, identities: Sequence[str]
) -> Stretch:
    """Where a session is, once it is sure that it can be replayed.

    Raises NotInLog, ExpiredRange, NoIdentity, AnotherKey or a FormatError of its `open`.
    """
    raw = await _open_record(log, catalog, session)
    record = from_kafka(raw.key, raw.headers, raw.value)
    opened = open_session(record, raw.partition, raw.offset).opened
    await _check_key(blobs, catalog, opened, identities)
    return Stretch(raw.partition, raw.offset, raw.offset + 1, log.bounds[raw.partition][1])


async def _open_record(log: Log, catalog: Catalog, session: UUID) -> Record:
    """The catalog says where it is; without its word the log is searched."""
    state = await catalog.get("sessions", str(session)) or {}
    if opened := state.get("opened"):
        partition, offset = opened["partition"], opened["offset"]
        first, end = log.bounds.get(partition, (0, 0))
        if offset < first:
            raise ExpiredRange(
                f"session {session} begins at offset {offset} of partition {partition}, and the "
                f"broker has nothing before {first}: records {offset} to {first - 1} are gone",
                hint="What is stored of it can only be checked, with `lucid verify`",
            )
        raw = await log.record_at(partition, offset) if offset < end else None
        if raw is not None and _is_open_of(raw, session):
            return raw
    raw = await log.find_open(session)
    if raw is None:
        raise NotInLog(
            f"no open record of session {session} is on the broker",
            hint="It has expired, or the session was recorded with another LUCID_TOPIC_PREFIX",
        )
    return raw


def _is_open_of(raw: Record, session: UUID) -> bool:
    return is_open(raw) and raw.key == str(session).encode()


async def _check_key(
    blobs: Blobs, catalog: Catalog, opened: Open, identities: Sequence[str]
) -> None:
    key = session_key(opened, identities)
    found = set()
    async for commitment in _commitments(blobs, catalog, opened.session):
        if commitment == key.commitment:
            return
        found.add(commitment.hex())
    if found:
        raise AnotherKey(
            f"session {opened.session} is stored under key commitment {', '.join(sorted(found))}, "
            f"the log's key has {key.commitment.hex()}",
            hint="The log was replaced, or the store is another installation's",
        )


async def _commitments(blobs: Blobs, catalog: Catalog, session: str) -> AsyncIterator[bytes]:
    """What stored chunks and manifests say of their key; what cannot be read says nothing."""
    for index in blobs.chunk_indexes(session):
        with (
            contextlib.suppress(OSError, FormatError),
            blobs.path(session, chunk_name(index)).open("rb") as file,
        ):
            yield read_header(file.read(HEADER_SIZE)).key_commitment
    entry = await catalog.get("manifests", session) or {}
    for data in (blobs.find(session, MANIFEST), str(entry.get("manifest", "")).encode()):
        with contextlib.suppress(FormatError):
            yield bytes.fromhex(read_manifest(data or b"").key_commitment)


def offset_stretch(log: Log, start: str, until: str | None) -> list[Stretch]:
    """`P:O`, and another P:O before which sessions have to open. Raises BadRange, ExpiredRange."""
    partition, offset = _place(log, start)
    first, end = log.bounds[partition]
    stop = end
    if until is not None:
        other, stop = _place(log, until)
        if other != partition or stop <= offset:
            raise BadRange(f"{until} is not behind {start} in one partition")
    if offset < first:
        raise ExpiredRange(
            f"offsets {offset} to {first - 1} of partition {partition} are no longer on the broker",
            hint=f"Start at {partition}:{first}",
        )
    if offset > end:
        raise BadRange(f"partition {partition} ends before offset {end}")
    return [Stretch(partition, offset, min(stop, end), end)]


def _place(log: Log, text: str) -> tuple[int, int]:
    partition, colon, offset = text.partition(":")
    if not colon or not partition.isdecimal() or not offset.isdecimal():
        raise BadRange(f"{text[:40]!r} is not PARTITION:OFFSET", hint="Such as 3:125000")
    if int(partition) not in log.bounds:
        raise BadRange(f"there is no partition {partition}, only 0 to {len(log.bounds) - 1}")
    return int(partition), int(offset)


async def time_stretches(
    log: Log, catalog: Catalog, start: datetime, until: datetime | None
) -> list[Stretch]:
    """All partitions from an event time on; sessions have to open before `until`.

    Raises BadRange, and ExpiredRange for sessions that opened then and are gone.
    """
    if until is not None and until <= start:
        raise BadRange(f"{until.isoformat()} is not after {start.isoformat()}")
    await _nothing_gone(log, catalog, start, until)
    starts = await log.at_time(start)
    stops = await log.at_time(until) if until else {p: end for p, (_, end) in log.bounds.items()}
    return [
        Stretch(partition, starts[partition], stops[partition], end)
        for partition, (_, end) in log.bounds.items()
        if starts[partition] < end
    ]


async def _nothing_gone(
    log: Log, catalog: Catalog, start: datetime, until: datetime | None
) -> None:
    since = start.timestamp() * 1e6
    before = until.timestamp() * 1e6 if until else float("inf")
    gone = []
    for state in await catalog.find("sessions"):
        opened = state.get("opened")
        if opened and since <= opened["started"] < before:
            first, _ = log.bounds.get(opened["partition"], (0, 0))
            if opened["offset"] < first:
                gone.append(state["_id"])
    if gone:
        more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
        raise ExpiredRange(
            f"{len(gone)} sessions of that time begin before the broker's first record: "
            + ", ".join(gone[:SHOWN]) + more,
            hint="Choose a later time, or single sessions with --session",
        )  # fmt: skip
