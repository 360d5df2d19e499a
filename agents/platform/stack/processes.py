"""Child processes that outlive the command that starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from agents.platform.stack.server import Command

_POLL_SECONDS = 0.05
_TAIL_BYTES = 16 * 1024
# The kernel's clock ticks and the clock's slewing round a start time; a number is not given
# to another process within a second of its first one's start.
_SAME_START_SECONDS = 1.0


class Identity(BaseModel):
    """A process: its number and when it started (seconds since 1970), as numbers recur."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    pid: int
    created: float


# Children of this very process, which must be waited for besides being ended.
_children: dict[int, subprocess.Popen[bytes]] = {}


def spawn(command: Command, *, cwd: Path, log: Path) -> tuple[Identity, subprocess.Popen[bytes]]:
    """Start `command` in a session of its own, its output in `log`; OSError if it cannot.

    The log of the start before is kept beside it with `.1`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            command.argv,
            cwd=cwd,
            env=_environment(command),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    _children[process.pid] = process
    # Nobody has waited for it yet, so its number exists even if it has ended.
    created = psutil.Process(process.pid).create_time()
    return Identity(pid=process.pid, created=created), process


def _environment(command: Command) -> dict[str, str]:
    """The caller's environment without Lucid's settings, which may hold passwords."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LUCID_")}
    return {**kept, **command.env}


def find(identity: Identity) -> psutil.Process | None:
    """The process if it still runs and is the same one, not a later one of its number."""
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.created) < _SAME_START_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def listens(identity: Identity, port: int) -> bool:
    """Whether this very process listens on TCP `port`."""
    process = find(identity)
    if process is None:
        return False
    try:
        sockets = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def stop(identity: Identity, *, seconds: float) -> bool:
    """End the process: SIGTERM, and SIGKILL after `seconds`. False if it did not run.

    Nothing is sent to another process that has its number now.
    """
    if not _send(identity, signal.SIGTERM):
        return False
    if not wait_until(lambda: find(identity) is None, seconds=seconds):
        _send(identity, signal.SIGKILL)
        wait_until(lambda: find(identity) is None, seconds=5.0)
    child = _children.pop(identity.pid, None)
    if child is not None:
        child.wait()
    return True


def _send(identity: Identity, number: signal.Signals) -> bool:
    process = find(identity)
    if process is None:
        return False
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def wait_until(done: Callable[[], bool], *, seconds: float) -> bool:
    """Ask `done` again and again until it is true; False when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, or a word that it is empty."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    found = [line for line in text.splitlines() if line.strip()]
    return "\n".join(found[-lines:]) or "(the log is empty)"
