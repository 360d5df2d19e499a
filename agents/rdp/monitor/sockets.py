"""TCP sockets with the kernel's own counts of their bytes and packets.

    sockets = read_sockets()            {inode: Socket}, of this network namespace
    inodes = inodes_of(pid)             the sockets that a process has open

The counts come from the socket diagnosis interface (netlink, sock_diag(7)), as `ss -ti` shows
them; nobody needs privileges for them. Which process has a socket is in /proc/PID/fd, which
only its user and root can read. Numbers are those of linux/inet_diag.h and linux/tcp.h.

LucidError
└── NoSocketCounts     the kernel does not answer; everything else can be measured
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agents.rdp.monitor.processes import PROC
from schemas.errors import LucidError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301
_EXT_INFO = 1 << 1  # INET_DIAG_INFO
_INFO = 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_COOKIE, _INODE = struct.Struct("=Q"), struct.Struct("=I")
_COOKIE_AT, _INODE_AT, _ATTRIBUTES_AT = 44, 68, 72
_ATTRIBUTE = struct.Struct("=HH")
_COUNTS = struct.Struct("=QQII")
_COUNTS_AT = 120  # tcpi_bytes_acked, tcpi_bytes_received, tcpi_segs_out, tcpi_segs_in
ESTABLISHED = 1
_STATES = 0xFFF & ~(1 << 6) & ~(1 << 10)  # neither TIME_WAIT, which no process has, nor LISTEN
_ANSWER_BYTES = 256 * 1024
_ANSWER_SECONDS = 2.0


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
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        ) as link:
            link.settimeout(_ANSWER_SECONDS)
            for family in (socket.AF_INET, socket.AF_INET6):
                for one in _dump(link, family):
                    found[one.inode] = one
    except OSError as error:
        raise NoSocketCounts(
            f"the kernel does not tell of TCP sockets: {error}",
            hint="Allow netlink sockets (NETLINK_SOCK_DIAG); all else is measured without",
        ) from error
    return found


def _dump(link: socket.socket, family: int) -> Iterator[Socket]:
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, _EXT_INFO, 0, _STATES)
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, family, 0)
    link.send(head + body)
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
            if sequence == family and (one := parse(data[at + _HEADER.size : at + length])):
                yield one
            at += (length + 3) & ~3


def parse(message: bytes) -> Socket | None:
    """A socket of an inet_diag_msg and its attributes; None if no process has it."""
    if len(message) < _ATTRIBUTES_AT:
        return None
    inode = _INODE.unpack_from(message, _INODE_AT)[0]
    if inode == 0:
        return None
    traffic, at = Traffic(), _ATTRIBUTES_AT
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            break
        counts = at + _ATTRIBUTE.size + _COUNTS_AT
        if kind == _INFO and size >= _ATTRIBUTE.size + _COUNTS_AT + _COUNTS.size:
            sent, received, out, into = _COUNTS.unpack_from(message, counts)
            # The acknowledgement of the SYN is counted as one byte.
            traffic = Traffic(max(0, sent - 1), received, out, into)
        at += (size + 3) & ~3
    return Socket(inode, _COOKIE.unpack_from(message, _COOKIE_AT)[0], message[1], traffic)


def inodes_of(pid: int, proc: Path = PROC) -> set[int]:
    """The inodes of all sockets that a process has open; raises OSError if nobody may know."""
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
