"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.platform import stack as stack_api
from agents.platform.settings import Settings

KEPT_VARIABLES = ("LUCID_TEST_", "LUCID_CACHE")
TEST_STACK = "LUCID_TEST_STACK"
"""Names a home folder whose stack is used, and left up: saves the start of a private one."""


def pytest_configure() -> None:
    """No setting of the developer's own shell reaches a test."""
    for name in list(os.environ):
        if name.startswith("LUCID_") and not name.startswith(KEPT_VARIABLES):
            del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for the real servers carries the marker `stack`."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """A program that a test runs in this process, and that sets the umask, sets it for itself."""
    mask = os.umask(0o022)
    yield
    os.umask(mask)


@dataclass(frozen=True)
class Stack:
    """The real servers of this test run; topics and databases are each test's own."""

    home: Path
    settings: Settings
    kafka: str
    mongo: str
    redis: str


def own_settings(home: Path) -> Settings:
    """Settings of a stack in `home`, whatever a lucid.toml says."""
    return Settings.load(home=home, kafka=None, mongo=None, redis=None)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, the catalog and Redis on free ports, started once, when first asked for."""
    kept = os.environ.get(TEST_STACK)
    home = Path(kept) if kept else tmp_path_factory.mktemp("stack")
    settings = own_settings(home)
    try:
        found = stack_api.up(settings)
        yield Stack(home, settings, found.kafka, found.mongo, found.redis)
    finally:
        if not kept:
            stack_api.down(settings)
