"""HTTP/1.1 by httptools, with a bound for the head of a request.

llhttp, which parses, takes a head of any size and keeps each header until it is whole.
"""

from __future__ import annotations

import httptools  # noqa: F401 - uvicorn's protocol needs it, and an image has what is imported
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 32 * 1024
"""Bytes of a request's first line and headers, and of what frames its body."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 400 to a head that is larger, and ends the connection.

    Counted is what came, less what the parser gave as a body. The piece in which a request
    begins may hold the end of another one; of it only what the parser gave is counted.
    """

    _came = _body = _given = 0
    _begun = False

    def data_received(self, data: bytes) -> None:
        self._body, self._begun = 0, False
        super().data_received(data)
        self._came = 0 if self._begun else self._came + len(data) - self._body
        if self._came > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._given, self._begun = 0, True

    def on_url(self, url: bytes) -> None:
        self._give(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._give(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def _give(self, size: int) -> None:
        self._given += size
        if self._given > MAX_HEAD:
            raise ValueError("the head of the request is too large")  # the parser's error, a 400
