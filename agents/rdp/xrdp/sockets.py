"""Which of some processes have which sockets, from /proc: nothing else says it of others' pids."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from agents.platform.sock_diag import inodes_of
from schemas.rdp_processes import ProcessRef

_LISTEN, _CONNECTED = "0A", "03"


def holders(port: int, processes: Iterable[ProcessRef]) -> list[ProcessRef]:
    """Those that have a socket that listens on this TCP port."""
    wanted = listeners(port)
    return [one for one in processes if wanted & inodes(one.pid)]


def listeners(port: int) -> set[int]:
    """The inodes of all sockets that listen on a TCP port, whatever their address."""
    return {
        int(fields[9])
        for name in ("tcp", "tcp6")
        for fields in _table(name)
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    }


def connected_locally() -> set[int]:
    """The inodes of all connected Unix stream sockets."""
    # Num RefCount Protocol Flags Type St Inode Path; type 1 is a stream, state 3 connected.
    return {
        int(fields[6])
        for fields in _table("unix")
        if len(fields) >= 7 and fields[4] == "0001" and fields[5] == _CONNECTED
    }


def inodes(pid: int) -> set[int]:
    """The inodes of a process' sockets; none when it is gone, or nobody may know."""
    with contextlib.suppress(OSError):
        return inodes_of(pid)
    return set()


def _table(name: str) -> list[list[str]]:
    with contextlib.suppress(OSError):
        lines = Path("/proc/net", name).read_text().splitlines()[1:]
        return [line.split() for line in lines if line.strip()]
    return []
