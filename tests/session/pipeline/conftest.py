"""A keeper of sessions on topics and collections of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from agents.platform.catalog import Catalog
from agents.platform.contract import apply_contract, load_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.session.pipeline.keeper import SessionKeeper, Topics
from tests.conftest import Stack
from tests.session.pipeline.keeper_scene import (
    BEGIN,
)


@pytest.fixture
async def keeper(stack: Stack, tmp_path: Path) -> AsyncIterator[SessionKeeper]:
    mark = uuid4().hex[:8]
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, mongo=stack.mongo, database=f"s{mark}",
        topic_prefix=f"s{mark}.",
    )  # fmt: skip
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        events = EventBus(producer, contract, service="pipeline", host="h")
        topics = Topics(
            contract.topic("session.frames").full_name, contract.topic("session.anchors").full_name
        )
        yield SessionKeeper(catalog, producer, events, topics, "h", clock=lambda: BEGIN)
