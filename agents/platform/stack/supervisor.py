"""Starts, stops and describes the servers of one stack folder."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from agents.platform.settings import Settings
from agents.platform.stack import processes
from agents.platform.stack.cache import cache_folder
from agents.platform.stack.ferretdb import FerretDB
from agents.platform.stack.kafka import Kafka
from agents.platform.stack.redis import Redis
from agents.platform.stack.server import Server
from agents.platform.stack.starter import Wish, is_healthy, start
from agents.platform.stack.state import Record, StackFolder, State

SERVERS: tuple[Server, ...] = (Kafka(), FerretDB(), Redis())
# All that `reset` deletes; the lock stays, a command may be waiting for it.
_OWN_FILES = ("endpoints.json", "state.json", "logs", *(server.data for server in SERVERS))

ServerState = Literal["running", "not answering", "stopped", "yours"]
StepReport = Callable[[str, str], None]
"""Called with a server's name (empty for the stack) and what is being done."""


@dataclass(frozen=True)
class Endpoints:
    """Where the three servers are; `started` names those that this call had to start."""

    kafka: str
    mongo: str
    redis: str
    started: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerStatus:
    """One row of `lucid stack status`; `yours` is a server of the user's own, not probed."""

    server: str
    title: str
    state: ServerState
    address: str | None
    pid: int | None
    version: str | None
    log: str | None


def _quiet(server: str, step: str) -> None:
    """The progress report of callers that want none."""


def is_own(settings: Settings, server: Server) -> bool:
    """Whether the settings name the user's own server in its place."""
    return getattr(settings, server.name) is not None


def up(
    settings: Settings,
    *,
    ports: Mapping[str, int] | None = None,
    report: StepReport = _quiet,
) -> Endpoints:
    """Start what does not run yet and wait until it answers; does nothing more if all do.

    `ports` asks for ports by server name. Servers that were started stay up when another
    one fails. Raises StackError and MissingTool.
    """
    folder = StackFolder(settings.stack_dir)
    wanted = [server for server in SERVERS if not is_own(settings, server)]
    if not wanted:
        return _endpoints(settings, State(), ())
    with folder.locked(partial(report, "")):
        run = _Run(settings, folder, dict(ports or {}), report)
        with ThreadPoolExecutor(len(wanted)) as pool:
            jobs = [pool.submit(run.ensure, server) for server in wanted]
        run.write_endpoints()
        for job in jobs:
            job.result()
        return _endpoints(settings, run.state, tuple(run.started))


class _Run:
    """One `up`: the state that the servers' threads share."""

    def __init__(
        self, settings: Settings, folder: StackFolder, ports: dict[str, int], report: StepReport
    ) -> None:
        self.cache = cache_folder(settings.cache)
        self.folder = folder
        self.ports = ports
        self.report = report
        self.state = folder.read()
        self.started: list[str] = []
        self._guard = threading.Lock()

    def ensure(self, server: Server) -> None:
        """Leave a healthy server alone, start any other one."""
        name, progress = server.name, partial(self.report, server.name)
        last, port = self.state.servers.get(name), self.ports.get(name)
        if (port is None or (last and port == last.ports[0])) and _becomes_healthy(server, last):
            progress("is up already")
            return
        program = server.install(self.cache, progress)
        if last and last.process:
            progress("stopping the one that is there")
            processes.stop(last.process, seconds=server.stop_seconds)
        start(
            server,
            program,
            self.folder,
            Wish(last, port),
            remember=self.remember,
            progress=progress,
        )
        self.started.append(name)
        progress("is up")

    def remember(self, name: str, record: Record) -> None:
        with self._guard:
            self.state.servers[name] = record
            self.folder.write(self.state)

    def write_endpoints(self) -> None:
        self.folder.write_endpoints(_addresses(self.state))


def _becomes_healthy(server: Server, record: Record | None) -> bool:
    """Whether a server that runs answers, with the time that one at its start has."""

    def settled() -> bool:
        gone = not (record and record.process and processes.find(record.process))
        return gone or is_healthy(server, record)

    return processes.wait_until(settled, seconds=server.start_seconds) and is_healthy(
        server, record
    )


def _addresses(state: State) -> dict[str, str]:
    """URLs of the servers whose recorded processes run."""
    return {
        server.name: server.url(record.ports[0])
        for server in SERVERS
        if (record := state.servers.get(server.name))
        and record.process
        and processes.find(record.process)
    }


def _endpoints(settings: Settings, state: State, started: tuple[str, ...]) -> Endpoints:
    found = _addresses(state)
    return Endpoints(
        kafka=settings.kafka or found["kafka"],
        mongo=settings.mongo.get_secret_value() if settings.mongo else found["mongo"],
        redis=settings.redis.get_secret_value() if settings.redis else found["redis"],
        started=started,
    )


def down(settings: Settings, *, report: StepReport = _quiet) -> list[str]:
    """End all servers that this stack folder started, all at once; returns their names.

    Data, logs and ports are kept. Raises StackError.
    """
    folder = StackFolder(settings.stack_dir)
    if not folder.root.exists():
        return []
    with folder.locked(partial(report, "")):
        return _stop_all(folder, report)


def _stop_all(folder: StackFolder, report: StepReport) -> list[str]:
    state = folder.read()

    def stop(server: Server) -> bool:
        record = state.servers.get(server.name)
        if record is None or record.process is None:
            return False
        report(server.name, "stopping")
        return processes.stop(record.process, seconds=server.stop_seconds)

    with ThreadPoolExecutor(len(SERVERS)) as pool:
        stopped = [s.name for s, did in zip(SERVERS, pool.map(stop, SERVERS), strict=True) if did]
    for name, record in state.servers.items():
        state.servers[name] = record.model_copy(update={"process": None})
    if state.servers:
        folder.write(state)
    folder.write_endpoints({})
    return stopped


def status(settings: Settings) -> list[ServerStatus]:
    """Each server as it is now, asked for a real answer; raises StackError."""
    folder = StackFolder(settings.stack_dir)
    state = folder.read()
    with ThreadPoolExecutor(len(SERVERS)) as pool:
        describe = partial(_describe, settings, folder, state)
        return list(pool.map(describe, SERVERS))


def _describe(
    settings: Settings, folder: StackFolder, state: State, server: Server
) -> ServerStatus:
    record = state.servers.get(server.name)
    log = folder.log(server.name)
    shown_log = str(log) if log.exists() else None
    process = processes.find(record.process) if record and record.process else None
    if is_own(settings, server):
        own = _without_password(settings, server.name)
        return ServerStatus(server.name, server.title, "yours", own, None, None, None)
    version = record.version if record else None
    if record is None or process is None:
        return ServerStatus(server.name, server.title, "stopped", None, None, version, shown_log)
    found: ServerState = "running" if is_healthy(server, record) else "not answering"
    address = server.url(record.ports[0])
    return ServerStatus(server.name, server.title, found, address, process.pid, version, shown_log)


def _without_password(settings: Settings, name: str) -> str:
    """The user's own address, host and path only."""
    value = getattr(settings, name)
    text = value if isinstance(value, str) else value.get_secret_value()
    if "://" not in text:
        return str(text)
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def reset(settings: Settings, *, report: StepReport = _quiet) -> list[str]:
    """End the servers and delete their data and logs; returns what was deleted.

    Nothing but the stack's own files within its folder is touched, and no link is followed.
    """
    folder = StackFolder(settings.stack_dir)
    if not folder.root.exists():
        return []
    deleted = []
    with folder.locked(partial(report, "")):
        _stop_all(folder, report)
        for name in _OWN_FILES:
            path = folder.root / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                continue
            deleted.append(name)
    return deleted
