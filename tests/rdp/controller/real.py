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
from dataclasses import dataclass
from pathlib import Path

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
    folder = Path(tempfile.mkdtemp(prefix="lucid-ctl-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    password: str

    def pids(self) -> list[int]:
        """The user's processes, without those that are dead."""
        done = subprocess.run(
            ["ps", "-u", self.name, "-o", "pid=,stat="], capture_output=True, text=True, check=False
        )
        rows = [line.split() for line in done.stdout.splitlines()]
        return [int(pid) for pid, state in rows if not state.startswith("Z")]

    def pid_of(self, program: str) -> int:
        """The newest process of this name."""
        done = subprocess.run(
            ["pgrep", "-n", "-u", self.name, program], capture_output=True, text=True, check=False
        )
        return int(done.stdout or 0)


@contextlib.contextmanager
def account(desktop: str = DESKTOP) -> Iterator[Account]:
    """An account whose desktop is this script."""
    found = Account(f"lucidc{secrets.token_hex(4)}", secrets.token_urlsafe(12))
    subprocess.run(["useradd", "-m", "-s", "/bin/bash", found.name], check=True,
                   capture_output=True)  # fmt: skip
    try:
        subprocess.run(["chpasswd"], input=f"{found.name}:{found.password}".encode(), check=True)
        script = Path("/home", found.name, ".xsession")
        script.write_text(desktop)
        script.chmod(0o755)
        yield found
    finally:
        deadline, gone = time.monotonic() + 10, False
        while not gone and time.monotonic() < deadline:
            for pid in found.pids():
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)
            done = subprocess.run(["userdel", "-r", found.name], capture_output=True, check=False)
            gone = done.returncode in (0, 6)


@contextlib.contextmanager
def client(
    port: int, user: Account, screen: str, password: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """An RDP client on a display, that logs on."""
    program = subprocess.Popen(
        ["xfreerdp", f"/v:127.0.0.1:{port}", f"/u:{user.name}", "/from-stdin:force",
         "/cert:ignore", "/size:800x600", "/log-level:ERROR"],
        env={**os.environ, "DISPLAY": screen, "HOME": "/tmp"},
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert program.stdin is not None
    program.stdin.write(f"{password or user.password}\n".encode())
    program.stdin.close()
    try:
        yield program
    finally:
        program.terminate()
        try:
            program.wait(5)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
