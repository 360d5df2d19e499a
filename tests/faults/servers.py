"""Kafka and the catalog of one run, each behind a forwarder, to be taken away and brought back."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agents.platform.stack import processes
from agents.platform.stack.cache import cache_folder
from agents.platform.stack.ferretdb import FerretDB
from agents.platform.stack.kafka import Kafka
from agents.platform.stack.server import Command, Server
from agents.platform.stack.starter import Wish, start
from agents.platform.stack.state import Record, StackFolder
from tests.e2e.forwarder import Forwarder

NOWHERE = ("127.0.0.1", 9)


class ProxiedKafka(Kafka):
    """A broker with one listener more, which tells its clients the forwarder's port."""

    extra_ports = 2

    def __init__(self, advertised: int) -> None:
        self._advertised = advertised

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        command = super().prepare(program, folder, ports[:2])
        config = folder / "server.properties"
        text = config.read_text()
        for name, port in (("listeners", ports[2]), ("advertised.listeners", self._advertised)):
            text = re.sub(
                rf"(?m)^({name}=.*)$", rf"\1,PROXIED://127.0.0.1:{port}", text, count=1
            )  # fmt: skip
        config.write_text(text.replace("protocol.map=", "protocol.map=PROXIED:PLAINTEXT,"))
        return command


@dataclass
class Running:
    """A server, its forwarder, and the record that it is started again from.

    turn: of outages, for under load a server may come back after its next one is due.
    """

    server: Server
    program: Path
    forwarder: Forwarder
    record: Record | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)


class Servers:
    """The servers of one run under `root`; `names` are broker and catalog.

    Taking away and bringing back happens in a thread: `busy` says whether one is at work, and
    what goes wrong there is raised by `check`.
    """

    def __init__(self, root: Path) -> None:
        self._folder = StackFolder(root)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="server")
        self._jobs: list[Future[None]] = []
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        cache = cache_folder(None)
        self._all: dict[str, Running] = {}
        for name in ("broker", "catalog"):
            forwarder = Forwarder(NOWHERE)
            server: Server = ProxiedKafka(forwarder.port) if name == "broker" else FerretDB()
            program = server.install(cache, lambda _: None)
            self._all[name] = Running(server, program, forwarder)

    def up(self) -> None:
        """Start both and wait until they answer."""
        list(self._pool.map(self._start, self._all))

    def _start(self, name: str) -> None:
        one = self._all[name]
        before = one.record.ports if one.record else None

        def remember(_: str, record: Record) -> None:
            one.record = record

        start(one.server, one.program, self._folder, Wish(one.record), remember=remember,
              progress=lambda _: None)  # fmt: skip
        assert one.record is not None
        if before not in (None, one.record.ports):
            raise RuntimeError(f"the {name} came back on ports {one.record.ports}, not {before}")
        place = 2 if name == "broker" else 0
        one.forwarder.target = ("127.0.0.1", one.record.ports[place])

    def forwarder(self, name: str) -> Forwarder:
        return self._all[name].forwarder

    def direct(self, name: str) -> str:
        """The server's own address, round the forwarder."""
        one = self._all[name]
        assert one.record is not None
        return one.server.url(one.record.ports[0])

    def proxied(self, name: str) -> str:
        """The address by way of the forwarder."""
        one = self._all[name]
        return one.server.url(one.forwarder.port)

    def outage(self, name: str, *, hard: bool, until: float) -> None:
        """End a server, by SIGKILL if `hard`, and start it again at monotonic time `until`."""

        def job() -> None:
            with self._all[name].turn:
                self._end(name, hard=hard)
                while (left := until - time.monotonic()) > 0:
                    time.sleep(min(left, 0.1))
                self._start(name)

        self._submit(job)

    def _submit(self, job: Callable[[], None]) -> None:
        self._jobs.append(self._pool.submit(job))

    def _end(self, name: str, *, hard: bool) -> None:
        one = self._all[name]
        assert one.record is not None
        assert one.record.process is not None
        if hard:
            os.kill(one.record.process.pid, signal.SIGKILL)
            os.waitpid(one.record.process.pid, 0)
        else:
            processes.stop(one.record.process, seconds=one.server.stop_seconds)

    def check(self) -> None:
        """Raise what went wrong with a server."""
        for job in [job for job in self._jobs if job.done()]:
            self._jobs.remove(job)
            job.result()

    def settle(self) -> None:
        """Wait until both are there, and hand everything on again."""
        for job in self._jobs:
            job.result(120)
        self._jobs.clear()
        for one in self._all.values():
            one.forwarder.flow()

    def close(self) -> None:
        """End everything."""
        self._pool.shutdown(cancel_futures=True)
        for one in self._all.values():
            one.forwarder.down()
            if one.record is not None and one.record.process is not None:
                processes.stop(one.record.process, seconds=one.server.stop_seconds)
