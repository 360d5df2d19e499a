"""A house of real xrdp servers in a folder of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.platform.ports import free_port, is_free
from agents.platform.process_table import marked
from agents.platform.service import StopSignal
from agents.rdp.xrdp.house import House
from agents.rdp.xrdp.keeper import ServerKeeper
from agents.rdp.xrdp.launcher import SOCKETS, Launcher
from agents.rdp.xrdp.rendering import MARK
from agents.rdp.xrdp.settings import XrdpSettings
from schemas.rdp_config import DesiredServer, ServerConfig
from schemas.rdp_processes import ProcessChanged
from schemas.sessions import new_session_id
from tests.waiting import until

FAST: dict[str, Any] = {
    "check_every": 0.2, "check_timeout": 1.0, "check_failures": 2, "restart_first": 0.1,
    "restart_most": 0.2, "stop_within": 3.0, "sesman_offset": 1,
}  # fmt: skip


def two_ports() -> int:
    """A free port whose neighbour is free, too: for xrdp and its session manager."""
    while not is_free((port := free_port()) + 1):
        pass
    return port


@dataclass
class Yard:
    """A house that runs, and what it reported."""

    folder: Path
    section: XrdpSettings
    reports: list[ProcessChanged] = field(default_factory=list)
    house: House = field(init=False)
    launcher: Launcher = field(init=False)

    def __post_init__(self) -> None:
        self.launcher = Launcher(self.section, self.folder)
        self.house = House(self.launcher, self.section, "desk", self.reports.append)

    def want(self, **fields: Any) -> DesiredServer:
        """Ask for a server; version 1, running, on a free port unless said otherwise."""
        port = fields.pop("port", None) or two_ports()
        wanted = DesiredServer(**{
            "server": str(new_session_id()), "name": "desk-one", "host": "desk", "version": 1,
            "desired": "running", "restarts": 0, "port": port, "config": ServerConfig(), **fields,
        })  # fmt: skip
        self.house.want(wanted.server, wanted)
        return wanted

    def again(self, wanted: DesiredServer, **changes: Any) -> DesiredServer:
        """Ask for something else of the same server."""
        after = wanted.model_copy(update={"version": wanted.version + 1, **changes})
        self.house.want(after.server, after)
        return after

    def keeper(self, wanted: DesiredServer) -> ServerKeeper:
        return self.house.keepers[wanted.server]

    def states(self, wanted: DesiredServer) -> list[str]:
        return [one.state for one in self.reports if one.server == wanted.server]

    async def reach(self, wanted: DesiredServer, state: str, **fields: Any) -> ProcessChanged:
        """The last report, once it is of this state and the wanted version."""

        def look() -> ProcessChanged | None:
            found = [one for one in self.reports if one.server == wanted.server]
            last = found[-1] if found else None
            if last is None or last.state != state or last.version != wanted.version:
                return None
            return last if all(getattr(last, k) == v for k, v in fields.items()) else None

        found: ProcessChanged = await until(look, f"{state} server; {self.reports[-3:]}")
        return found

    async def gone(self, wanted: DesiredServer) -> None:
        """Wait until nothing is left of a server."""
        await until(lambda: wanted.server not in self.house.keepers, "removed server")


@asynccontextmanager
async def running(folder: Path, take_over: Any = None, **settings: Any) -> AsyncIterator[Yard]:
    """A yard whose house runs; at the end everything that it started is ended."""
    yard = Yard(folder, XrdpSettings(**{**FAST, **settings}))
    yard.house.take_over(take_over or {})
    stop = StopSignal()
    working = asyncio.create_task(yard.house.run(stop))
    try:
        await asyncio.sleep(0)
        yield yard
        for keeper in list(yard.house.keepers.values()):
            keeper.want(None)
        await until(lambda: not yard.house.keepers or working.done(), "empty house")
    finally:
        stop.set()
        await working
        for server in {one.server for one in yard.reports}:
            await yard.launcher.end_all(server, yard.reports[0].pids)


def leftovers(yard: Yard, wanted: DesiredServer) -> list[str]:
    """What is left of a server: processes, ports, files."""
    found = [str(one) for one in marked(MARK).get(wanted.server, [])]
    found += [str(port) for port in (wanted.port, wanted.port + 1) if not is_free(port)]
    layout = yard.launcher.layout(wanted)
    found += [str(layout.folder)] if layout.folder.exists() else []
    for display in range(layout.display, layout.display + 20):
        names = [Path(f"/tmp/.X{display}-lock"), Path(f"/tmp/.X11-unix/X{display}")]
        names += list(SOCKETS.glob(f"*_{display}"))
        found += [str(path) for path in names if path.exists()]
    return found
