"""The socket where gates ask: one line of JSON each, and who is at the other end.

async with GateSocket(path, serve): …
    await serve(gate)       for each connection; when it returns, the connection is closed
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import structlog

from agents.platform.rdp_gate import unreachable
from agents.rdp.controller.errors import Nonsense
from agents.rdp.controller.trust import Peer

log = structlog.get_logger(__name__)

MAX_LINE = 64 * 1024
MAX_UNREAD = 64 * 1024  # bytes that a gate may leave unread
MAX_GATES = 2000


class GateLine:
    """A connection of something that says it is a gate."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        made = writer.get_extra_info("socket")
        pid, uid, _ = struct.unpack(
            "3i", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        self.peer = Peer(pid, uid)

    async def line(self, seconds: float | None = None) -> bytes:
        """The next line; empty at the end. Raises Nonsense for one that is too long or late."""
        try:
            async with asyncio.timeout(seconds):
                return await self._reader.readline()
        except ValueError as error:
            raise Nonsense(f"a line of process {self.peer.pid} is too long") from error
        except TimeoutError as error:
            raise Nonsense(f"process {self.peer.pid} connects and says nothing") from error
        except OSError:
            return b""

    async def message(self) -> dict[str, Any] | None:
        """The next message; None at the end. Raises Nonsense."""
        line = await self.line()
        if not line:
            return None
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Nonsense(f"process {self.peer.pid} does not speak JSON") from error
        if not isinstance(found, dict):
            raise Nonsense(f"process {self.peer.pid} sends no message")
        return found

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; a gate that reads nothing is let go."""
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD:
            log.warning("a gate reads nothing", pid=self.peer.pid)
            self._writer.transport.abort()
            return
        self._writer.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self._writer.close()


Serve = Callable[[GateLine], Awaitable[None]]


class GateSocket:
    """Listens at `path`; everybody may connect, for the kernel says who it is."""

    def __init__(self, path: Path, serve: Serve) -> None:
        self._path, self._serve = path.absolute(), serve
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # What is there is left over: the store's lock says that no other controller runs.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._path.lstat().st_mode):
                self._path.unlink()
        self._server = await asyncio.start_unix_server(self._take, self._path, limit=MAX_LINE)
        self._path.chmod(0o666)
        if (blocked := unreachable(self._path)) is not None:
            log.warning("users of desktops cannot reach the socket", socket=str(self._path),
                        closed=str(blocked), hint="Set LUCID_RDP_SOCKET")  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    @property
    def count(self) -> int:
        """Connections now."""
        return len(self._open)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_GATES:
            log.error("too many gates", count=len(self._open))
            writer.close()
            return
        self._open.add(task)
        line = GateLine(reader, writer)
        try:
            await self._serve(line)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            log.exception("a gate's connection failed", pid=line.peer.pid, error=error)
        finally:
            self._open.discard(task)
            line.close()
