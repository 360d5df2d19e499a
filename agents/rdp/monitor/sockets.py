"""TCP sockets with the kernel's own counts of their bytes and packets.

    sockets = read_sockets()            {inode: Socket}, of this network namespace

The counts come from the socket diagnosis interface (agents/platform/sock_diag.py), as `ss -ti`
shows them. Numbers are those of linux/inet_diag.h and linux/tcp.h.

LucidError
└── NoSocketCounts     the kernel does not answer; everything else can be measured
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agents.platform.sock_diag import attributes, dump
from schemas.errors import LucidError

_EXT_INFO = 1 << 1  # INET_DIAG_INFO
_INFO = 2
_REQUEST = struct.Struct("=BBBBI48x")
_COOKIE, _INODE = struct.Struct("=Q"), struct.Struct("=I")
_COOKIE_AT, _INODE_AT, _ATTRIBUTES_AT = 44, 68, 72
_COUNTS = struct.Struct("=QQII")
_COUNTS_AT = 120  # tcpi_bytes_acked, tcpi_bytes_received, tcpi_segs_out, tcpi_segs_in
ESTABLISHED = 1
_STATES = 0xFFF & ~(1 << 6) & ~(1 << 10)  # neither TIME_WAIT, which no process has, nor LISTEN


class NoSocketCounts(LucidError):
    """The kernel does not tell of its sockets."""


class Traffic(NamedTuple):
    """Bytes that the peer has acknowledged, bytes that came, and segments either way."""

    sent: int = 0
    received: int = 0
    packets_sent: int = 0
    packets_received: int = 0


@dataclass(frozen=True, slots=True)
class Socket:
    """A TCP socket. cookie: the kernel's number, which no later socket gets."""

    inode: int
    cookie: int
    state: int
    traffic: Traffic


def read_sockets() -> dict[int, Socket]:
    """The TCP sockets that some process has, by inode; raises NoSocketCounts."""
    found: dict[int, Socket] = {}
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in dump(_REQUEST.pack(family, socket.IPPROTO_TCP, _EXT_INFO, 0, _STATES)):
                if (one := parse(message)) is not None:
                    found[one.inode] = one
    except OSError as error:
        raise NoSocketCounts(
            f"the kernel does not tell of TCP sockets: {error}",
            hint="Allow netlink sockets (NETLINK_SOCK_DIAG); all else is measured without",
        ) from error
    return found


def parse(message: bytes) -> Socket | None:
    """A socket of an inet_diag_msg and its attributes; None if no process has it."""
    if len(message) < _ATTRIBUTES_AT:
        return None
    inode = _INODE.unpack_from(message, _INODE_AT)[0]
    if inode == 0:
        return None
    traffic = Traffic()
    for kind, data in attributes(message, _ATTRIBUTES_AT):
        if kind == _INFO and len(data) >= _COUNTS_AT + _COUNTS.size:
            sent, received, out, into = _COUNTS.unpack_from(data, _COUNTS_AT)
            # The acknowledgement of the SYN is counted as one byte.
            traffic = Traffic(max(0, sent - 1), received, out, into)
    return Socket(inode, _COOKIE.unpack_from(message, _COOKIE_AT)[0], message[1], traffic)


def traffic_since(
    before: Mapping[int, Traffic], after: Mapping[int, Socket], inodes: Iterable[int]
) -> Traffic:
    """What the sockets of these inodes have counted since `before`, which is by cookie."""
    total = [0, 0, 0, 0]
    for inode in inodes:
        now = after.get(inode)
        if now is None:
            continue
        base = before.get(now.cookie, Traffic())
        for place, (count, old) in enumerate(zip(now.traffic, base, strict=True)):
            total[place] += max(0, count - old)
    return Traffic(*total)
