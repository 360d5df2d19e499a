"""The hash chain of `audit.events`: each entry of a writer is numbered and names the one before.

    link = read_link(headers, value)            an entry's place and hash, whatever its type is
    check = ChainCheck(chain)
    check.add(link)                             each entry of that chain, in the topic's order
    check.findings()                            what is missing, changed, put in or out of order

The hash of an entry is SHA-256 over the canonical JSON (RFC 8785) of the event in CloudEvents'
JSON format, every attribute as its text. So it does not depend on how Kafka packs a record,
nor on whether a reader knows the type. The format page is docs/formats/audit.md.

FormatError
└── InvalidEvent      a record that is no event, or whose place in a chain is none
"""

from __future__ import annotations

import bisect
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from json.encoder import encode_basestring
from typing import Any

import rfc8785

from schemas.canonical import canonical
from schemas.envelope import MAX_EVENT, InvalidEvent
from schemas.sessions import InvalidSessionId, made_at, new_session_id, parse_session_id

STARTED = "lucid.audit.chain_started.v1"
NOTHING = bytes(32)
"""What entry 0 names as the hash of the one before."""
MOST = 1000  # findings of one kind of trouble that are kept of a chain
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,40}")
_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_HEX32 = re.compile(r"[0-9a-f]{64}")


# One entry ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands. number: gapless from 0. previous: hash of the entry before."""

    chain: str
    number: int
    previous: bytes = NOTHING

    @classmethod
    def read(cls, attributes: Mapping[str, Any]) -> Place | None:
        """The place that an event's attributes name, None if they name none.

        Raises InvalidEvent for half a place, or one in another form.
        """
        chain, number, previous = (
            str(attributes.get(name, "")) for name in ("chainid", "chainseq", "chainprev")
        )
        if not (chain or number or previous):
            return None
        chain_started(chain)
        if not _NUMBER.fullmatch(number) or not _HEX32.fullmatch(previous):
            raise InvalidEvent(f"an entry of chain {chain} has no number, or names no entry before")
        return cls(chain, int(number), bytes.fromhex(previous))


def new_chain(service: str) -> str:
    """An id for a new chain of a service: its name and a UUID of version 7."""
    if not _SERVICE.fullmatch(service):
        raise InvalidEvent(f"{service[:80]!r} is not the name of a service")
    return f"{service}/{new_session_id()}"


def chain_started(chain: str) -> int:
    """When a chain began, in microseconds since 1970, as its id says; raises InvalidEvent."""
    service, _, number = chain.partition("/")
    try:
        started = made_at(parse_session_id(number))
    except InvalidSessionId:
        started = -1
    if started < 0 or not _SERVICE.fullmatch(service):
        raise InvalidEvent(f"{chain[:80]!r} is not the id of a chain")
    return started


@dataclass(frozen=True, slots=True)
class Link:
    """What a chain is made of: an entry's place and hash, its type, writer and time (texts)."""

    place: Place
    hash: bytes
    type: str
    source: str
    time: str


Headers = Sequence[tuple[str, bytes | None]]


def read_attributes(headers: Headers) -> dict[str, str]:
    """The CloudEvents attributes of a record as texts; raises InvalidEvent.

    Headers that carry no attribute are passed over.
    """
    attributes: dict[str, str] = {}
    for header, value in headers:
        name = "datacontenttype" if header == "content-type" else header.removeprefix("ce_")
        if name == header:
            continue
        if value is None or name in attributes or name == "data" or not _ATTRIBUTE.fullmatch(name):
            raise InvalidEvent(f"an event repeats the header {header[:80]!r}, or it is not one")
        try:
            attributes[name] = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidEvent(f"the header {header!r} of an event is not UTF-8") from error
    if not {"specversion", "id", "source", "type"} <= attributes.keys():
        raise InvalidEvent("a record lacks attributes that every CloudEvent has")
    return attributes


def entry_hash(attributes: Mapping[str, str], value: bytes | None) -> bytes:
    """The hash of an entry, 32 bytes; raises InvalidEvent for data that is not canonical JSON."""
    try:
        if value is None or len(value) > MAX_EVENT:
            raise ValueError("it is null or over 256 KiB")
        if canonical(json.loads(value)) != value:
            raise ValueError("it is not in canonical form")
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise InvalidEvent(f"the data of an event is not canonical JSON: {error}") from error
    return hash_canonical(attributes, value)


def hash_canonical(attributes: Mapping[str, str], value: bytes) -> bytes:
    """The hash of an entry whose data is known to be canonical."""
    # The canonical form of the whole is that of its parts, in the order of their names.
    parts = {name: encode_basestring(text) for name, text in attributes.items()}
    parts["data"] = value.decode()
    members = ",".join(f'"{name}":{parts[name]}' for name in sorted(parts))
    return hashlib.sha256(f"{{{members}}}".encode()).digest()


def read_link(headers: Headers, value: bytes | None) -> Link | None:
    """An entry's link, None if it is in no chain; raises InvalidEvent."""
    attributes = read_attributes(headers)
    hashed = entry_hash(attributes, value)
    place = Place.read(attributes)
    if place is None:
        return None
    return Link(place, hashed, attributes["type"], attributes["source"], attributes.get("time", ""))


# One chain ------------------------------------------------------------------------------------


class Fault(StrEnum):
    """What can be wrong with a chain, or with a topic that has some."""

    MISSING = "MissingEntries"
    BROKEN = "BrokenLink"
    FORKED = "Forked"
    REORDERED = "Reordered"
    START = "BrokenStart"
    TAIL = "TailMissing"
    HEAD = "HeadMismatch"
    AHEAD = "UnknownTail"
    UNCHAINED = "Unchained"
    UNREADABLE = "Unreadable"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of entries `first` to `last`; of records outside of chains, of their offsets."""

    fault: Fault
    first: int
    last: int
    detail: str


@dataclass(slots=True)
class _Run:
    """Hashes of entries that came one after the other."""

    start: int
    hashes: bytearray = field(default_factory=bytearray)

    @property
    def end(self) -> int:
        return self.start + len(self.hashes) // 32


@dataclass(slots=True)
class _Late:
    """An entry that came behind later ones: in order if those up to `until` come once more."""

    number: int
    redo: int
    until: int


class ChainCheck:
    """The entries of one chain, as they come; keeps 32 bytes of each.

    A writer that does not know whether an entry arrived sends it, and all behind it, again: the
    same bytes twice are one entry, and an entry that came late is in order if all behind it
    came again. `next` is the number behind the highest, `repeated` counts the doubles.
    """

    def __init__(self, chain: str, *, ordered: bool = True) -> None:
        self.chain = chain
        self.next = 0
        self.repeated = 0
        self.count = 0
        self.source = self.first_time = self.last_time = ""
        self._ordered = ordered
        self._runs: list[_Run] = []
        self._odd: dict[int, bytes] = {}
        self._claims: dict[int, bytes] = {}
        self._late: list[_Late] = []
        self._found: list[Finding] = []

    def add(self, link: Link) -> None:
        """Take the next entry that the topic has of this chain."""
        number, known = link.place.number, self.hash_of(link.place.number)
        if known is not None:
            self._again(link, known)
            return
        self.count += 1
        self.first_time, self.last_time = self.first_time or link.time, link.time
        self.source = link.source
        self._check_start(link)
        self._check_before(link)
        if number >= self.next:
            if not self._runs or number > self.next:
                self._runs.append(_Run(number))
            self._runs[-1].hashes += link.hash
            self.next = number + 1
        else:
            self._odd[number] = link.hash
            self._come_late(number)
        claim = self._claims.pop(number + 1, None)
        if claim is not None and claim != link.hash:
            self._find_broken(number + 1)

    def hash_of(self, number: int) -> bytes | None:
        """The hash of an entry, None if it has not come."""
        at = bisect.bisect_right(self._runs, number, key=lambda run: run.start) - 1
        if at >= 0 and number < self._runs[at].end:
            offset = (number - self._runs[at].start) * 32
            return bytes(self._runs[at].hashes[offset : offset + 32])
        return self._odd.get(number)

    def gaps(self) -> list[tuple[int, int]]:
        """First and last number of each stretch below `next` that has not come."""
        edges = sorted([*((run.start, run.end) for run in self._runs),
                        *((number, number + 1) for number in self._odd)])  # fmt: skip
        found, at = [], 0
        for start, end in edges:
            if start > at:
                found.append((at, start - 1))
            at = max(at, end)
        return found

    def findings(self) -> list[Finding]:
        """Everything but gaps, which may have expired: links, doubles that differ, order."""
        return [*self._found, *(_reordered(one.number) for one in self._late)]

    def _again(self, link: Link, known: bytes) -> None:
        number = link.place.number
        if known != link.hash:
            self._find(Fault.FORKED, number, f"there are two different entries {number}")
            return
        self.repeated += 1
        self._come_again(number)

    def _come_again(self, number: int) -> None:
        """An entry that late ones wait for has come behind them."""
        for one in self._late:
            while one.redo < one.until and one.redo != number and self.hash_of(one.redo) is None:
                one.redo += 1
            if one.redo == number:
                one.redo += 1
        self._late = [one for one in self._late if one.redo < one.until]

    def _come_late(self, number: int) -> None:
        self._come_again(number)
        if self._ordered and len(self._late) < MOST:
            self._late.append(_Late(number, number + 1, self.next))
        elif self._ordered and len(self._found) < MOST:
            self._found.append(_reordered(number))

    def _check_start(self, link: Link) -> None:
        number, starts = link.place.number, link.type == STARTED
        if starts != (number == 0) or (starts and link.place.previous != NOTHING):
            self._find(Fault.START, number, "a chain begins with its chain_started, and only there")

    def _check_before(self, link: Link) -> None:
        number = link.place.number
        if number == 0:
            return
        before = self.hash_of(number - 1)
        if before is None:
            self._claims[number] = link.place.previous
        elif before != link.place.previous:
            self._find_broken(number)

    def _find_broken(self, number: int) -> None:
        self._find(
            Fault.BROKEN, number,
            f"entry {number} was written behind another entry {number - 1} than the one here",
        )  # fmt: skip

    def _find(self, fault: Fault, number: int, detail: str) -> None:
        if len(self._found) < MOST:
            self._found.append(Finding(fault, number, number, detail))


def _reordered(number: int) -> Finding:
    return Finding(Fault.REORDERED, number, number, f"entry {number} stands behind later ones")
