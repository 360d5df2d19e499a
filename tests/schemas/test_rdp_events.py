"""Every event of RDP servers that was ever written is read, and means what it meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.canonical import encode
from schemas.envelope import Event, InvalidEvent
from schemas.errors import FormatError
from schemas.rdp_config import CONFIG_TYPES, XrdpConfigEvent
from schemas.rdp_ports import PORT_TYPES, PortEvent
from schemas.rdp_processes import PROCESS_TYPES, XrdpProcessEvent
from schemas.rdp_servers import SERVER_TYPES, ServerEvent
from schemas.topics import parse_contract
from tests.vectors.make_rdp_events import FOLDER
from tests.vectors.samples import names, read, read_and_written_again, record

SAMPLES = names(FOLDER)
KINDS: dict[str, type[Event]] = {
    **dict.fromkeys(SERVER_TYPES, ServerEvent),
    **dict.fromkeys(PORT_TYPES, PortEvent),
    **dict.fromkeys(CONFIG_TYPES, XrdpConfigEvent),
    **dict.fromkeys(PROCESS_TYPES, XrdpProcessEvent),
}
TOPICS = {
    "rdp.server.events": ServerEvent,
    "rdp.port.events": PortEvent,
    "xrdp.config.events": XrdpConfigEvent,
    "xrdp.process.events": XrdpProcessEvent,
}


def test_each_type_has_a_sample_and_each_sample_a_type() -> None:
    assert set(SAMPLES) == set(KINDS)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_and_written_again_as_it_was(name: str) -> None:
    fields = read(FOLDER, name)
    event = read_and_written_again(KINDS[name], fields)
    assert event.type == name
    assert json.loads(encode(event.data)) == fields["value"]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_more_is_refused(name: str) -> None:
    fields = read(FOLDER, name)
    with pytest.raises(FormatError):
        KINDS[name].from_kafka(*record({**fields, "value": {**fields["value"], "more": 1}}))


@pytest.mark.parametrize("name", SAMPLES)
def test_another_key_than_its_subject_is_refused(name: str) -> None:
    fields = read(FOLDER, name)
    fields["key"] = fields["headers"]["ce_subject"] = "9"
    with pytest.raises(InvalidEvent, match="another"):
        KINDS[name].from_kafka(*record(fields))


def test_the_contract_names_the_models_of_the_topics() -> None:
    contract = parse_contract((Path(__file__).parents[2] / "topics.yaml").read_text())
    assert {name: contract.topic(name).model() for name in TOPICS} == TOPICS
