"""Where in `session.frames` a replay reads, and what is checked before it starts.

ReplayProblem
├── BadRange          the range names no part of the log
├── NotInLog          no `open` record of the session is on the broker
├── ErasedSession     its content was deleted by policy
├── ExpiredRange      the beginning of what was asked for is no longer on the broker
└── AnotherKey        all that is stored of the session is sealed with another data key
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from agents.platform.blobs import MANIFEST, Blobs, chunk_name
from agents.platform.catalog import Catalog
from agents.platform.reader import Record, TopicReader
from agents.session.processor.sealer import open_session, session_key
from schemas.chunks import HEADER_SIZE, read_header
from schemas.controls import Open
from schemas.errors import FormatError, LucidError
from schemas.frames import from_kafka
from schemas.manifests import read_manifest

FRAMES = "session.frames"
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


class ErasedSession(ReplayProblem):
    """The session's content was erased: it is not made again from what the log still has."""


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


def is_open(raw: Record) -> bool:
    """Whether a record says that it is a session's `open`; its payload is not looked at."""
    return any(name == "kind" and text == b"open" for name, text in raw.headers)


async def find_open(log: TopicReader, session: UUID) -> Record | None:
    """The session's `open` record, looked for from about when its id was made."""
    made = datetime.fromtimestamp(max(0, (session.int >> 80) - CLOCK_MARGIN_MS) / 1000, UTC)
    async with contextlib.aclosing(log.records(await log.at_time(made))) as found:
        async for raw in found:
            if _is_open_of(raw, session):
                return raw
    return None


# Which part --------------------------------------------------------------------------------------


async def session_stretch(
    log: TopicReader, catalog: Catalog, blobs: Blobs, session: UUID, identities: Sequence[str]
) -> Stretch:
    """Where a session is, once it is sure that it can be replayed.

    Raises ErasedSession, NotInLog, ExpiredRange, NoIdentity, AnotherKey or a FormatError of
    its `open`.
    """
    if blobs.erased(str(session)):
        raise ErasedSession(
            f"the content of session {session} was erased",
            hint="`lucid verify` says by whom, when and under which policy",
        )
    raw = await _open_record(log, catalog, session)
    record = from_kafka(raw.key, raw.headers, raw.value)
    opened = open_session(record, raw.partition, raw.offset).opened
    await _check_key(blobs, catalog, opened, identities)
    return Stretch(raw.partition, raw.offset, raw.offset + 1, log.bounds[raw.partition][1])


async def _open_record(log: TopicReader, catalog: Catalog, session: UUID) -> Record:
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
    raw = await find_open(log, session)
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


def offset_stretch(log: TopicReader, start: str, until: str | None) -> list[Stretch]:
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


def _place(log: TopicReader, text: str) -> tuple[int, int]:
    partition, colon, offset = text.partition(":")
    if not colon or not partition.isdecimal() or not offset.isdecimal():
        raise BadRange(f"{text[:40]!r} is not PARTITION:OFFSET", hint="Such as 3:125000")
    if int(partition) not in log.bounds:
        raise BadRange(f"there is no partition {partition}, only 0 to {len(log.bounds) - 1}")
    return int(partition), int(offset)


async def time_stretches(
    log: TopicReader, catalog: Catalog, start: datetime, until: datetime | None
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
    log: TopicReader, catalog: Catalog, start: datetime, until: datetime | None
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
