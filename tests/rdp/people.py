"""Accounts of this machine and RDP clients, for the time of a test."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from demo.desktop import end
from tests.e2e.conftest import xvfb

DESKTOP = """\
#!/bin/sh
xsetroot -solid '#204060'
exec xterm -geometry 80x20+40+40 -T terminal
"""
TOOLS = ("xrdp", "xrdp-sesman", "xfreerdp", "Xvfb", "xterm", "xsetroot", "unshare", "useradd")


def can_run() -> bool:
    """Whether real desktops can be made here."""
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in TOOLS)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own ones are not."""
    folder = Path(tempfile.mkdtemp(prefix="lucid-rdp-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    password: str = field(repr=False)

    @property
    def home(self) -> Path:
        return Path("/home", self.name)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The user's processes of this name, oldest first, without those that are dead."""
        found = []
        for one in psutil.process_iter(["username", "status", "name", "create_time"]):
            if one.info["username"] == self.name and one.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(one)
        found.sort(key=lambda one: float(one.info["create_time"]))
        return [one for one in found if not name or one.info["name"] == name]

    def pid_of(self, program: str) -> int:
        """The newest process of this name."""
        return int(self.processes(program)[-1].pid)


@contextlib.contextmanager
def account(desktop: str = DESKTOP) -> Iterator[Account]:
    """An account whose desktop is this script."""
    found = Account(f"lucidt{secrets.token_hex(4)}", secrets.token_urlsafe(12))
    subprocess.run(["useradd", "-m", "-s", "/bin/bash", found.name], check=True,
                   capture_output=True)  # fmt: skip
    try:
        subprocess.run(["chpasswd"], input=f"{found.name}:{found.password}".encode(), check=True)
        script = found.home / ".xsession"
        script.write_text(desktop)
        script.chmod(0o755)
        yield found
    finally:
        deadline, gone = time.monotonic() + 10, False
        while not gone and time.monotonic() < deadline:
            for one in found.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            done = subprocess.run(["userdel", "-r", found.name], capture_output=True, check=False)
            gone = done.returncode in (0, 6)


@contextlib.contextmanager
def client(
    port: int, user: Account, screen: str = "", password: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """An RDP client that logs on: on a display, or under an X server of its own."""
    with contextlib.ExitStack() as ends:
        display = screen or ends.enter_context(xvfb("1024x768"))[0]
        program = subprocess.Popen(
            ["xfreerdp", f"/v:127.0.0.1:{port}", f"/u:{user.name}", "/from-stdin:force",
             "/cert:ignore", "/size:800x600", "/log-level:ERROR"],
            env={**os.environ, "DISPLAY": display, "HOME": "/tmp"},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert program.stdin is not None
        program.stdin.write(f"{password or user.password}\n".encode())
        program.stdin.close()
        ends.callback(end, program)
        yield program
