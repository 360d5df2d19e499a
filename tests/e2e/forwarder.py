"""A TCP forwarder that can be taken away, cut, slowed down and stalled."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading

BLOCK = 64 * 1024


class _Connection:
    """A client's socket and the server's, with a thread for each direction."""

    def __init__(self, near: socket.socket, far: socket.socket, owner: Forwarder) -> None:
        self._ends = (near, far)
        self._owner = owner
        self._left = 2
        self._guard = threading.Lock()
        for pair in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                self._owner.hold_up()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        with self._guard:
            self._left -= 1
            ended = not self._left
        if ended:
            self.cut()
            self._owner.forget(self)

    def cut(self) -> None:
        """Close both ends, whatever is on its way."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Forwarder:
    """Listens on a free port of 127.0.0.1 and hands connections on to `target`.

    delay: seconds by which every block is late, in each direction.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.delay = 0.0
        self.port = 0
        self._listener: socket.socket | None = None
        self._open: set[_Connection] = set()
        self._guard = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._never = threading.Event()
        self.up()

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def down(self) -> None:
        """Refuse connections and cut those there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.flow()
        self.cut()

    def cut(self, share: float = 1.0, noise: random.Random | None = None) -> int:
        """Cut a share of the connections there are; how many."""
        with self._guard:
            found = list(self._open)
        chosen = found if noise is None else noise.sample(found, round(len(found) * share))
        for connection in chosen:
            connection.cut()
        return len(chosen)

    def stall(self) -> None:
        """Take what is sent and hand nothing on, as a network that swallows packets does."""
        self._flows.clear()

    def flow(self) -> None:
        """Hand on again, at once."""
        self.delay = 0.0
        self._flows.set()

    def hold_up(self) -> None:
        """What a block waits for before it is handed on."""
        if self.delay:
            self._never.wait(self.delay)
        self._flows.wait()

    def forget(self, connection: _Connection) -> None:
        with self._guard:
            self._open.discard(connection)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(self.target)
                except OSError:
                    near.close()
                    continue
                with self._guard:
                    self._open.add(_Connection(near, far, self))


def main() -> None:
    """Forward to `HOST PORT` in a process of its own, which a test can stop with SIGSTOP.

    Prints the port it listens on; ends when its input does.
    """
    forwarder = Forwarder((sys.argv[1], int(sys.argv[2])))
    print(forwarder.port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
