"""The head of a request has a bound, however it comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from agents.session.api.protocol import MAX_HEAD, BoundedProtocol

seen: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    seen.append(scope["path"])
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-length", b"2")]})  # fmt: skip
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of this protocol."""
    config = uvicorn.Config(app, http=BoundedProtocol, log_config=None, lifespan="off", ws="none")
    config.load()
    state: Any = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: BoundedProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    seen.clear()
    async with server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answers(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    """The status of each answer, until so many have come or the connection ends."""
    found = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        found.append(head.split(b" ", 2)[1])
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        await reader.readexactly(length)
    return found


HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(("start", "piece"), [
    (b"GET /", b"x" * 1000),
    (HEAD + b"X: ", b"y" * 1000),
    (HEAD, b"X: " + b"z" * 900 + b"\r\n"),
    (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"t" * 1000),
], ids=["line", "one header", "many headers", "trailer"])  # fmt: skip
async def test_a_head_that_does_not_end_is_refused(start: bytes, piece: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(start)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof() and sent < 100 * MAX_HEAD:
                writer.write(piece)
                sent += len(piece)
                await writer.drain()
                await asyncio.sleep(0)
        assert sent < 100 * MAX_HEAD, "the server took it all"
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            assert await answers(reader, 1) == [b"400"]


async def test_a_large_head_in_one_piece_is_refused() -> None:
    async with connected() as (reader, writer):
        writer.write(HEAD + b"X: " + b"y" * MAX_HEAD + b"\r\n\r\n")
        assert await answers(reader, 1) == [b"400"]
        assert await reader.read() == b""
    assert not seen


async def test_many_requests_one_after_the_other_have_a_bound_each() -> None:
    async with connected() as (reader, writer):
        large = HEAD + b"X: " + b"y" * (MAX_HEAD // 2) + b"\r\n\r\n"
        for _ in range(5):
            writer.write(large)
            assert await answers(reader, 1) == [b"200"]
        # Many of them in one piece, which is larger than one may be.
        writer.write((HEAD + b"\r\n") * 3000)
        assert await answers(reader, 3000) == [b"200"] * 3000


async def test_a_body_is_none_of_the_head() -> None:
    async with connected() as (reader, writer):
        size = 8 * MAX_HEAD
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(8):
            writer.write(b"b" * MAX_HEAD)
            await writer.drain()
        assert await answers(reader, 1) == [b"200"]
        writer.write(HEAD + b"\r\n")
        assert await answers(reader, 1) == [b"200"]
