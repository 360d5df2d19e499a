"""Every version of every event that was ever written is read, and means what it meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.canonical import encode
from schemas.envelope import InvalidEvent
from schemas.errors import FormatError
from schemas.events import EVENT_TYPES, ChunkStored, ChunkStoredV1, SessionEvent, event_from_kafka
from schemas.topics import parse_contract
from tests.vectors.make_events import FOLDER
from tests.vectors.samples import names, read, read_and_written_again, record

SAMPLES = names(FOLDER)


def test_each_type_has_a_sample_and_each_sample_a_type() -> None:
    assert set(SAMPLES) == set(EVENT_TYPES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_and_written_again_as_it_was(name: str) -> None:
    fields = read(FOLDER, name)
    event = read_and_written_again(SessionEvent, fields)
    assert event.type == name
    assert json.loads(encode(event.data)) == fields["value"]
    assert (event.micros, event.correlation) == (1_795_636_800_123_456, "c-1")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_more_or_less_is_refused(name: str) -> None:
    fields = read(FOLDER, name)
    for change in ({"more": 1}, {}):
        value = {**fields["value"], **change}
        if not change:
            del value[next(iter(sorted(value)))]
        with pytest.raises(FormatError):
            event_from_kafka(*record({**fields, "value": value}))


def test_a_version_that_nobody_knows_is_refused() -> None:
    fields = read(FOLDER, "lucid.chunk.stored.v2")
    fields["headers"]["ce_type"] = "lucid.chunk.stored.v3"
    with pytest.raises(InvalidEvent, match="not known here"):
        event_from_kafka(*record(fields))


def test_the_second_version_of_a_stored_chunk_says_all_that_the_first_did() -> None:
    old = event_from_kafka(*record(read(FOLDER, "lucid.chunk.stored.v1"))).data
    new = event_from_kafka(*record(read(FOLDER, "lucid.chunk.stored.v2"))).data
    assert type(old) is ChunkStoredV1
    assert isinstance(new, ChunkStored)
    assert {name: getattr(new, name) for name in ChunkStoredV1.model_fields} == dict(old)


def test_the_contract_names_the_model_of_the_topic() -> None:
    contract = parse_contract((Path(__file__).parents[2] / "topics.yaml").read_text())
    model = contract.topic("session.events").model()
    assert issubclass(model, SessionEvent)
    assert model.types is EVENT_TYPES
