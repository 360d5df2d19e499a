"""Audit events on a real broker: who, what, when, about what."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer

from agents.platform import audit
from agents.platform.audit import Audit, acting_user
from agents.platform.contract import apply_contract, load_contract
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.audit import AuditEvent, ProjectionRebuilt
from tests.conftest import Stack


async def test_an_act_is_on_the_topic_with_its_user_and_host(stack: Stack, tmp_path: Path) -> None:
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, topic_prefix=f"au{uuid4().hex[:8]}.", host="desk7"
    )
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    act = ProjectionRebuilt(projection="sessions", events=3)
    async with Producer(settings, contract.limits) as producer:
        written = await Audit(producer, contract, host="desk7").record(act, "sessions")
    consumer = AIOKafkaConsumer(
        contract.topic("audit.events").full_name, bootstrap_servers=stack.kafka,
        auto_offset_reset="earliest",
    )  # fmt: skip
    await consumer.start()
    try:
        raw = await consumer.getone()
    finally:
        await consumer.stop()
    found = AuditEvent.from_kafka(raw.key, raw.headers, raw.value)
    assert found == written
    assert (found.data, found.subject, found.source) == (act, "sessions", "lucid/cli/desk7")
    assert found.user == pwd.getpwuid(os.getuid()).pw_name
    assert abs(found.time - datetime.now(UTC)) < timedelta(seconds=30)


def test_the_environment_does_not_decide_who_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert acting_user() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(audit.os, "getuid", lambda: 3_999_999)
    assert acting_user() == "uid 3999999"
