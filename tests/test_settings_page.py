"""docs/settings.md names every setting, and none that does not exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from agents.platform.settings import SECTIONS, Section, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


HOMES = {
    "retention": "session.storage.retention_settings",
    "node_management": "node.management.settings",
    "node_agent": "node.agent.settings",
    "server_manager": "rdp.server_manager.settings",
    "xrdp": "rdp.xrdp.settings",
    "controller": "rdp.controller.settings",
    "monitor": "rdp.monitor.settings",
}
"""Sections that do not stand in the settings of a session room of their name."""


def sections() -> list[type[Section]]:
    rooms = [
        importlib.import_module(f"agents.{HOMES.get(name, f'session.{name}.settings')}")
        for name in SECTIONS
    ]
    found = [
        getattr(room, f"{name.title().replace('_', '')}Settings")
        for room, name in zip(rooms, SECTIONS, strict=True)
    ]
    return [Settings, *found]


def test_the_page_names_every_setting_and_no_other() -> None:
    named = set(re.findall(r"^\| `(LUCID_[A-Z_]+)`", PAGE.read_text(), re.MULTILINE))
    real = {
        f"{section.model_config['env_prefix']}{name.upper()}"
        for section in sections()
        for name in section.model_fields
    }
    assert named == real
