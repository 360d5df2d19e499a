"""A connection of its own to ask an X server who uses it: properties, atoms, programs.

It has nothing to do with the pictures' connection: what goes wrong here stops no recording.
Every method may raise xcffib.XcffibException when the server is lost.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xcffib
import xcffib.res
import xcffib.xproto

from agents.session.recorder.sources.x11_server import connect, server_uid
from schemas.activity import MAX_NAME, fit

MOST_EVENTS = 5_000  # that one look takes; whoever makes more is not followed
TEXT_WORDS = 512  # of a property: 2,048 bytes are more than the longest text that is kept
_CLIENT_PID = 2
_UTF8_PART = re.compile(rb"\x1b%G(.*?)(?:\x1b%@|\Z)", re.DOTALL)  # of a compound text
_INPUT_ONLY = 2


class Desk:
    """An open connection. uid: the X server's user, None when it is not on this machine."""

    def __init__(self, display: str, xauthority: str | None) -> None:
        self.connection = connect(display, xauthority)
        setup = self.connection.get_setup()
        self.root: int = setup.roots[self.connection.pref_screen].root
        self.uid = server_uid(self.connection)
        self._atoms: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._res = self.extension(xcffib.res.key, (1, 2))

    def extension(self, key: Any, version: Sequence[int]) -> Any | None:
        """An extension, None where the server has none."""
        # A request of an extension that is not there would end the connection.
        if not self.connection.core.QueryExtension(len(key.name), key.name).reply().present:
            return None
        found: Any = self.connection(key)
        found.QueryVersion(*version).reply()
        return found

    def close(self) -> None:
        self.connection.disconnect()

    def events(self) -> Iterator[Any]:
        """What happened since the last call; errors of requests without an answer are none."""
        self.connection.flush()
        for _ in range(MOST_EVENTS):
            try:
                event = self.connection.poll_for_event()
            except xcffib.Error:
                continue
            if event is None:
                return
            yield event

    def replies(self, cookies: Sequence[Any]) -> list[Any | None]:
        """All answers, None for what the server refused, such as a window that is gone."""
        found: list[Any | None] = []
        for cookie in cookies:
            try:
                found.append(cookie.reply())
            except xcffib.Error:
                found.append(None)
        return found

    # -- atoms and properties ----------------------------------------------------------------

    def atom(self, name: str) -> int:
        if name not in self._atoms:
            reply = self.connection.core.InternAtom(False, len(name), name).reply()
            self._atoms[name] = int(reply.atom)
        return self._atoms[name]

    def names(self, atoms: Sequence[int]) -> list[str]:
        """What atoms are called, fit to be recorded."""
        unknown = [one for one in dict.fromkeys(atoms) if one not in self._names]
        asked = [self.connection.core.GetAtomName(one) for one in unknown]
        if len(self._names) > 10_000:
            self._names.clear()
        for one, reply in zip(unknown, self.replies(asked), strict=True):
            text = "" if reply is None else reply.name.buf()[:400].decode("latin-1")
            self._names[one] = fit(text, MAX_NAME)
        return [self._names.get(one, "") for one in atoms]

    def ask(self, window: int, name: str, words: int = TEXT_WORDS) -> Any:
        """A property of any type, at most so many words of it: a cookie for `replies`."""
        return self.connection.core.GetProperty(False, window, self.atom(name), 0, 0, words)

    def text_of(self, reply: Any | None, *, utf8: bool = False) -> str:
        """A property's text as it stands there, only decoded."""
        if reply is None or reply.format != 8:
            return ""
        modern = utf8 or reply.type == self.atom("UTF8_STRING")
        data: bytes = reply.value.buf()
        if modern:
            return data.decode("utf-8", "replace")
        if reply.type != self.atom("COMPOUND_TEXT"):
            return data.decode("latin-1")
        parts = _UTF8_PART.split(data)  # Latin-1 and, each second one, UTF-8
        return "".join(
            part.decode("utf-8", "replace") if number % 2 else part.decode("latin-1")
            for number, part in enumerate(parts)
        )

    def numbers_of(self, reply: Any | None) -> tuple[int, ...]:
        """A property's 32-bit numbers."""
        if reply is None or reply.format != 32:
            return ()
        data: bytes = reply.value.buf()
        return struct.unpack(f"={len(data) // 4}I", data[: len(data) // 4 * 4])

    # -- programs ----------------------------------------------------------------------------

    def program(self, window: int) -> str:
        """What the process behind a window is called, empty if that is not known.

        The server itself says which process it is, so no program can give itself another's.
        """
        if self._res is None:
            return ""
        spec: Any = xcffib.res.ClientIdSpec
        spec = spec.synthetic(window, _CLIENT_PID)
        (reply,) = self.replies([self._res.QueryClientIds(1, [spec])])
        pids = [one.value[0] for one in reply.ids if len(one.value)] if reply is not None else []
        for pid in pids:
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{int(pid)}/comm").read_bytes()[:200].decode("utf-8", "replace")
                return fit(text.rstrip("\n"), MAX_NAME)
        return ""

    def new_window(self) -> int:
        """An invisible window of ours, to be asked through."""
        window: int = self.connection.generate_id()
        self.connection.core.CreateWindow(
            0, window, self.root, 0, 0, 1, 1, 0, _INPUT_ONLY, 0, 0, []
        )
        return window
