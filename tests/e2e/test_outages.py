"""The disk full, the catalog away: nothing is lost, and whoever looks is told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Stack
from tests.e2e.conftest import Installation, install, wait_for
from tests.e2e.forwarder import Forwarder

OWN_DISK = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'


@pytest.fixture
def own(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    """An installation without services; those that a test starts are ended."""
    installation = install(tmp_path / "home", stack)
    try:
        yield installation
    finally:
        for name in list(installation.running):
            installation.stop(name)


def can_mount() -> bool:
    """Whether a process may have mounts of its own here."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_full_disk_holds_storage_up_until_there_is_room(own: Installation) -> None:
    if not can_mount():
        pytest.skip("this machine lets no process mount a small disk")
    blobs = own.home / "blobs"
    blobs.mkdir()
    own.env["LUCID_MIN_FREE"] = "1MiB"
    own.start("processor")
    own.start("pipeline")
    own.start("storage", around=["unshare", "--mount", "sh", "-c", OWN_DISK, str(blobs)])
    process = own.running["storage"]
    disk = Path(f"/proc/{process.pid}/root{blobs}")
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(9 * 1024**2))
    session = own.lucid("record", "--synthetic", "40", "--size", "50000", "--json")["session"]
    log = own.home / "storage.log"
    wait_for(lambda: "No space left" in log.read_text(), "sentence about the disk")
    assert own.health("storage", process) == 503
    assert own.state(session) not in ("completed", "incomplete")
    assert not list(disk.glob("*/*.chunk"))
    filler.unlink()
    assert own.settled(session) == "completed"
    assert own.health("storage", process) == 200
    assert len(list((disk / session).glob("*.chunk"))) == 1


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
