"""A house of real xrdp servers in a folder of its own, and accounts that log on to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
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


def can_run() -> bool:
    """Whether real servers can run here."""
    tools = ("xrdp", "xrdp-sesman", "xfreerdp", "Xvfb", "xterm", "unshare", "useradd")
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in tools)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own ones are not."""
    folder = Path(tempfile.mkdtemp(prefix="lucid-rdp-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


@dataclass(frozen=True)
class Account:
    """A user of this machine, for the time of a test."""

    name: str
    password: str
    home: Path


@contextlib.contextmanager
def account(session: str) -> Iterator[Account]:
    """An account whose desktop is this shell script."""
    name, password = f"lucidt{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    subprocess.run(["useradd", "-m", "-s", "/bin/bash", name], check=True, capture_output=True)
    home = Path("/home") / name
    try:
        subprocess.run(["chpasswd"], input=f"{name}:{password}".encode(), check=True)
        (home / ".xsession").write_text(session)
        shutil.chown(home / ".xsession", name)
        yield Account(name, password, home)
    finally:
        subprocess.run(["pkill", "-KILL", "-u", name], check=False)
        deadline = time.monotonic() + 10
        while (
            subprocess.run(["userdel", "-r", name], check=False, capture_output=True).returncode
            not in (0, 6)
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)


@contextlib.contextmanager
def client(port: int, user: Account, password: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """An RDP client that logs on, under an X server of its own."""
    read, write = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as found:
        display = found.readline().strip()
    program = subprocess.Popen(
        # The password of an account that lives as long as the test.
        ["xfreerdp", f"/v:127.0.0.1:{port}", f"/u:{user.name}", f"/p:{password or user.password}",
         "/cert:ignore", "/size:800x600", "/log-level:ERROR"],
        env={**os.environ, "DISPLAY": f":{display}", "HOME": "/tmp"},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield program
    finally:
        for process in (program, screen):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
