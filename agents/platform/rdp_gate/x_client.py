"""What the gate asks the X server, by the X protocol itself: standard library only.

The connection ends when the server does, and the MIT-SCREEN-SAVER extension tells how long
ago the last input was.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

PATIENCE = 10.0  # seconds for an answer


class XGone(Exception):
    """The X server cannot be reached, or has ended."""


def cookie(xauthority: str, display: str) -> bytes:
    """The MIT-MAGIC-COOKIE-1 of a display number; empty if the file has none (Xau(3))."""
    try:
        data = Path(xauthority).read_bytes()
    except OSError:
        return b""
    at = 0
    while at + 2 <= len(data):
        at += 2
        fields = []
        for _ in range(4):
            (size,) = struct.unpack_from(">H", data, at) if at + 2 <= len(data) else (0,)
            fields.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        if fields[1] in (b"", display.encode()) and fields[2] == b"MIT-MAGIC-COOKIE-1":
            return fields[3]
    return b""


class XServer:
    """A connection to the X server; raises XGone when there is none."""

    def __init__(self, display: str, xauthority: str, folder: str = "/tmp/.X11-unix") -> None:
        self.number = display.split(":")[-1].split(".")[0]
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sent = 0  # requests
        try:
            self.sock.connect(f"{folder}/X{self.number}")
            self.root = self._set_up(cookie(xauthority, self.number))
            self.saver = self._extension(b"MIT-SCREEN-SAVER")
        except (OSError, struct.error) as error:
            raise XGone(f"display :{self.number} does not answer: {error}") from error

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise XGone(f"display :{self.number} is gone")
            data += part
        return data

    def _set_up(self, secret: bytes) -> int:
        name = b"MIT-MAGIC-COOKIE-1" if secret else b""
        padded = [text + bytes(-len(text) % 4) for text in (name, secret)]
        head = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(secret))
        self.sock.sendall(head + b"".join(padded))
        status, length = struct.unpack("<BxxxxxH", self._read(8))
        body = self._read(length * 4)
        if status != 1:
            raise XGone(f"display :{self.number} refuses the cookie")
        vendor, formats = struct.unpack_from("<H", body, 16)[0], body[21]
        place = 32 + vendor + -vendor % 4 + 8 * formats
        return int(struct.unpack_from("<I", body, place)[0])

    def _lost(self, error: OSError) -> XGone:
        if isinstance(error, ConnectionError):
            return XGone(f"display :{self.number} is gone")
        return XGone(f"display :{self.number} does not answer: {error}")

    def _request(self, request: bytes) -> None:
        self.sock.sendall(request)
        self.sent += 1

    def _extension(self, name: bytes) -> int | None:
        text = name + bytes(-len(name) % 4)
        self._request(struct.pack("<BxHHxx", 98, 2 + len(text) // 4, len(name)) + text)
        while True:
            answer = self.next_message()
            if answer[0] == 1:
                return answer[9] if answer[8] else None

    def _whole(self) -> bytes:
        message = self._read(32)
        if message[0] == 1:
            message += self._read(4 * struct.unpack_from("<I", message, 4)[0])
        return message

    def next_message(self) -> bytes:
        """The next reply (1), error (0) or event, whole; raises XGone."""
        try:
            return self._whole()
        except OSError as error:
            raise self._lost(error) from error

    def round_trip(self, seconds: float) -> None:
        """Wait that long at most for an answer to a request made now; raises XGone.

        GetInputFocus does nothing and has a reply; what comes before that is passed over.
        """
        self.sock.settimeout(seconds)
        try:
            self._request(struct.pack("<BxH", 43, 1))
            while struct.unpack_from("<BxH", self._whole()) != (1, self.sent & 0xFFFF):
                pass
        except TimeoutError:
            return  # it stands still, and is there
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self.sock.settimeout(PATIENCE)

    def ask_idle(self) -> bool:
        """Ask for the time since the last input; whether there will be an answer."""
        if self.saver is None:
            return False
        try:
            self._request(struct.pack("<BBHI", self.saver, 1, 2, self.root))
        except OSError as error:
            raise self._lost(error) from error
        return True

    def idle(self) -> int | None:
        """Milliseconds, read from the next message; None if it is another one."""
        message = self.next_message()
        return struct.unpack_from("<I", message, 16)[0] if message[0] == 1 else None
