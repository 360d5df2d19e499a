"""Every event about nodes is read from its sample, and from no other bytes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from schemas.canonical import encode
from schemas.envelope import InvalidEvent
from schemas.errors import FormatError
from schemas.node_base import NodeTopicEvent
from schemas.node_heartbeats import HeartbeatEvent, HeartbeatSent, check_beat
from schemas.node_registration import ChallengeAnswered, check_answer
from schemas.node_signing import Purpose, signed_bytes
from schemas.topics import parse_contract
from tests.node.factories import BEGIN, heartbeat, signer
from tests.vectors.make_node_events import FOLDER, KINDS
from tests.vectors.samples import names, read, read_and_written_again, record

BY_TYPE: dict[str, type[NodeTopicEvent]] = {name: kind for kind in KINDS for name in kind.types}
SAMPLES = names(FOLDER)


def test_each_type_has_a_sample_and_each_sample_a_type() -> None:
    assert set(SAMPLES) == set(BY_TYPE)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_and_written_again_as_it_was(name: str) -> None:
    fields = read(FOLDER, name)
    event = read_and_written_again(BY_TYPE[name], fields)
    assert (event.type, event.correlation) == (name, "c-1")
    assert json.loads(encode(event.data)) == fields["value"]
    if isinstance(event.data, ChallengeAnswered):
        check_answer(event.data)
    if isinstance(event.data, HeartbeatSent):
        check_beat(str(signer().verifier), event.data)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_more_or_less_or_another_subject_is_refused(name: str) -> None:
    fields, kind = read(FOLDER, name), BY_TYPE[name]
    more = {**fields["value"], "more": 1}
    less = dict(sorted(fields["value"].items())[1:])
    for value in (more, less):
        with pytest.raises(FormatError):
            kind.from_kafka(*record({**fields, "value": value}))
    other = {**fields, "key": "desk9", "headers": {**fields["headers"], "ce_subject": "desk9"}}
    with pytest.raises(InvalidEvent, match="something else"):
        kind.from_kafka(*record(other))


@pytest.mark.parametrize("name", ["heartbeat_sent", "challenge_answered"])
def test_a_stranger_checks_a_signature_by_the_page_alone(name: str) -> None:
    value = read(FOLDER, f"lucid.node.{name}.v1")["value"]
    if name == "heartbeat_sent":
        purpose, body = "lucid/node-heartbeat/1", value["beat"]
    else:
        names = ("node", "registration", "challenge", "key")
        purpose, body = "lucid/node-answer/1", {"version": 1, **{one: value[one] for one in names}}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    key = read(FOLDER, "lucid.node.challenge_answered.v1")["value"]["key"]
    public = base64.b64decode(key.split("+", 2)[2])
    checker = VerifyKey(public[1:])
    checker.verify(f"{purpose}\n{text}".encode(), base64.b64decode(value["signature"]))
    with pytest.raises(BadSignatureError):
        checker.verify(text.encode(), base64.b64decode(value["signature"]))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_heartbeat_are_a_format_error(value: bytes) -> None:
    key, headers, _ = HeartbeatEvent(heartbeat(1, BEGIN), "lucid/t/h", "desk7").to_kafka()
    with pytest.raises(FormatError):
        HeartbeatEvent.from_kafka(key, [*headers], value)


@pytest.mark.parametrize("name", ["Desk7", ".clock", "-a", "a-", "a_b", "", "a" * 64, "ä"])
def test_node_ids_are_labels(name: str) -> None:
    with pytest.raises(ValueError):
        heartbeat(1, BEGIN, node=name)


def test_what_is_signed_begins_with_its_purpose_and_is_canonical() -> None:
    beat = heartbeat(1, BEGIN).beat
    purpose, _, body = signed_bytes(Purpose.HEARTBEAT, beat).partition(b"\n")
    assert purpose == b"lucid/node-heartbeat/1"
    assert body == encode(beat)
    assert len({one.value for one in Purpose}) == len(Purpose)
    for one in Purpose:
        assert "\n" not in one.value


def test_the_contract_names_the_models_and_who_may_write() -> None:
    topics = parse_contract((Path(__file__).parents[2] / "topics.yaml").read_text()).topics
    nodes = {name: topic for name, topic in topics.items() if name.startswith("node.")}
    assert len(nodes) == 8
    assert all(topic.partitions == 1 for topic in nodes.values()), "their order is the log's"
    by_agents = {name for name, topic in nodes.items() if "node-agent" in topic.producers}
    assert by_agents == {"node.registration", "node.heartbeats"}
    timed = {name for name, topic in nodes.items() if topic.settings}
    assert timed == {"node.registration", "node.heartbeats", "node.commands"}
