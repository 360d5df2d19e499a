"""The dead letters of an installation, and what was decided about each.

    box = await read_box(settings, contract)
    box.entries                          one for each refused record, by origin
    async with box.whole() as fetch: letter = await fetch(entry)      with its value
    async for entry, offset in replay(box, entries, producer, audit): …
    async for entry in discard(entries, reason, audit): …

Nothing is ever taken out of `dead.letters`. What was decided stands in `audit.events`.

LetterProblem
├── NoSuchLetter      there is no letter of that origin
├── LetterExpired     the broker has deleted it since it was listed
└── CannotReplay      its value was left out, or its topic is not of this installation
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import ValidationError

from agents.platform.audit import Audit
from agents.platform.contract import Contract
from agents.platform.producer import Producer, Sending
from agents.platform.settings import Settings
from agents.platform.topic_reader import Record, Seen, read_records, read_topic
from schemas.audit import AuditEvent, LetterDiscarded, LetterReplayed
from schemas.deadletters import DeadLetter, from_kafka
from schemas.errors import FormatError, LucidError
from schemas.sessions import parse_session_id

State = Literal["waiting", "replayed", "returned", "discarded"]
ENDS = (b"close", b"abandon")
GROUP = 100  # letters that are on their way at a time
GROUP_BYTES = 32 * 1024**2


class LetterProblem(LucidError):
    """A dead letter cannot be found, or cannot be acted on."""

    exit_status = 65  # EX_DATAERR of sysexits.h


class NoSuchLetter(LetterProblem):
    """No letter has that origin."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class LetterFile(LetterProblem):
    """The file for a letter's value cannot be made."""

    exit_status = 73  # EX_CANTCREAT of sysexits.h


class LetterExpired(LetterProblem):
    """The letter's retention ended."""


class CannotReplay(LetterProblem):
    """The record of a letter cannot go back to where it came from."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A refused record, without its value.

    letter: the newest letter of its origin, its value left out. size: bytes of the refused
    value. offset: of the letter in `dead.letters`, partition and at (ms since 1970) as well.
    copies: letters of this origin; a record that is read again is refused again.
    """

    letter: DeadLetter
    size: int
    partition: int
    offset: int
    at: int
    copies: int = 1
    state: State = "waiting"
    decided: AuditEvent | None = None

    @property
    def session(self) -> str | None:
        """The session that the record's key names."""
        with contextlib.suppress(FormatError):
            return str(parse_session_id(self.letter.key))
        return None

    @property
    def kind(self) -> str:
        """Header `kind` of a frame record."""
        return (dict(self.letter.headers).get("kind") or b"")[:20].decode("ascii", "replace")

    @property
    def place(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the refused record; entries sort by it."""
        return self.letter.topic, self.letter.partition, self.letter.offset

    @property
    def chain(self) -> str:
        """What the letters of one record have in common, however often it was replayed."""
        return self.letter.first or self.letter.origin


Fetch = Callable[[Entry], Awaitable[DeadLetter]]


@dataclass(slots=True)
class Box:
    """All dead letters. unreadable: records of the topic that are none."""

    settings: Settings
    topic: str
    entries: list[Entry] = field(default_factory=list)
    unreadable: int = 0

    def entry(self, origin: str) -> Entry:
        """The refused record of an origin; raises NoSuchLetter."""
        for entry in self.entries:
            if entry.letter.origin == origin:
                return entry
        raise NoSuchLetter(
            f"there is no dead letter {origin[:300]!r}", hint="`lucid dead-letters list` names all"
        )

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[Fetch]:
        """How to get letters with their values; the call raises LetterExpired."""
        async with read_records(self.settings, self.topic) as reader:

            async def fetch(entry: Entry) -> DeadLetter:
                raw = await (await reader(entry.partition)).at(entry.offset)
                if raw is None:
                    raise LetterExpired(f"the dead letter {entry.letter.origin} is gone by now")
                return from_kafka(raw.key, raw.headers, raw.value)

            yield fetch


async def read_box(settings: Settings, contract: Contract, seen: Seen | None = None) -> Box:
    """Read all letters and what was decided about them; raises BrokerUnreachable.

    Values are dropped as they are read: memory holds headers only.
    """
    box = Box(settings, contract.topic("dead.letters").full_name)
    letters: dict[tuple[int, int], Entry] = {}
    async for raw in read_topic(settings, box.topic, seen=seen):
        try:
            letters[raw.partition, raw.offset] = _entry(raw)
        except FormatError:
            box.unreadable += 1
    if letters:
        since = min(entry.at for entry in letters.values())
        audit = contract.topic("audit.events").full_name
        decided = [event async for event in _decisions(settings, audit, since)]
        box.entries = states(list(letters.values()), decided)
    return box


def _entry(raw: Record) -> Entry:
    letter = from_kafka(raw.key, raw.headers, raw.value)
    size = letter.value_size or len(letter.value or b"")
    return Entry(replace(letter, value=None), size, raw.partition, raw.offset, raw.timestamp)


async def _decisions(settings: Settings, topic: str, since: int) -> AsyncIterator[AuditEvent]:
    async for raw in read_topic(settings, topic, since_ms=since):
        with contextlib.suppress(FormatError):  # whoever checks audit.events reports it
            event = AuditEvent.from_kafka(raw.key, raw.headers, raw.value)
            if isinstance(event.data, LetterReplayed | LetterDiscarded):
                yield event


def states(letters: Sequence[Entry], decided: Sequence[AuditEvent]) -> list[Entry]:
    """One entry for each origin, the newest letter, with its state; in order of origin.

    A decision about an origin holds for its later letters, too, if they are of the same
    record: a topic that was made anew counts its offsets from 0 again, so the record's time
    is compared. A record of which a later try was refused has `returned`.
    """
    at_offset = {(entry.letter.origin, entry.offset): entry for entry in letters}
    decisions: dict[tuple[str, int | None], AuditEvent] = {}
    for event in decided:
        assert isinstance(event.data, LetterReplayed | LetterDiscarded)
        about = at_offset.get((event.data.origin, event.data.letter))
        if about is not None:
            decisions[event.data.origin, about.letter.timestamp] = event
    newest: dict[str, Entry] = {}
    last_try: dict[str, int] = {}
    for entry in sorted(letters, key=lambda one: one.offset):
        before = newest.get(entry.letter.origin)
        newest[entry.letter.origin] = replace(entry, copies=before.copies + 1 if before else 1)
        last_try[entry.chain] = max(last_try.get(entry.chain, 0), entry.letter.tries)
    found = [_with_state(entry, decisions, last_try) for entry in newest.values()]
    return sorted(found, key=lambda entry: entry.place)


def _with_state(
    entry: Entry,
    decisions: Mapping[tuple[str, int | None], AuditEvent],
    last_try: Mapping[str, int],
) -> Entry:
    event = decisions.get((entry.letter.origin, entry.letter.timestamp))
    state: State = "waiting"
    if last_try[entry.chain] > entry.letter.tries:
        state = "returned"
    elif event is not None:
        state = "replayed" if isinstance(event.data, LetterReplayed) else "discarded"
    return replace(entry, state=state, decided=event)


def why_not(entry: Entry, contract: Contract) -> str:
    """Why the record cannot be replayed; empty if it can."""
    if entry.letter.value_size or entry.letter.left_out:
        return "its value or headers were left out as too large"
    names = {topic.full_name for topic in contract.topics.values()}
    if entry.letter.topic not in names:
        return f"topic {entry.letter.topic} is none of this installation"
    return ""


def still_open(entries: Sequence[Entry], everything: Sequence[Entry]) -> list[str]:
    """Sessions whose `open` is among `entries` and whose end is in no letter.

    Such a session is being recorded: what its recorder sends would come between the
    replayed records, and all that is replayed after that would be late.
    """
    opened = {entry.session for entry in entries if entry.kind == "open"}
    ended = {
        entry.session
        for entry in everything
        if dict(entry.letter.headers).get("kind") in ENDS and entry.state == "waiting"
    }
    return sorted(session for session in opened - ended if session is not None)


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Runs of entries that are sent together: bounded in number and bytes."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and (len(group) == GROUP or size + entry.size > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group


async def replay(
    box: Box, entries: Sequence[Entry], producer: Producer, audit: Audit
) -> AsyncIterator[tuple[Entry, int]]:
    """Produce records to their origins' partitions again, in order; each with its new offset.

    Stops at the first that fails, with LetterExpired or what Producer.send raises. The audit
    event comes after the record: a crash in between leaves a letter that is still `waiting`,
    and replaying it twice does no harm.
    """
    async with box.whole() as fetch:
        for group in _groups(entries):
            placed, error = await _send(group, fetch, producer)
            acts = [
                LetterReplayed(origin=entry.letter.origin, letter=entry.offset,
                               session=entry.session, offset=offset, tries=entry.letter.tries + 1)
                for entry, offset in placed
            ]  # fmt: skip
            await _record(audit, acts)
            for one in placed:
                yield one
            if error is not None:
                raise error


async def _send(
    group: Sequence[Entry], fetch: Fetch, producer: Producer
) -> tuple[list[tuple[Entry, int]], LucidError | None]:
    """Send until one fails; what was acknowledged, and the failure."""
    sent: list[tuple[Entry, Sending]] = []
    placed: list[tuple[Entry, int]] = []
    error: LucidError | None = None
    for entry in group:
        try:
            letter = await fetch(entry)
            sending = await producer.submit(
                letter.topic, letter.value, key=letter.key, headers=letter.record_headers(),
                partition=letter.partition, timestamp_ms=letter.timestamp,
            )  # fmt: skip
        except LucidError as found:
            error = found
            break
        sent.append((entry, sending))
    for entry, sending in sent:
        try:
            placed_at = await producer.acknowledged(sending)
            placed.append((entry, placed_at.offset))
        except LucidError as found:
            error = found
    return placed, error


async def discard(entries: Sequence[Entry], reason: str, audit: Audit) -> AsyncIterator[Entry]:
    """Write down that records will not be taken; raises LetterProblem for an unfit reason."""
    for group in _groups(entries):
        try:
            acts = [
                LetterDiscarded(origin=entry.letter.origin, letter=entry.offset,
                                session=entry.session, reason=reason)
                for entry in group
            ]  # fmt: skip
        except ValidationError as error:
            raise LetterProblem(
                "a reason has 1 to 500 characters and no control characters"
            ) from error
        await _record(audit, acts)
        for entry in group:
            yield entry


async def _record(audit: Audit, acts: Sequence[LetterReplayed | LetterDiscarded]) -> None:
    await asyncio.gather(*(audit.record(act, act.session or act.origin) for act in acts))
