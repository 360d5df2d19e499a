"""CloudEvents 1.0 in Kafka binary mode: the envelope that all event topics share.

The key is the event's subject, attributes are headers (`ce_…`), the value is the data's
canonical JSON. A topic has a subclass of Event that names its types and its extensions.

FormatError
└── InvalidEvent      not a CloudEvent, an unknown type, or data that its type forbids
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Self
from uuid import uuid4

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.base import Format

from schemas.canonical import Strict, decode, encode
from schemas.errors import FormatError

CONTENT_TYPE = "application/json"
MAX_EVENT = 256 * 1024


class InvalidEvent(FormatError):
    """A record of an event topic that is not one of Lucid's events."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its data and its envelope.

    source: the service and host, such as `lucid/recorder/host1`. types: the model of each
    type of the topic. extensions: CloudEvents attributes beyond the standard's, and the
    fields or properties that hold their texts; an empty one is not written. strays_to: what an
    event speaks of whose data is not of its subject.
    """

    types: ClassVar[Mapping[str, type[Strict]]] = {}
    extensions: ClassVar[Mapping[str, str]] = {}
    strays_to: ClassVar[str] = "something else"

    data: Strict
    source: str
    subject: str
    id: str = field(default_factory=lambda: str(uuid4()), kw_only=True)
    time: datetime = field(default_factory=lambda: datetime.now(UTC), kw_only=True)

    @property
    def type(self) -> str:
        """The name of the data's type; raises InvalidEvent when the topic has none for it."""
        name = _names(type(self)).get(type(self.data))  # type: ignore[arg-type]
        if name is None:
            raise InvalidEvent(f"{type(self).__name__} has no type for {type(self.data).__name__}")
        return name

    @property
    def micros(self) -> int:
        """Its time in microseconds since 1970."""
        return round(self.time.timestamp() * 1_000_000)

    @classmethod
    def subject_of(cls, data: Strict) -> str | None:
        """The subject that an event with this data has to have; None if the data names none."""
        return None

    def to_kafka(self) -> tuple[bytes, list[tuple[str, bytes]], bytes]:
        """Key, headers and value of the Kafka record; raises InvalidEvent.

        As `to_binary` of cloudevents writes it, which takes as long as all the rest of an entry.
        """
        if not (self.id and self.source and self.subject) or self.time.tzinfo is None:
            raise InvalidEvent("an event has no id, source or subject, or a time without a zone")
        time, subject = self.time.isoformat(), self.subject.encode()
        if time.endswith("+00:00"):
            time = f"{time[:-6]}Z"
        headers = [
            ("ce_specversion", b"1.0"), ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()), ("ce_type", self.type.encode()),
            ("ce_subject", subject), ("ce_time", time.encode()),
            ("content-type", CONTENT_TYPE.encode()),
        ]  # fmt: skip
        for name, place in self.extensions.items():
            if text := getattr(self, place):
                headers.append((f"ce_{name}", text.encode()))
        return subject, headers, encode(self.data)

    @classmethod
    def from_kafka(
        cls, key: bytes | None, headers: Sequence[tuple[str, bytes | None]], value: bytes | None
    ) -> Self:
        """Read an event; raises InvalidEvent or another FormatError, whatever the bytes are.

        It is invalid, too, when its subject is not what its data speaks of.
        """
        fields = {name: text for name, text in headers if text is not None}
        if value is None or len(value) > MAX_EVENT or len(fields) != len(headers):
            raise InvalidEvent("an event has no value, is over 256 KiB, or repeats a header")
        attributes = _as_we_write(fields) or _as_anybody_writes(fields, value)
        model = cls.types.get(attributes["type"])
        subject, time = attributes.get("subject"), attributes.get("time")
        if model is None:
            raise InvalidEvent(f"an event has type {attributes['type']!r}, which is not known here")
        if not subject or key != subject.encode() or time is None or time.tzinfo is None:
            raise InvalidEvent(
                f"event {attributes['id']} has no time, or its key is not its subject"
            )
        if attributes.get("datacontenttype") != CONTENT_TYPE:
            raise InvalidEvent(f"event {attributes['id']} holds data that is not {CONTENT_TYPE}")
        data = decode(model, value)
        if cls.subject_of(data) not in (None, subject):
            raise InvalidEvent(
                f"event {attributes['id']} speaks of {cls.strays_to} than its subject"
            )
        return cls(
            data=data,
            source=attributes["source"],
            subject=subject,
            id=attributes["id"],
            time=time,
            **cls.read_extensions(attributes),
        )

    @classmethod
    def read_extensions(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that the extensions are for; raises InvalidEvent."""
        return {place: attributes.get(name, "") for name, place in cls.extensions.items()}


@dataclass(frozen=True, slots=True)
class AnsweringEvent(Event):
    """An event of a topic on which commands are answered.

    correlation: the id of the command or event that this one answers or follows from.
    """

    extensions: ClassVar[Mapping[str, str]] = {"correlationid": "correlation"}

    correlation: str = ""


@lru_cache(100)
def _names(kind: type[Event]) -> Mapping[type[Strict], str]:
    """The name of each type that a class of events has."""
    return {model: name for name, model in reversed([*kind.types.items()])}


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", re.ASCII)
_ALWAYS = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype"}
_UNLIKE = {"data", "dataschema"}


@lru_cache(200)
def _attributes_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The attributes that headers of these names hold, none where they are not all like ours."""
    found = []
    for name in names:
        fit = re.fullmatch(r"ce_([a-z0-9]+)", name)
        found.append(fit[1] if fit else "datacontenttype" if name == "content-type" else "data")
    plain = not _UNLIKE & set(found) and set(found) >= _ALWAYS and len(set(found)) == len(found)
    return tuple(found) if plain else ()


def _as_we_write(fields: Mapping[str, bytes]) -> dict[str, Any] | None:
    """The attributes of a record as `to_kafka` makes them, None of one in any other form.

    The library, which reads all forms, takes four times as long.
    """
    names = _attributes_of(tuple(fields))
    try:
        found: dict[str, Any] = dict(zip(names, map(bytes.decode, fields.values()), strict=False))
        if not names or found["specversion"] != "1.0" or not _TIME.fullmatch(found["time"]):
            return None
        found["time"] = datetime.fromisoformat(found["time"])
    except ValueError:
        return None
    return found if all(found[name] for name in _ALWAYS) else None


def _as_anybody_writes(fields: dict[str, bytes], value: bytes) -> dict[str, Any]:
    """The attributes of any CloudEvent of version 1.0; raises InvalidEvent."""
    try:
        message = KafkaMessage(headers=fields, key=None, value=value)
        return from_binary(message, _Canonical()).get_attributes()
    except Exception as error:
        # The binding raises its own errors, dateutil's and UnicodeDecodeError alike.
        raise InvalidEvent(f"a record is not a CloudEvent: {error}") from error


class _Canonical(Format):
    """Data as our own canonical bytes; the envelope is the library's."""

    def write(self, event: Any) -> bytes:
        raise NotImplementedError

    def read(self, event_factory: Any, data: str | bytes) -> Any:
        raise NotImplementedError

    def write_data(self, data: Any, datacontenttype: str | None) -> bytes:
        return bytes(data)

    def read_data(self, body: bytes, datacontenttype: str | None) -> bytes:
        return bytes(body)

    def get_content_type(self) -> str:
        return CONTENT_TYPE
