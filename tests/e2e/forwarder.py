"""A TCP forwarder that a test can take away and bring back."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading


class Forwarder:
    """Listens on a free port of 127.0.0.1 and hands connections on to `target`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.port = 0
        self.up()

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def down(self) -> None:
        """Refuse connections and cut those there are."""
        assert self._listener is not None
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Forward to `HOST PORT` in a process of its own, which a test can stop with SIGSTOP.

    Prints the port it listens on; ends when its input does.
    """
    forwarder = Forwarder((sys.argv[1], int(sys.argv[2])))
    print(forwarder.port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
