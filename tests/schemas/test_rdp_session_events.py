"""Every event of desktop sessions that was ever written is read, and means what it meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.canonical import encode
from schemas.envelope import InvalidEvent
from schemas.errors import FormatError
from schemas.rdp_session_commands import RdpSessionCommand, read_session_command
from schemas.rdp_session_events import RDP_SESSION_TYPES, RdpSessionEvent
from schemas.sessions import new_session_id
from schemas.topics import parse_contract
from tests.vectors.make_rdp_session_events import FOLDER, SESSION
from tests.vectors.samples import names, read, read_and_written_again, record

SAMPLES = names(FOLDER)


def test_each_type_has_a_sample_and_each_sample_a_type() -> None:
    assert set(SAMPLES) == set(RDP_SESSION_TYPES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_and_written_again_as_it_was(name: str) -> None:
    fields = read(FOLDER, name)
    event = read_and_written_again(RdpSessionEvent, fields)
    assert event.type == name
    assert json.loads(encode(event.data)) == fields["value"]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_more_is_refused(name: str) -> None:
    fields = read(FOLDER, name)
    with pytest.raises(FormatError):
        RdpSessionEvent.from_kafka(*record({**fields, "value": {**fields["value"], "more": 1}}))


@pytest.mark.parametrize("name", SAMPLES)
def test_another_key_than_its_subject_is_refused(name: str) -> None:
    fields = read(FOLDER, name)
    fields["key"] = fields["headers"]["ce_subject"] = "9"
    with pytest.raises(InvalidEvent, match="another"):
        RdpSessionEvent.from_kafka(*record(fields))


def test_the_contract_names_the_models_of_the_topics() -> None:
    contract = parse_contract((Path(__file__).parents[2] / "topics.yaml").read_text())
    assert contract.topic("rdp.session.events").model() is RdpSessionEvent
    assert contract.topic("rdp.session.commands").model() is RdpSessionCommand


def test_a_command_is_read_under_its_own_key_only() -> None:
    command = RdpSessionCommand(
        id=str(new_session_id()), host="desk7", session=SESSION, action="suspend"
    )
    assert read_session_command(SESSION.encode(), encode(command)) == command
    with pytest.raises(FormatError, match="another key"):
        read_session_command(None, encode(command))
    with pytest.raises(FormatError):
        read_session_command(SESSION.encode(), encode(command) + b" ")
