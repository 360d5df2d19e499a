"""All servers of this host: a keeper for each, made and dropped as desired states come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import structlog

from agents.platform.service import StopSignal
from agents.rdp.xrdp.keeper import Report, ServerKeeper
from agents.rdp.xrdp.launcher import Launcher
from agents.rdp.xrdp.settings import XrdpSettings
from schemas.errors import FormatError
from schemas.rdp_config import DesiredServer
from schemas.sessions import parse_session_id

log = structlog.get_logger(__name__)


@dataclass
class House:
    """The servers of a host (a part of the service).

    Stopping the service ends no desktop: the next one takes its processes over.
    """

    launcher: Launcher
    section: XrdpSettings
    host: str
    report: Report
    name: str = "servers"
    keepers: dict[str, ServerKeeper] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: asyncio.Future[None] | None = None
    _running: bool = False

    def take_over(self, wanted: Mapping[str, DesiredServer]) -> None:
        """Begin with all desired states, and with what an earlier service left here.

        What is left of a server that nobody wants any more is ended.
        """
        for server, one in wanted.items():
            self.want(server, one)
        for server in self.launcher.left_over():
            try:
                parse_session_id(server)
            except FormatError:
                continue  # whatever it is, it is none of ours
            if server not in self.keepers:
                log.warning("ending what is left of a server", server=server)
                self._add(server)

    def want(self, server: str, wanted: DesiredServer | None) -> None:
        """What a server shall be; a tombstone removes what is left of it."""
        keeper = self.keepers.get(server)
        if wanted is not None and wanted.host != self.host:
            wanted = None
        if keeper is None:
            # A removed server of which a late record speaks has nothing here to end.
            if wanted is None:
                return
            keeper = self._add(server)
        keeper.want(wanted)

    def _add(self, server: str) -> ServerKeeper:
        keeper = ServerKeeper(server, self.launcher, self.section, self.host, self.report)
        self.keepers[server] = keeper
        if self._running:
            self._begin(keeper)
        return keeper

    def _begin(self, keeper: ServerKeeper) -> None:
        # A context of its own: the record that made it is not what its log lines are about.
        task = asyncio.create_task(
            keeper.run(self._stop), name=f"server {keeper.server}", context=Context()
        )
        self._tasks[keeper.server] = task
        task.add_done_callback(lambda done: self._ended(keeper, done))

    def _ended(self, keeper: ServerKeeper, task: asyncio.Task[None]) -> None:
        if self.keepers.get(keeper.server) is keeper and keeper.gone:
            del self.keepers[keeper.server]
            del self._tasks[keeper.server]
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set; raises the error of a keeper that is a bug."""
        self._failed = asyncio.get_running_loop().create_future()
        self._running = True
        for keeper in list(self.keepers.values()):
            self._begin(keeper)
        stopped = asyncio.create_task(stop.wait())
        waiting: list[asyncio.Future[Any]] = [stopped, self._failed]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            self._running = False
            self._stop.set()
            if self._tasks:
                await asyncio.wait(
                    set(self._tasks.values()), timeout=max(0.0, stop.deadline.remaining() - 1)
                )
            for task in list(self._tasks.values()):
                task.cancel()
        if self._failed.done():
            self._failed.result()
        self._failed.cancel()
