"""Records of `dead.letters`: what could not be taken, where it came from, and why.

The value is the refused value, byte for byte, so that a chunk record of 17 MiB fits into
a topic of 18 MiB and can be produced again unchanged. All else stands in headers, in this
order; numbers are decimal without leading zeros:

    dl_version        1; 2 of a record that was replayed before
    dl_service        the service that refused the record
    dl_topic          origin, with dl_partition and dl_offset
    dl_timestamp      milliseconds since 1970; absent if the record had none
    dl_code           the error's stable name
    dl_reason         one sentence
    dl_key            the refused key; absent if it was null
    dl_left_out       how many headers did not fit; absent if none
    dl_value_size     size of a value that did not fit; absent if it is whole
    dl_tries          how often the record was refused, this time included; absent if once
    dl_first          origin of the first of these letters; absent with dl_tries
    h_NAME            each header of the refused record, repeated ones too, in its order

The key is `TOPIC/PARTITION/OFFSET`: the same record refused twice has the same key.

A record that is produced to its origin again carries the header `lucid-replay` behind its
own, for only so the next letter can count. `take_off` takes it off again.

FormatError
├── UnknownVersion
└── InvalidDeadLetter     a header is missing, unknown, repeated or out of order
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from schemas.errors import FormatError, UnknownVersion

VERSION = 1
REPLAYED_VERSION = 2
"""Written of records that were replayed, so that version 1 says all it ever said."""

REPLAY = "lucid-replay"
MAX_REASON = 2000
MAX_HEADERS = 16_384
"""Headers kept; the prefix adds two bytes to each, so the letter grows by 32 KiB at most."""

PREFIX = "h_"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,99}")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")
_ORIGIN = r"[A-Za-z0-9._-]{1,249}/(?:0|[1-9][0-9]{0,18})/(?:0|[1-9][0-9]{0,18})"
_FIRST = re.compile(_ORIGIN)
_REPLAY = re.compile(rf"([2-9]|[1-9][0-9]{{1,8}}) ({_ORIGIN})".encode())

Header = tuple[str, bytes | None]


class InvalidDeadLetter(FormatError):
    """A record of `dead.letters` that Lucid did not write."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What `lucid-replay` says: the how-manieth try a record is on, and its first origin."""

    tries: int
    first: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record.

    timestamp: milliseconds since 1970. left_out: headers that were dropped because there
    were too many. value_size: size of a value that was dropped because it was too large.
    tries, first: how often the record was refused, and the origin of the first letter; of a
    record that was never replayed 1 and empty.
    """

    service: str
    topic: str
    partition: int
    offset: int
    code: str
    reason: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    timestamp: int | None = None
    left_out: int = 0
    value_size: int = 0
    tries: int = 1
    first: str = ""

    @property
    def origin(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    def without_value(self) -> DeadLetter:
        """The same letter for when the broker takes no record of this size."""
        return replace(self, value=None, value_size=len(self.value or b""))

    def record_headers(self) -> list[Header]:
        """Headers with which the record goes to its origin again."""
        again = Replay(self.tries + 1, self.first or self.origin)
        return [*self.headers, (REPLAY, f"{again.tries} {again.first}".encode())]


def take_off(headers: Sequence[Header]) -> tuple[Sequence[Header], Replay | None]:
    """Headers without `lucid-replay`, and what that said.

    One that Lucid did not write stays where it is, for the record's own reader to refuse.
    """
    if not headers or headers[-1][0] != REPLAY:
        return headers, None
    found = _REPLAY.fullmatch(headers[-1][1] or b"")
    if found is None:
        return headers, None
    return tuple(headers[:-1]), Replay(int(found[1]), found[2].decode())


def shorten(headers: Sequence[Header]) -> tuple[tuple[Header, ...], int]:
    """The headers that a letter keeps, and how many it leaves out."""
    return tuple(headers[:MAX_HEADERS]), max(0, len(headers) - MAX_HEADERS)


def one_line(reason: str) -> str:
    """A reason that a letter can hold: not empty, one line, at most 2000 characters."""
    line = " ".join(reason.encode("utf-8", "replace").decode().split())
    return (line or "no reason was given")[:MAX_REASON]


def _metadata(letter: DeadLetter) -> Iterator[tuple[str, bytes]]:
    yield "dl_version", b"%d" % (VERSION if letter.tries == 1 else REPLAYED_VERSION)
    yield "dl_service", letter.service.encode()
    yield "dl_topic", letter.topic.encode()
    yield "dl_partition", b"%d" % letter.partition
    yield "dl_offset", b"%d" % letter.offset
    if letter.timestamp is not None:
        yield "dl_timestamp", b"%d" % letter.timestamp
    yield "dl_code", letter.code.encode()
    yield "dl_reason", letter.reason.encode()
    if letter.key is not None:
        yield "dl_key", letter.key
    if letter.left_out:
        yield "dl_left_out", b"%d" % letter.left_out
    if letter.value_size:
        yield "dl_value_size", b"%d" % letter.value_size
    if letter.tries > 1:
        yield "dl_tries", b"%d" % letter.tries
        yield "dl_first", letter.first.encode()


def to_kafka(letter: DeadLetter) -> tuple[bytes, list[Header], bytes | None]:
    """Key, headers and value of the Kafka record."""
    headers: list[Header] = list(_metadata(letter))
    headers += [(PREFIX + name, value) for name, value in letter.headers]
    return letter.origin.encode(), headers, letter.value


def from_kafka(key: bytes | None, headers: Sequence[Header], value: bytes | None) -> DeadLetter:
    """Read a letter; raises InvalidDeadLetter or UnknownVersion, whatever the bytes are."""
    own = {name: data for name, data in headers if data is not None and name.startswith("dl_")}
    version = own.get("dl_version", b"")
    if version not in (b"%d" % VERSION, b"%d" % REPLAYED_VERSION):
        raise UnknownVersion(
            f"a dead letter has version {version[:20]!r}, known are {VERSION} and "
            f"{REPLAYED_VERSION}"
        )
    letter = DeadLetter(
        service=_text(own, "dl_service", _NAME),
        topic=_text(own, "dl_topic", _NAME),
        partition=_number(own, "dl_partition"),
        offset=_number(own, "dl_offset"),
        timestamp=_number(own, "dl_timestamp") if "dl_timestamp" in own else None,
        code=_text(own, "dl_code", _CODE),
        reason=_text(own, "dl_reason"),
        key=own.get("dl_key"),
        value=value,
        headers=tuple((n.removeprefix(PREFIX), v) for n, v in headers if n.startswith(PREFIX)),
        left_out=_number(own, "dl_left_out") if "dl_left_out" in own else 0,
        value_size=_number(own, "dl_value_size") if "dl_value_size" in own else 0,
        tries=_number(own, "dl_tries") if "dl_tries" in own else 1,
        first=_text(own, "dl_first", _FIRST) if "dl_first" in own else "",
    )
    if letter.value_size and value is not None:
        raise InvalidDeadLetter(f"the dead letter of {letter.origin} left out a value it has")
    # Writing it again finds what is unknown, repeated, out of order or of a wrong key.
    if to_kafka(letter)[:2] != (key, list(headers)):
        raise InvalidDeadLetter(f"the dead letter of {letter.origin} is not in canonical form")
    return letter


def _text(own: dict[str, bytes], name: str, pattern: re.Pattern[str] | None = None) -> str:
    try:
        text = own.get(name, b"").decode()
    except UnicodeDecodeError as error:
        raise InvalidDeadLetter(f"header {name} of a dead letter is not UTF-8") from error
    if one_line(text) != text or (pattern and not pattern.fullmatch(text)):
        raise InvalidDeadLetter(f"header {name} of a dead letter is missing or malformed")
    return text


def _number(own: dict[str, bytes], name: str) -> int:
    data = own.get(name, b"")
    if not _NUMBER.fullmatch(data):
        raise InvalidDeadLetter(f"header {name} of a dead letter is missing or no number")
    return int(data)
