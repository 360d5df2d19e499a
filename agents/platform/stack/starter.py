"""Brings one server to the point where it answers."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.platform.ports import free_port, is_free
from agents.platform.stack import processes
from agents.platform.stack.cache import Progress
from agents.platform.stack.errors import PortTaken, ServerFailed
from agents.platform.stack.server import NotReady, Server
from agents.platform.stack.state import Record, StackFolder

_PROBE_SECONDS = 2.0
_POLL_SECONDS = 0.05
_ATTEMPTS = 3


class Remember(Protocol):
    """Keeps a record of a server at once, so that `down` finds it whatever happens next."""

    def __call__(self, name: str, record: Record) -> None: ...


@dataclass(frozen=True)
class Wish:
    """What is known before a start: the record of the last one, and a port asked for."""

    last: Record | None = None
    port: int | None = None


def is_healthy(server: Server, record: Record | None) -> bool:
    """Whether the recorded process runs and answers."""
    if record is None or record.process is None or processes.find(record.process) is None:
        return False
    try:
        server.probe(record.ports[0], seconds=_PROBE_SECONDS)
    except NotReady:
        return False
    return True


def start(
    server: Server,
    program: Path,
    folder: StackFolder,
    wish: Wish,
    *,
    remember: Remember,
    progress: Progress,
) -> Record:
    """Start `server` and wait until it answers; raises ServerFailed, PortTaken.

    A port that another program takes between choice and use is replaced by another one.
    """
    for attempt in range(_ATTEMPTS):
        ports = _choose_ports(server, wish, fresh=attempt > 0)
        home = folder.root / server.data
        home.mkdir(parents=True, exist_ok=True)
        progress("starting")
        command = server.prepare(program, home, ports)
        try:
            identity, child = processes.spawn(command, cwd=home, log=folder.log(server.name))
        except OSError as error:
            raise ServerFailed(f"{server.title} cannot be started: {error}") from error
        record = Record(process=identity, ports=ports, version=server.version(program))
        remember(server.name, record)
        progress("started, waiting for its first answer")
        try:
            _wait_ready(server, child, record, folder.log(server.name))
        except ServerFailed:
            processes.stop(identity, seconds=server.stop_seconds)
            lost = [port for port in ports if not is_free(port)]
            if lost and attempt + 1 < _ATTEMPTS:
                progress(f"port {lost[0]} was taken meanwhile, trying another")
                continue
            raise
        return record
    raise AssertionError("unreachable")


def _choose_ports(server: Server, wish: Wish, *, fresh: bool) -> list[int]:
    """The client port and the others: asked for, else the last ones, else any free ones."""
    last = wish.last.ports if wish.last else []
    ports = []
    for place in range(1 + server.extra_ports):
        if place == 0 and wish.port is not None:
            if not is_free(wish.port):
                raise PortTaken(
                    f"port {wish.port} for {server.title} is in use by another program",
                    hint="Choose another one, or leave the choice to the stack",
                )
            ports.append(wish.port)
        elif not fresh and place < len(last) and is_free(last[place]):
            ports.append(last[place])
        else:
            ports.append(free_port())
    return ports


def _probe_own(server: Server, record: Record) -> None:
    port = record.ports[0]
    # Another program may answer on a port that ours is about to fail to get.
    if record.process is None or not processes.listens(record.process, port):
        raise NotReady(f"it does not listen on port {port} yet")
    server.probe(port, seconds=_PROBE_SECONDS)


def _wait_ready(server: Server, child: subprocess.Popen[bytes], record: Record, log: Path) -> None:
    deadline = time.monotonic() + server.start_seconds
    while True:
        try:
            _probe_own(server, record)
            return
        except NotReady as error:
            problem = str(error)
        if child.poll() is not None:
            what = f"ended with exit status {child.returncode} at its start"
        elif time.monotonic() > deadline:
            what = f"was not ready after {server.start_seconds:.0f} s ({problem})"
        else:
            time.sleep(_POLL_SECONDS)
            continue
        shown = processes.tail(log).replace("\n", "\n  ")
        raise ServerFailed(
            f"{server.title} {what}; the end of its log:\n  {shown}\n",
            hint=f"The whole log is {log}",
        )
