"""Who is at the other end of a unix socket, as the kernel says (sock_diag(7), NETLINK_SOCK_DIAG).

peers = unix_peers()        {inode: name of the socket at its other end}
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
UDIAG_SHOW_NAME, UDIAG_SHOW_PEER = 1, 4
UNIX_DIAG_NAME, UNIX_DIAG_PEER = 0, 2
ESTABLISHED = 1 << 1
RECEIVE_BYTES = 256 * 1024
HEADER, MESSAGE, ATTRIBUTE = (
    struct.Struct("=IHHII"),
    struct.Struct("=BBBBI8s"),
    struct.Struct("=HH"),
)


def unix_peers() -> dict[int, str]:
    """The name of the socket at the other end of each connected one, by inode.

    Only of those whose other end has a name: it was accepted on that. Raises OSError where the
    kernel does not tell.
    """
    names: dict[int, str] = {}
    ends: dict[int, int] = {}
    for inode, attributes in _dump():
        for kind, data in attributes:
            if kind == UNIX_DIAG_NAME:
                names[inode] = data.split(b"\0")[0].decode(errors="replace")
            elif kind == UNIX_DIAG_PEER:
                ends[inode] = int.from_bytes(data[:4], "little")
    return {inode: names[peer] for inode, peer in ends.items() if names.get(peer)}


def socket_inodes(pid: int) -> set[int]:
    """The inodes of a process's sockets; empty when it is gone. Raises PermissionError."""
    found = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(entry.path)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return found


def _dump() -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    request = struct.pack(
        "=BBHIIIII", socket.AF_UNIX, 0, 0, ESTABLISHED, 0, UDIAG_SHOW_NAME | UDIAG_SHOW_PEER, 0, 0
    )  # fmt: skip
    head = HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(5)
        asking.send(head + request)
        while True:
            data = asking.recv(RECEIVE_BYTES)
            at = 0
            while at + HEADER.size <= len(data):
                size, kind, *_ = HEADER.unpack_from(data, at)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = struct.unpack_from("=i", data, at + HEADER.size)[0]
                    raise OSError(-number, os.strerror(-number))
                yield _message(data[at + HEADER.size : at + size])
                at += size + -size % 4


def _message(body: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    inode = MESSAGE.unpack_from(body)[4]
    attributes, at = [], MESSAGE.size
    while at + ATTRIBUTE.size <= len(body):
        size, kind = ATTRIBUTE.unpack_from(body, at)
        attributes.append((kind, body[at + ATTRIBUTE.size : at + size]))
        at += max(size + -size % 4, ATTRIBUTE.size)
    return inode, attributes
