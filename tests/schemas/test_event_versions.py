"""Every version of every event that was ever written is read, and means what it meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.canonical import encode
from schemas.envelope import InvalidEvent
from schemas.errors import FormatError
from schemas.events import EVENT_TYPES, ChunkStored, ChunkStoredV1, event_from_kafka
from schemas.topics import parse_contract
from tests.vectors.make_events import FOLDER

SAMPLES = sorted(path.name.removesuffix(".json") for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def record(fields: dict[str, Any]) -> tuple[bytes, list[tuple[str, bytes]], bytes]:
    """The Kafka record of a sample; its value as canonical JSON."""
    value = json.dumps(fields["value"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    headers = [(name, text.encode()) for name, text in fields["headers"].items()]
    return fields["key"].encode(), headers, value.encode()


def test_each_type_has_a_sample_and_each_sample_a_type() -> None:
    assert set(SAMPLES) == set(EVENT_TYPES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_and_written_again_as_it_was(name: str) -> None:
    fields = read(name)
    key, headers, value = record(fields)
    event = event_from_kafka(key, headers, value)
    assert event.type == name
    assert json.loads(encode(event.data)) == fields["value"]
    assert (event.micros, event.correlation) == (1_795_636_800_123_456, "c-1")
    again = event.to_kafka()
    assert (again[0], sorted(again[1]), again[2]) == (key, sorted(headers), value)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_more_or_less_is_refused(name: str) -> None:
    fields = read(name)
    for change in ({"more": 1}, {}):
        value = {**fields["value"], **change}
        if not change:
            del value[next(iter(sorted(value)))]
        with pytest.raises(FormatError):
            event_from_kafka(*record({**fields, "value": value}))


def test_a_version_that_nobody_knows_is_refused() -> None:
    fields = read("lucid.chunk.stored.v2")
    fields["headers"]["ce_type"] = "lucid.chunk.stored.v3"
    with pytest.raises(InvalidEvent, match="not known here"):
        event_from_kafka(*record(fields))


def test_the_second_version_of_a_stored_chunk_says_all_that_the_first_did() -> None:
    old = event_from_kafka(*record(read("lucid.chunk.stored.v1"))).data
    new = event_from_kafka(*record(read("lucid.chunk.stored.v2"))).data
    assert type(old) is ChunkStoredV1
    assert isinstance(new, ChunkStored)
    assert {name: getattr(new, name) for name in ChunkStoredV1.model_fields} == dict(old)


def test_the_contract_names_the_model_of_the_topic() -> None:
    contract = parse_contract((Path(__file__).parents[2] / "topics.yaml").read_text())
    assert contract.topic("session.events").model().types is EVENT_TYPES
