"""The forwarder does to a connection what it says."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.forwarder import Forwarder


@pytest.fixture
def forwarder() -> Iterator[Forwarder]:
    """In front of a server that answers with what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(peer: socket.socket) -> None:
        with peer:
            while data := peer.recv(1024):
                peer.sendall(data)

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=[peer], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    made = Forwarder(listener.getsockname())
    yield made
    made.down()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(forwarder: Forwarder) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", forwarder.port), timeout=5)
    peer.sendall(b"hello")
    assert peer.recv(5) == b"hello"
    return peer


def test_it_hands_on_both_ways(forwarder: Forwarder) -> None:
    with connect(forwarder) as peer:
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""


def test_a_delay_holds_up_each_block(forwarder: Forwarder) -> None:
    with connect(forwarder) as peer:
        forwarder.delay = 0.2
        start = time.monotonic()
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        assert time.monotonic() - start >= 0.4


def test_a_stall_swallows_and_a_flow_brings_it_late(forwarder: Forwarder) -> None:
    with connect(forwarder) as peer:
        forwarder.stall()
        peer.sendall(b"y")
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        peer.settimeout(5)
        forwarder.flow()
        assert peer.recv(1) == b"y"


def test_a_cut_ends_a_share_of_the_connections_and_new_ones_work(forwarder: Forwarder) -> None:
    peers = [connect(forwarder) for _ in range(4)]
    assert forwarder.cut(0.5, random.Random(1)) == 2
    ended = 0
    for peer in peers:
        peer.settimeout(0.3)
        try:
            ended += peer.recv(1) == b""
        except TimeoutError:
            pass
        except ConnectionError:
            ended += 1
        peer.close()
    assert ended == 2
    connect(forwarder).close()


def test_it_can_be_taken_away_and_its_server_too(forwarder: Forwarder) -> None:
    forwarder.down()
    with pytest.raises(ConnectionRefusedError):
        connect(forwarder)
    forwarder.up()
    there = forwarder.target
    forwarder.target = ("127.0.0.1", 1)
    with socket.create_connection(("127.0.0.1", forwarder.port), timeout=5) as peer:
        assert peer.recv(1) == b""
    forwarder.target = there
    connect(forwarder).close()
