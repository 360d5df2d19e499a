"""The first exchange with xrdp, and with those that are none."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rdp.xrdp.probe import NotAlive, check_confirm, connection_request, look

GOOD = bytes.fromhex("030000130ed000001234000200080001000000")


@asynccontextmanager
async def answering(data: bytes | None) -> AsyncIterator[int]:
    """A server that answers the request so; None says nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(19)
        if data is not None:
            writer.write(data)
            await writer.drain()
            writer.close()
        else:
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_the_request_is_that_of_the_protocol() -> None:
    assert connection_request().hex() == "030000130ee000000000000100080001000000"


def test_a_confirm_that_takes_tls_is_good() -> None:
    check_confirm(GOOD)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (GOOD[:-1], "18 bytes"),
        (b"HTTP/1.1 400 Bad Re", "does not speak RDP"),
        (GOOD[:11] + struct.pack("<BBHI", 3, 0, 8, 5), "refuses TLS, failure code 5"),
        (GOOD[:11] + struct.pack("<BBHI", 2, 0, 8, 0), "security protocol 0"),
        (GOOD[:11] + struct.pack("<BBHI", 2, 0, 9, 1), "security protocol 1"),
    ],
)
def test_any_other_answer_is_none(answer: bytes, what: str) -> None:
    with pytest.raises(NotAlive, match=what):
        check_confirm(answer)


@given(st.binary(max_size=40))
def test_whatever_comes_is_taken_or_refused(answer: bytes) -> None:
    try:
        check_confirm(answer)
    except NotAlive:
        return
    assert (answer[0], answer[11]) == (3, 2)


async def test_silence_a_closed_port_and_a_peer_without_tls_are_not_alive() -> None:
    async with answering(None) as port:
        with pytest.raises(NotAlive, match="did not answer within"):
            await look("127.0.0.1", port, b"", 0.2)
    with pytest.raises(NotAlive, match="does not answer"):
        await look("127.0.0.1", port, b"", 0.5)
    for data in (b"", GOOD, GOOD + b"no TLS at all"):
        async with answering(data) as port:
            with pytest.raises(NotAlive):
                await look("127.0.0.1", port, b"", 2.0)
