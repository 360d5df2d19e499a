"""Sockets of this machine as the kernel lists them (netlink, sock_diag(7)), and whose they are.

    for message in dump(request): …     one struct …_diag_msg with its attributes each
    inodes = inodes_of(pid)             the sockets that a process has open

The list needs no privileges; which process has a socket is in /proc/PID/fd, which only its
user and root can read. Both raise OSError.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from agents.platform.process_table import PROC

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ANSWER_BYTES = 256 * 1024
_ANSWER_SECONDS = 2.0


def dump(request: bytes) -> Iterator[bytes]:
    """The messages that answer a request, whose first byte is the address family."""
    family = request[0]
    head = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, family, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as link:
        link.settimeout(_ANSWER_SECONDS)
        link.send(head + request)
        while True:
            data = link.recv(_ANSWER_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -int.from_bytes(data[at + 16 : at + 20], "little", signed=True)
                    raise OSError(number, os.strerror(number))
                if length < _HEADER.size:
                    raise OSError("a netlink message has no length")
                if sequence == family:
                    yield data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3


def attributes(message: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message from this place on: their kinds and data."""
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind, message[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def inodes_of(pid: int, proc: Path = PROC) -> set[int]:
    """The inodes of all sockets that a process has open."""
    folder = f"{proc}/{pid}/fd"
    found = set()
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue  # it was closed meanwhile
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found
