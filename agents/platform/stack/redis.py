"""Redis from the system's package: a private instance that keeps nothing on disk."""

from __future__ import annotations

import re
import socket
import subprocess
from functools import cache as memoised
from pathlib import Path
from typing import ClassVar

from agents.platform.stack.cache import Progress
from agents.platform.stack.server import Command, NotReady, Server
from agents.platform.tools import require_tool


class Redis(Server):
    name: ClassVar = "redis"
    title: ClassVar = "Redis"
    data: ClassVar = "redis"
    start_seconds: ClassVar = 30.0

    def install(self, cache: Path, progress: Progress) -> Path:
        return require_tool("redis-server")

    def version(self, program: Path) -> str:
        return _version(program)

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": "127.0.0.1",
            "port": str(ports[0]),
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
        }
        argv = [str(program)]
        for name, value in options.items():
            argv += [f"--{name}", value]
        return Command(argv)

    def probe(self, port: int, *, seconds: float) -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=seconds) as peer:
                peer.settimeout(seconds)
                peer.sendall(b"*1\r\n$4\r\nPING\r\n")
                answer = peer.recv(64)
        except OSError as error:
            raise NotReady(f"no answer to PING: {error}") from error
        if answer != b"+PONG\r\n":
            raise NotReady(f"PING was answered with {answer!r}")

    def url(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"


@memoised
def _version(program: Path) -> str:
    printed = subprocess.run(
        [str(program), "--version"], capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"v=(\S+)", printed)
    return match.group(1) if match else "unknown"
