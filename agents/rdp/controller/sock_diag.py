"""Who is at the other end of a unix socket, as the kernel says (agents/platform/sock_diag.py).

peers = unix_peers()        {inode: name of the socket at its other end}
"""

from __future__ import annotations

import socket
import struct

from agents.platform.sock_diag import attributes, dump, inodes_of

UDIAG_SHOW_NAME, UDIAG_SHOW_PEER = 1, 4
UNIX_DIAG_NAME, UNIX_DIAG_PEER = 0, 2
ESTABLISHED = 1 << 1
REQUEST, MESSAGE = struct.Struct("=BBHIIIII"), struct.Struct("=BBBBI8s")


def unix_peers() -> dict[int, str]:
    """The name of the socket at the other end of each connected one, by inode.

    Only of those whose other end has a name: it was accepted on that. Raises OSError where the
    kernel does not tell.
    """
    names: dict[int, str] = {}
    ends: dict[int, int] = {}
    shown = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER
    for message in dump(REQUEST.pack(socket.AF_UNIX, 0, 0, ESTABLISHED, 0, shown, 0, 0)):
        inode = MESSAGE.unpack_from(message)[4]
        for kind, data in attributes(message, MESSAGE.size):
            if kind == UNIX_DIAG_NAME:
                names[inode] = data.split(b"\0")[0].decode(errors="replace")
            elif kind == UNIX_DIAG_PEER:
                ends[inode] = int.from_bytes(data[:4], "little")
    return {inode: names[peer] for inode, peer in ends.items() if names.get(peer)}


def socket_inodes(pid: int) -> set[int]:
    """The inodes of a process's sockets; empty when it is gone. Raises PermissionError."""
    try:
        return inodes_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return set()
