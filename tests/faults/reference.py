"""The undisturbed run: the same log, one processor, one storage, no faults."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tests.e2e.conftest import Installation
from tests.faults.topics import SessionLog, read_and_copy

PREFIX = "undisturbed-"


def seal_again(
    installation: Installation, home: Path, kafka: str, mongo: str
) -> tuple[dict[str, SessionLog], Path]:
    """Seal and store a copy of an installation's frame records; the log, and the blobs.

    kafka, mongo: the servers' own addresses. Raises AssertionError when a session that the
    log ends is not wholly stored in time.
    """
    prefix = installation.env["LUCID_TOPIC_PREFIX"]
    home.mkdir(mode=0o700)
    env = {
        **installation.env, "LUCID_HOME": str(home), "LUCID_KAFKA": kafka, "LUCID_MONGO": mongo,
        "LUCID_KEYS": str(installation.home / "keys"),
        "LUCID_DATABASE": f"{installation.env['LUCID_DATABASE']}_again",
        "LUCID_TOPIC_PREFIX": f"{PREFIX}{prefix}",
    }  # fmt: skip
    again = Installation(home, env)
    again.lucid("topics", "apply")
    logs = asyncio.run(
        read_and_copy(kafka, f"{prefix}session.frames", f"{PREFIX}{prefix}session.frames")
    )
    try:
        again.start("processor")
        again.start("storage")
        ended = [log.session for log in logs.values() if log.ended]
        _wait_until_stored(home / "blobs", ended)
    finally:
        statuses = {name: again.stop(name) for name in list(again.running)}
    if set(statuses.values()) - {0}:
        raise AssertionError(f"the undisturbed services ended with {statuses}: see {home}")
    return logs, home / "blobs"


def _wait_until_stored(blobs: Path, sessions: list[str], seconds: float = 120.0) -> None:
    """Wait until every session is whole; the deadline starts anew with each that is."""
    waiting, deadline = set(sessions), time.monotonic() + seconds
    while waiting:
        done = {session for session in waiting if is_whole(blobs / session)}
        if done:
            waiting -= done
            deadline = time.monotonic() + seconds
        elif time.monotonic() > deadline:
            raise AssertionError(f"{len(waiting)} sessions were not sealed again in {blobs}")
        else:
            time.sleep(0.1)


def is_whole(folder: Path) -> bool:
    """Whether a session has its manifest, and all that the manifest counts."""
    names = {path.name for path in folder.glob("*")}
    if not {"manifest.json", "checkpoint.txt", "key.age"} <= names:
        return False
    count = json.loads((folder / "manifest.json").read_bytes())["chunks"]
    return sum(name.endswith(".chunk") for name in names) >= int(count)
