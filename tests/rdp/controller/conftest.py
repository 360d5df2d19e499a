"""A room for each test, with nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rdp.controller.scene import Room


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    found = Room(tmp_path)
    yield found
    await found.close()


@pytest.fixture
async def open_room(tmp_path: Path) -> AsyncIterator[Room]:
    """Where recording is not required."""
    found = Room(tmp_path, required=False)
    yield found
    await found.close()
