"""What a broker sends, received into the place that it is read from.

aiokafka 0.14 reads its connections through asyncio's StreamReader. That appends what came in to a
bytearray, which grows by copying, and copies a whole response out of it: for responses of
megabytes a third of what a consumer takes. Here a connection receives a response into one buffer,
used again for the next, of which only the records are copied out. All else of a connection stays
aiokafka's.
"""

from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace
from typing import Any

from aiokafka import conn

FIRST = 64 * 1024
"""Bytes of a connection's buffer at first, and beside its largest response; smaller responses
are copied out at once: aiokafka keeps those of a SASL handshake."""

_AIOKafkaProtocol = conn.AIOKafkaProtocol


class ResponseBuffer(asyncio.BufferedProtocol):
    """In front of aiokafka's protocol: all but what is read goes on to that one.

    It cannot be one itself: uvloop takes a protocol that is a `Protocol`, too, for no buffered one.
    The bytes between `_start` and `_end` were received and not handed out yet. What readexactly
    returns is good until it is called again: aiokafka has decoded a response by then.
    """

    def __init__(
        self,
        closed: asyncio.Future[None],
        reader: asyncio.StreamReader,
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._behind = _AIOKafkaProtocol(closed, reader, loop=loop)
        reader.readexactly = self.readexactly  # type: ignore[method-assign,assignment]
        self._reader, self._loop = reader, loop
        self._buffer = bytearray(FIRST)
        self._start = self._end = 0
        self._waiter: asyncio.Future[None] | None = None
        self._transport: Any = None
        self._held_back = self._large = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)  # what asyncio's StreamWriter asks of its protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._behind.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._behind.connection_lost(exc)
        self._wake()

    def eof_received(self) -> bool | None:
        more: bool | None = self._behind.eof_received()
        self._wake()
        return more

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        # Until a response's size is read, little is received of it: that may have to be moved.
        return memoryview(self._buffer)[self._end :][: None if self._large else FIRST]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        if self._end == len(self._buffer):
            self._held_back = True
            self._transport.pause_reading()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def readexactly(self, size: int) -> bytes | memoryview:
        """As StreamReader.readexactly; a response of FIRST bytes or more is a view."""
        self._make_room(size)
        self._large = size >= FIRST
        while self._end - self._start < size:
            if (error := self._reader.exception()) is not None:
                raise error
            if self._reader.at_eof():
                partial = bytes(self._buffer[self._start : self._end])
                raise asyncio.IncompleteReadError(partial, size)
            if self._held_back:
                self._held_back = False
                self._transport.resume_reading()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        found = memoryview(self._buffer)[self._start : self._start + size]
        self._start += size
        return bytes(found) if size < FIRST else found

    def _make_room(self, size: int) -> None:
        """Let `size` bytes fit behind `_start`."""
        held = self._end - self._start
        if self._start + size < len(self._buffer) and held:
            return
        # A view of the former response may still stand, and forbids to resize what it shows.
        # Untouched, what is too much of a new buffer takes no memory.
        fits = size < len(self._buffer)
        buffer = self._buffer if fits else bytearray(size + size // 4 + FIRST)
        buffer[:held] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = buffer, 0, held


class _Response:
    """A large response as aiokafka's decoders read it: as from a BytesIO, without its copy."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def read(self, size: int = -1) -> bytes:
        end = self._at + size if size >= 0 else len(self._data)
        found = bytes(self._data[self._at : end])
        self._at += len(found)
        return found


def _readable(data: bytes | memoryview) -> io.BytesIO | _Response:
    return _Response(data) if isinstance(data, memoryview) else io.BytesIO(data)


def use() -> None:
    """Let all connections that are made from now on receive so."""
    conn.AIOKafkaProtocol = ResponseBuffer
    conn.io = SimpleNamespace(BytesIO=_readable)
