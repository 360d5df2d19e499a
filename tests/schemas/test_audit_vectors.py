"""Records of `audit.events` as earlier versions wrote them are read by this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.audit import AuditEvent
from tests.vectors.make import ACTS, audit_events

FOLDER = Path(__file__).parents[1] / "vectors" / "audit"
KafkaRecord = tuple[bytes, list[tuple[str, bytes]], bytes]


def records(name: str) -> Iterator[KafkaRecord]:
    for line in (FOLDER / name).read_text().splitlines():
        fields = json.loads(line)
        headers = [(header, bytes.fromhex(value)) for header, value in fields["headers"]]
        yield bytes.fromhex(fields["key"]), headers, bytes.fromhex(fields["value"])


def test_entries_from_before_the_chain_are_read_with_all_that_they_say() -> None:
    read = [AuditEvent.from_kafka(*record) for record in records("unchained.jsonl")]
    assert read == audit_events()
    assert [event.data for event in read] == list(ACTS)
    assert {(event.user, event.user_type) for event in read} == {("ada", "user"), ("Zoë", "user")}


@pytest.mark.parametrize("number", range(len(ACTS)))
def test_entries_from_before_the_chain_are_still_written_the_same(number: int) -> None:
    assert audit_events()[number].to_kafka() == list(records("unchained.jsonl"))[number]
