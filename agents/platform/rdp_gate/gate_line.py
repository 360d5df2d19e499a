"""The gate's line to the controller, and the processes below it: standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_LINE = 65536


def descendants(pid: int) -> list[int]:
    """All processes below a process, from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def started() -> str:
    """When this process began, in clock ticks since boot (proc(5), field 22)."""
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]


def tell(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes; those that are gone, or not ours to tell, are left out."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


class Line:
    """The connection to the controller: lines of JSON, none of them longer than MAX_LINE."""

    def __init__(self, path: str) -> None:
        self.path, self._rest = path, b""
        self.sock: socket.socket | None = None

    def connect(self, hello: dict[str, Any]) -> bool:
        """Whether the controller is there and has the hello."""
        self.close()
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            return False
        self.sock = sock
        return self.send(hello)

    def send(self, message: dict[str, Any]) -> bool:
        """Whether it could be sent; a line that breaks is closed."""
        try:
            if self.sock is not None:
                self.sock.sendall(json.dumps(message).encode() + b"\n")
                return True
        except OSError:
            self.close()
        return False

    def read(self) -> list[dict[str, Any]]:
        """The messages that have come; a line that ends, or speaks nonsense, is closed."""
        try:
            data = self.sock.recv(MAX_LINE) if self.sock is not None else b""
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > MAX_LINE:
            self.close()
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.close()
                break
            messages.append(message)
        return messages

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock, self._rest = None, b""
