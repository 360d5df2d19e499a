"""Canonical JSON and CloudEvents by our own short ways are, byte for byte, the libraries'."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from cloudevents.core.bindings.kafka import to_binary
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from schemas import envelope
from schemas.audit import Actor, AuditEvent, ProjectionRebuilt, ResourceRead
from schemas.audit_chain import Place
from schemas.canonical import LARGEST, InvalidModel, _is_plain, canonical, encode
from schemas.envelope import CONTENT_TYPE, InvalidEvent

NUMBERS = st.integers(-(2**60), 2**60) | st.floats() | st.sampled_from([LARGEST, LARGEST + 1, 1.0])
TEXTS = st.text(st.characters(codec=None), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


def said(make: Any, value: Any) -> bytes | str:
    try:
        return bytes(make(value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        return repr(error)


@settings(deadline=None)  # the first example of a busy machine takes longer
@given(VALUES)
@example("".join(map(chr, range(0x100))) + "\u2028\u2029\ufeff\uffff\U0001f600")
@example({"b": [], "a": {}, "": [True, None, -1, 0]})
@example([1e21, 1.0, -0.0, float("nan"), 2**53])
@example({"\ud800": 1})
@example({"\ue000": 1, "\U00010000": 2, "a": '\x7f\u2028\x00"\\/'})
@example(["\ud800", {"b": 1, "a": -LARGEST - 1}])
def test_whatever_the_value_is_its_form_is_that_of_rfc_8785(value: Any) -> None:
    assert said(canonical, value) == said(rfc8785.dumps, value)


def test_what_manifests_and_events_consist_of_takes_the_short_way() -> None:
    plain = {"session": "é", "chunks": 3, "gaps": [{"first": 0}], "abandoned": False, "x": None}
    assert _is_plain(plain)
    for other in (1.5, 2**53, {"é": 1}, {1: 2}, (1,), b"", [{"a": [0.5]}]):
        assert not _is_plain(other)


class Number(BaseModel):
    value: int


def test_a_number_without_a_canonical_form_is_an_error() -> None:
    assert encode(Number(value=LARGEST)) == b'{"value":9007199254740991}'
    with pytest.raises(InvalidModel, match="Number has no canonical JSON"):
        encode(Number(value=LARGEST + 1))


def event(**more: Any) -> AuditEvent:
    data = ResourceRead(
        action="a", resource="/ä", session=None, request="r", bytes=1, items=1, outcome="200"
    )
    fields = {"user": "ada", "user_type": "api", "roles": ("admin",), "address": "::1", **more}
    return AuditEvent(data, "lucid/api/h", "sü", **fields)


TIMES = [
    datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), datetime(2026, 1, 2, tzinfo=UTC),
    datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5))),
]  # fmt: skip


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("place", [None, Place("api/x", 7)])
def test_a_record_is_as_the_library_writes_it(time: datetime, place: Place | None) -> None:
    made = event(time=time, place=place)
    attributes: dict[str, Any] = {
        "specversion": "1.0", "id": made.id, "source": made.source, "type": made.type,
        "subject": made.subject, "time": time, "datacontenttype": CONTENT_TYPE,
    }  # fmt: skip
    attributes |= {
        name: text for name, at in made.extensions.items() if (text := getattr(made, at))
    }
    message = to_binary(CloudEvent(attributes, encode(made.data)), envelope._Canonical())
    assert made.to_kafka() == ("sü".encode(), list(message.headers.items()), message.value)


@pytest.mark.parametrize("change", [{"id": ""}, {"time": TIMES[0].replace(tzinfo=None)}])
def test_an_event_that_is_none_is_not_written(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent, match="no id, source or subject, or a time"):
        event(**change).to_kafka()


def headers(**changes: bytes | None) -> dict[str, bytes]:
    place = Place("api/019b76da-a802-7000-8000-00000000c4a1", 7)
    found: dict[str, bytes | None] = dict(event(place=place).to_kafka()[1])
    found |= {name.replace("__", "-"): text for name, text in changes.items()}
    return {name: text for name, text in found.items() if text is not None}


CHANGES: list[dict[str, bytes | None]] = [
    {}, {"ce_time": b"2026-01-02T03:04:05Z"}, {"ce_time": b"2026-01-02T03:04:05.5Z"},
    {"ce_time": b"2026-01-02T24:00:00Z"}, {"ce_time": b"2026-13-02T03:04:05Z"},
    {"ce_time": b"2026-01-02T03:04:05+01:00"}, {"ce_time": b"now"}, {"ce_time": None},
    {"ce_id": b""}, {"ce_id": None}, {"ce_specversion": b"0.3"}, {"ce_specversion": None},
    {"ce_data": b"x"}, {"ce_dataschema": b""}, {"ce_dataschema": b"x"}, {"ce_subject": b""},
    {"CE_ID": b"x"}, {"ce_More": b"x"}, {"ce_a_b": b"x"}, {"other": b"\xff"}, {"other": b"x"},
    {"ce_more": b"x"}, {"ce_source": b"\xff"}, {"content__type": b""}, {"content__type": None},
    {"ce_datacontenttype": b"x"}, {"ce_": b"x"},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_headers_are_read_as_the_library_reads_them(change: dict[str, bytes | None]) -> None:
    def read(how: Any) -> Any:
        try:
            return how()
        except InvalidEvent as error:
            return type(error)

    fields = headers(**change)
    ours = envelope._as_we_write(fields)
    theirs = read(lambda: dict(envelope._as_anybody_writes(dict(fields), b"{}")))
    assert ours is None or ours == theirs
    assert (ours is not None) is (change in ({}, CHANGES[1], {"ce_more": b"x"}))


def test_roles_and_types_are_read_back() -> None:
    made = event(place=Place("api/019b76da-a802-7000-8000-00000000c4a1", 0))
    found = AuditEvent.from_kafka(*made.to_kafka())
    assert found == made
    assert (found.type, found.actor) == (
        "lucid.audit.resource_read.v1", Actor("ada", "api", "::1", ("admin",))
    )  # fmt: skip
    other = AuditEvent(ProjectionRebuilt(projection="p", events=1), "s", "p", user="ada")
    assert other.type == "lucid.audit.projection_rebuilt.v1"
