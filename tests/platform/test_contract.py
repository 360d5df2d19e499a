"""topics.yaml and a real broker: differences are found, told and mended."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from typer.testing import CliRunner

from agents.platform.broker import administering
from agents.platform.contract import (
    TopicDrift,
    apply_contract,
    ensure_contract,
    load_contract,
)
from agents.platform.settings import Settings
from agents.platform.topic_commands import app
from schemas.errors import ContractError
from tests.conftest import Stack


@pytest.fixture
def settings(stack: Stack, tmp_path: Path) -> Settings:
    prefix = f"c{uuid4().hex[:8]}."
    return Settings.load(home=tmp_path, kafka=stack.kafka, topic_prefix=prefix)


async def test_a_service_refuses_a_broker_without_the_topics_and_says_which(
    settings: Settings,
) -> None:
    with pytest.raises(TopicDrift, match=r"session\.frames") as caught:
        await ensure_contract(settings)
    assert "lucid topics" in str(caught.value)


async def test_apply_makes_it_so_and_a_second_time_changes_nothing(settings: Settings) -> None:
    contract = load_contract(settings)
    changed = await apply_contract(settings, contract)
    assert {one.topic for one in changed} == {topic.full_name for topic in contract.topics.values()}
    assert await apply_contract(settings, contract) == []
    await ensure_contract(settings)


async def test_a_changed_setting_is_drift_with_both_values(settings: Settings) -> None:
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    name = contract.topic("session.frames").full_name
    wanted = ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": "5000"})
    async with administering(settings) as client:
        await client.alter_configs([wanted])
    with pytest.raises(TopicDrift, match="5000"):
        await ensure_contract(settings)
    changed = await apply_contract(settings, contract)
    assert {one.topic for one in changed} == {name}
    await ensure_contract(settings)


def test_the_commands_plan_apply_and_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCID_KAFKA", settings.kafka or "")
    monkeypatch.setenv("LUCID_TOPIC_PREFIX", settings.topic_prefix)
    runner = CliRunner()
    assert runner.invoke(app, ["check"]).exit_code == 1
    planned = runner.invoke(app, ["plan"])
    assert planned.exit_code == 0
    assert "session.progress" in planned.output
    assert runner.invoke(app, ["apply"]).exit_code == 0
    assert runner.invoke(app, ["check"]).exit_code == 0
    assert "Nothing to change" in runner.invoke(app, ["plan"]).output


def test_asyncapi_names_every_topic() -> None:
    document = yaml.safe_load(CliRunner().invoke(app, ["asyncapi"]).output)
    assert document["asyncapi"].startswith("3.")
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert {"session.frames", "session.events", "dead.letters"} <= addresses


@pytest.mark.parametrize(
    "text", ["", "[]", "version: 2", "version: 1\ntopics: {a: {}}", "a: 1\na: 2", "\x00"]
)
def test_a_contract_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(text)
    with pytest.raises(ContractError):
        load_contract(Settings.load(home=tmp_path, topics_file=file))


def test_a_contract_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="LUCID_TOPICS_FILE"):
        load_contract(Settings.load(home=tmp_path, topics_file=tmp_path / "none.yaml"))
