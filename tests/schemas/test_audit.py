"""Audit events: read back as they were written, and only when they say who acted."""

from __future__ import annotations

import pytest

from schemas.audit import (
    AuditEvent,
    ChunksRepaired,
    LetterDiscarded,
    LetterReplayed,
    ProjectionRebuilt,
    SessionReplayed,
)
from schemas.canonical import Strict
from schemas.envelope import InvalidEvent
from schemas.events import SessionPaused, event_from_kafka

ORIGIN = "session.frames/3/77"
SESSION = "018bcfe5-6800-7000-8000-000000000001"


@pytest.mark.parametrize(
    "data",
    [
        LetterReplayed(origin=ORIGIN, letter=4, session=SESSION, offset=99, tries=2),
        LetterDiscarded(origin=ORIGIN, letter=4, session=None, reason="noise"),
        SessionReplayed(session=SESSION, outcome="identical", chunks=3, differences=0),
        ChunksRepaired(session=SESSION, indexes=[0, 2]),
        ProjectionRebuilt(projection="sessions", events=12),
    ],
)
def test_every_type_is_read_back_with_who_did_it(data: Strict) -> None:
    event = AuditEvent(data, "lucid/cli/desk", SESSION, user="Zoë")
    key, headers, value = event.to_kafka()
    assert AuditEvent.from_kafka(key, headers, value) == event
    assert dict(headers)["ce_authid"] == "Zoë".encode()
    assert dict(headers)["ce_authtype"] == b"user"


@pytest.mark.parametrize("name", ["ce_authid", "ce_authtype"])
def test_an_event_that_does_not_say_who_acted_is_refused(name: str) -> None:
    data = ProjectionRebuilt(projection="sessions", events=12)
    key, headers, value = AuditEvent(data, "lucid/cli/desk", "sessions", user="ada").to_kafka()
    with pytest.raises(InvalidEvent, match="who acted"):
        AuditEvent.from_kafka(key, [one for one in headers if one[0] != name], value)


def test_the_types_of_one_topic_are_unknown_on_the_other() -> None:
    audit = AuditEvent(
        ProjectionRebuilt(projection="sessions", events=12), "lucid/cli/d", "x", user="ada"
    )
    with pytest.raises(InvalidEvent, match="not known here"):
        event_from_kafka(*audit.to_kafka())
    with pytest.raises(InvalidEvent, match="no type for SessionPaused"):
        _ = AuditEvent(SessionPaused(session=SESSION, reason="r"), "s", "x", user="ada").type
