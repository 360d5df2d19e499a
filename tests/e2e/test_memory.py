"""Memory stays within the byte budget while others stand still; `bench waiting`, but small."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from agents.platform.settings import Settings
from bench.waiting import MIB, measure
from tests.conftest import Stack

LIMITS = {
    "LUCID_PROCESSOR_HOLD_LIMIT": "4MiB", "LUCID_PROCESSOR_BUSY_LIMIT": "4MiB",
    "LUCID_PROCESSOR_FETCH_BYTES": "256KiB", "LUCID_PROCESSOR_THREADS": "1",
    "LUCID_STORAGE_BUSY_LIMIT": "8MiB", "LUCID_STORAGE_FETCH_BYTES": "512KiB",
    "LUCID_STORAGE_THREADS": "1",
}  # fmt: skip


@pytest.fixture
def forwarder(stack: Stack) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The catalog's port behind a process that can be stopped."""
    there = urlsplit(stack.mongo)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.forwarder", there.hostname or "", str(there.port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=10)


def test_what_waits_stays_on_the_broker(
    stack: Stack, tmp_path: Path, forwarder: tuple[int, subprocess.Popen[bytes]]
) -> None:
    port, process = forwarder
    there, mark = urlsplit(stack.mongo), uuid4().hex[:10]
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, database=f"memory_{mark}", topic_prefix=f"memory-{mark}.",
        mongo=stack.mongo.replace(there.netloc, f"127.0.0.1:{port}"),
    )  # fmt: skip
    figures = measure(
        settings, 12, 140, 100_000, MIB, 1.0,
        lambda: process.send_signal(signal.SIGSTOP), lambda: process.send_signal(signal.SIGCONT),
        LIMITS,
    )  # fmt: skip
    assert figures["frames_mib"] > 160
    assert 8 <= figures["storage_held_mib"] <= 8 + 4, figures
    assert figures["processor_ratio"] <= 1, figures
    assert figures["storage_ratio"] <= 1, figures
