"""Which of some processes have which sockets, from /proc: nothing else says it of others' pids."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from schemas.rdp_processes import ProcessRef

_LISTEN, _CONNECTED = "0A", "03"


def holders(port: int, processes: Iterable[ProcessRef]) -> list[ProcessRef]:
    """Those that have a socket that listens on this TCP port."""
    wanted = listeners(port)
    return [one for one in processes if wanted & inodes(one.pid)]


def listeners(port: int) -> set[str]:
    """The inodes of all sockets that listen on a TCP port, whatever their address."""
    return {
        fields[9]
        for name in ("tcp", "tcp6")
        for fields in _table(name)
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    }


def connected_locally() -> set[str]:
    """The inodes of all connected Unix stream sockets."""
    # Num RefCount Protocol Flags Type St Inode Path; type 1 is a stream, state 3 connected.
    return {
        fields[6]
        for fields in _table("unix")
        if len(fields) >= 7 and fields[4] == "0001" and fields[5] == _CONNECTED
    }


def inodes(pid: int) -> set[str]:
    """The inodes of a process' sockets."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _table(name: str) -> list[list[str]]:
    with contextlib.suppress(OSError):
        lines = Path("/proc/net", name).read_text().splitlines()[1:]
        return [line.split() for line in lines if line.strip()]
    return []
