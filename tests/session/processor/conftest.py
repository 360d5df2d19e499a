"""Stores with catalogs of their own, on topics that tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Stack
from tests.session.processor.replay_house import (
    House,
    installation,
    make_topics,
    open_house,
)


@pytest.fixture(scope="module")
def prefix(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_topics(stack, tmp_path_factory.mktemp("topics"))


@pytest.fixture(scope="module")
def other_prefix(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_topics(stack, tmp_path_factory.mktemp("topics"))


@pytest.fixture
async def house(stack: Stack, tmp_path: Path, prefix: str) -> AsyncIterator[House]:
    """A store and a catalog of its own, on topics that the tests of this file share."""
    async with open_house(installation(stack, tmp_path, prefix)) as found:
        yield found


@pytest.fixture
async def empty_log(stack: Stack, tmp_path: Path, other_prefix: str) -> AsyncIterator[House]:
    """The same on topics that few tests write to."""
    async with open_house(installation(stack, tmp_path, other_prefix)) as found:
        yield found
