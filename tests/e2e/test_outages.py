"""The disk full, the catalog away: nothing is lost, and whoever looks is told."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Stack
from tests.e2e.conftest import Installation
from tests.e2e.forwarder import Forwarder
from tests.waiting import wait_for

MIB = 1024**2
FILES = ["00000000.chunk", "checkpoint.txt", "key.age", "manifest.json"]
OWN_DISK = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'


def can_mount() -> bool:
    """Whether a process may have mounts of its own here."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def on_a_small_disk(own: Installation, **marks: str) -> Path:
    """Start the services, storage with 8 MiB for its blobs; that folder, seen from here."""
    if not can_mount():
        pytest.skip("this machine lets no process mount a small disk")
    blobs = own.home / "blobs"
    blobs.mkdir()
    own.start("processor")
    own.start("pipeline")
    own.start("storage", around=["unshare", "--mount", "sh", "-c", OWN_DISK, str(blobs)], **marks)
    return Path(f"/proc/{own.running['storage'].pid}/root{blobs}")


def free_seen_by(own: Installation, service: str) -> float:
    """The free bytes that a service's guard has seen last."""
    port = own.port(service, own.running[service])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as got:
        text = got.read().decode()
    found = re.search(r"^lucid_disk_free_bytes (\S+)", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_storage_stops_taking_below_one_mark_and_goes_on_above_the_other(
    own: Installation,
) -> None:
    disk = on_a_small_disk(own, LUCID_MIN_FREE="2MiB", LUCID_RESUME_FREE="4MiB")
    process = own.running["storage"]
    filler = disk / "filler"
    filler.write_bytes(bytes(7 * MIB))
    wait_for(lambda: own.health("storage", process) == 503, "storage that is not ready")
    session = own.lucid("record", "--synthetic", "40", "--size", "50000", "--json")["session"]
    log = own.home / "processor.log"
    wait_for(lambda: "session sealed" in log.read_text(), "chunk on its way to storage")
    with filler.open("r+b") as file:
        file.truncate(5 * MIB)
    wait_for(lambda: free_seen_by(own, "storage") >= 2 * MIB, "look between the marks")
    assert own.health("storage", process) == 503
    assert not (disk / session).exists()
    assert "No space left" not in (own.home / "storage.log").read_text()
    filler.unlink()
    assert own.settled(session) == "completed"
    assert own.health("storage", process) == 200
    assert sorted(path.name for path in (disk / session).iterdir()) == FILES


def test_a_disk_that_another_program_fills_loses_nothing(own: Installation) -> None:
    disk = on_a_small_disk(own, LUCID_MIN_FREE="0")
    process = own.running["storage"]
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(9 * MIB))
    session = own.lucid("record", "--synthetic", "40", "--size", "50000", "--json")["session"]
    log = own.home / "storage.log"
    wait_for(lambda: "No space left" in log.read_text(), "sentence about the disk")
    assert own.health("storage", process) == 503
    assert own.state(session) not in ("completed", "incomplete")
    assert not list(disk.glob("*/*.chunk"))
    filler.unlink()
    assert own.settled(session) == "completed"
    assert own.health("storage", process) == 200
    assert sorted(path.name for path in (disk / session).iterdir()) == FILES


def test_a_catalog_that_is_away_holds_storage_up_until_it_is_back(
    own: Installation, stack: Stack
) -> None:
    there = urlsplit(stack.mongo)
    forwarder = Forwarder((there.hostname or "", there.port or 0))
    own.env["LUCID_MONGO"] = stack.mongo.replace(there.netloc, f"127.0.0.1:{forwarder.port}")
    for service in ("processor", "storage", "pipeline"):
        own.start(service)
    storage = own.running["storage"]
    forwarder.down()
    try:
        wait_for(lambda: own.health("storage", storage) == 503, "storage that is not ready")
        session = own.lucid("record", "--synthetic", "10", "--size", "5000", "--json")["session"]
        told = own.lucid("sessions", "show", session, check=False)
        assert told.returncode == 69
        assert b"LUCID_MONGO" in told.stderr
        chunk = own.home / "blobs" / session / "00000000.chunk"
        wait_for(chunk.exists, "file, which comes before the catalog's entry")
    finally:
        forwarder.up()
    assert own.settled(session) == "completed"
    wait_for(lambda: own.health("storage", storage) == 200, "storage that is ready again")
    forwarder.down()
