"""Every event of the RDP monitor that was ever written is read, and means what it meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.envelope import Event, InvalidEvent
from schemas.errors import FormatError
from schemas.rdp_metrics import ALERT_TYPES, METRIC_TYPES, AlertEvent, MetricsEvent
from schemas.topics import parse_contract
from tests.vectors.make_rdp_metrics import FOLDER, samples
from tests.vectors.samples import Parts, names, read, record

SAMPLES = names(FOLDER)
KINDS: dict[str, type[Event]] = {
    **dict.fromkeys(METRIC_TYPES, MetricsEvent), **dict.fromkeys(ALERT_TYPES, AlertEvent),
}  # fmt: skip


def changed(name: str, **changes: Any) -> Parts:
    fields = read(FOLDER, name)
    return record({**fields, "value": {**fields["value"], **changes}})


def test_each_type_has_a_sample_and_each_sample_a_type() -> None:
    assert set(SAMPLES) == set(KINDS)


def test_the_samples_say_what_they_were_made_to_say() -> None:
    for event in samples():
        assert KINDS[event.type].from_kafka(*changed(event.type)) == event


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_more_is_refused_and_so_is_another_server(name: str) -> None:
    with pytest.raises(FormatError):
        KINDS[name].from_kafka(*changed(name, more=1))
    with pytest.raises(InvalidEvent, match="another server"):
        KINDS[name].from_kafka(*changed(name, server="01a20c5b-f2fa-7557-ac1e-5c3397094c99"))


def test_the_contract_names_the_models_of_the_topics() -> None:
    contract = parse_contract((Path(__file__).parents[2] / "topics.yaml").read_text())
    assert contract.topic("rdp.metrics").model() is MetricsEvent
    assert contract.topic("rdp.alerts").model() is AlertEvent
    for topic in ("xrdp.process.events", "xrdp.config.events", "rdp.session.events", "rdp.alerts"):
        assert "rdp-monitor" in contract.topic(topic).consumers
