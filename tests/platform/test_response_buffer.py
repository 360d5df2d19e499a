"""What a peer sends arrives whole, in order and as it was sent, however it is cut up on its way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from aiokafka import conn

from agents.platform.aiokafka_changes import change_aiokafka
from agents.platform.aiokafka_changes.response_buffer import FIRST, ResponseBuffer

Loop = Callable[[], asyncio.AbstractEventLoop]
Work = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
change_aiokafka()
SIZES = (0, 1, 4, FIRST - 1, FIRST, FIRST + 1, 3 * 10**6, 5, 2 * 10**6, 7 * 10**6, 10)


def parts(seed: int = 0) -> list[bytes]:
    noise = random.Random(seed)
    return [noise.randbytes(size) for size in SIZES]


def talk(loop: Loop, answer: Work, read: Work) -> None:
    """A connection as aiokafka makes it, to a peer that does `answer`."""

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        running = asyncio.get_running_loop()
        closed = running.create_future()
        reader = asyncio.StreamReader(limit=2**16, loop=running)
        protocol = conn.AIOKafkaProtocol(closed, reader, loop=running)
        assert isinstance(protocol, ResponseBuffer)
        transport, _ = await running.create_connection(lambda: protocol, "127.0.0.1", port)
        writer = asyncio.StreamWriter(transport, protocol, reader, running)
        async with asyncio.timeout(20):
            await read(reader, writer)
            writer.close()
            await closed
        server.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(3))
def test_all_of_it_in_order(loop: Loop, seed: int) -> None:
    sent = parts(seed)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        noise, whole = random.Random(seed), memoryview(b"".join(sent))
        while whole:
            size = noise.choice((1, 7, 1000, 70_000, 900_000))
            writer.write(whole[:size])
            whole = whole[size:]
            await writer.drain()

    async def read(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        for part in sent:
            found = await reader.readexactly(len(part))
            assert bytes(found) == part
            assert isinstance(found, bytes) or len(part) >= FIRST

    talk(loop, answer, read)


def test_nobody_who_does_not_read_is_filled_up(loop: Loop) -> None:
    """The peer has to wait: no more is received than fits the buffer."""
    sent = random.Random(1).randbytes(40 * 10**6)
    stuck = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        stuck.set()
        await writer.drain()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(4) == sent[:4]
        await stuck.wait()
        protocol: Any = writer.transport.get_protocol()
        while not protocol._held_back:
            await asyncio.sleep(0)
        assert len(protocol._buffer) == FIRST
        assert bytes(await reader.readexactly(len(sent) - 4)) == sent[4:]

    talk(loop, answer, read)


@pytest.mark.parametrize("size", [10, 3 * 10**6])
def test_a_peer_that_hangs_up_is_noticed(loop: Loop, size: int) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(size // 2))
        writer.close()

    async def read(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(size)
        assert reader.at_eof()

    talk(loop, answer, read)


def test_a_response_is_read_like_a_file() -> None:
    data = random.Random(2).randbytes(FIRST)
    for given in (data, memoryview(data)):
        response = conn.io.BytesIO(given)
        assert (response.read(3), response.read(0), response.read()) == (data[:3], b"", data[3:])
        assert response.read(1) == b""
