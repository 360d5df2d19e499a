"""An X server, and a desktop on it, for whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.session.recorder.desktop import Desktop, Xvfb


@pytest.fixture
def xvfb() -> Iterator[Xvfb]:
    server = Xvfb()
    try:
        yield server
    finally:
        server.end()


@pytest.fixture
def desktop(xvfb: Xvfb, tmp_path: Path) -> Iterator[Desktop]:
    found = Desktop(xvfb.display, tmp_path)
    try:
        yield found
    finally:
        found.end()
