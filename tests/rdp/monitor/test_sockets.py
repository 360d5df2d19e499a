"""Netlink's answers: what the kernel says, and what it never would."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.platform.sock_diag import inodes_of
from agents.rdp.monitor.sockets import (
    ESTABLISHED,
    NoSocketCounts,
    Socket,
    Traffic,
    parse,
    read_sockets,
    traffic_since,
)


def test_the_sockets_of_a_process_are_found_among_the_kernels() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as one,
        listening.accept()[0] as other,
    ):
        mine = {os.fstat(link.fileno()).st_ino for link in (one, other)}
        found = read_sockets()
        assert mine <= inodes_of(os.getpid())
        assert all(found[inode].state == ESTABLISHED for inode in mine)
        assert os.fstat(listening.fileno()).st_ino not in found
        assert len({found[inode].cookie for inode in mine}) == 2
    assert not mine & read_sockets().keys()


def message(inode: int = 7, cookie: int = 9, info: bytes | None = None, kind: int = 2) -> bytes:
    """An inet_diag_msg of an established socket with one attribute."""
    head = struct.pack("=BBBB", 2, 1, 0, 0) + b"\0" * 40 + struct.pack("=Q", cookie)
    head += struct.pack("=IIIII", 0, 0, 0, 0, inode)
    if info is None:
        return head
    return head + struct.pack("=HH", 4 + len(info), kind) + info


def counts(sent: int, received: int) -> bytes:
    return b"\0" * 120 + struct.pack("=QQII", sent, received, 3, 4) + b"\0" * 40


def test_a_message_with_its_counts() -> None:
    assert parse(message(info=counts(11, 20))) == Socket(7, 9, 1, Traffic(10, 20, 3, 4))
    assert parse(message(info=counts(0, 0))) == Socket(7, 9, 1, Traffic(0, 0, 3, 4))


@pytest.mark.parametrize("info", [None, b"", counts(1, 1)[:100]])
def test_a_kernel_that_counts_nothing_is_read_all_the_same(info: bytes | None) -> None:
    assert parse(message(info=info)) == Socket(7, 9, 1, Traffic())
    assert parse(message(info=counts(5, 5), kind=3)) == Socket(7, 9, 1, Traffic())


def test_a_socket_that_no_process_has_is_left_out() -> None:
    assert parse(message(inode=0)) is None
    assert parse(message()[:50]) is None


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    parse(data)


class Link:
    """A netlink socket that answers what it is told to."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def __call__(self, *_: Any) -> Link:
        return self

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None: ...

    def settimeout(self, seconds: float) -> None: ...

    def send(self, data: bytes) -> None: ...

    def recv(self, size: int) -> bytes:
        if not self.answers:
            raise TimeoutError("timed out")
        return self.answers.pop(0)


def packet(kind: int, body: bytes = b"", length: int | None = None, sequence: int = 2) -> bytes:
    return struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, 0, sequence, 0
    ) + body  # fmt: skip


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [packet(2, struct.pack("=i", -1))],
        [packet(20, length=3)],
    ],
)
def test_a_kernel_that_does_not_answer_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, answers: list[bytes]
) -> None:
    monkeypatch.setattr(socket, "socket", Link(*answers))
    with pytest.raises(NoSocketCounts, match="does not tell"):
        read_sockets()


def test_answers_to_another_request_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    body = message(info=counts(11, 20))
    link = Link(packet(20, body, sequence=99) + packet(20, body), packet(3), packet(3, sequence=10))
    monkeypatch.setattr(socket, "socket", link)
    assert list(read_sockets()) == [7]


def test_traffic_is_what_the_same_sockets_have_counted_since() -> None:
    before = {1: Traffic(10, 20, 1, 2), 3: Traffic(9, 9, 9, 9)}
    after = {
        7: Socket(7, 1, 1, Traffic(15, 29, 2, 5)),
        8: Socket(8, 2, 1, Traffic(100, 200, 3, 4)),  # it is new
        9: Socket(9, 3, 1, Traffic(0, 0, 0, 0)),  # no count goes back
    }
    assert traffic_since(before, after, [7, 8, 9, 99]) == Traffic(105, 209, 4, 7)
    assert traffic_since(before, after, []) == Traffic()


def test_what_is_closed_while_it_is_looked_at_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "7" / "fd"
    folder.mkdir(parents=True)
    for name, target in (("0", "/dev/null"), ("1", "socket:[12]"), ("2", "pipe:[3]"), ("3", "x")):
        (folder / name).symlink_to(target)
    real: Callable[..., str] = os.readlink

    def closing(path: str) -> str:
        if path.endswith("/3"):
            raise FileNotFoundError
        return real(path)

    monkeypatch.setattr(os, "readlink", closing)
    assert inodes_of(7, tmp_path) == {12}
    with pytest.raises(OSError):
        inodes_of(8, tmp_path)
