"""A redis-server of a test's own, that can be killed, started again and stopped in its tracks."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from agents.platform.ports import free_port
from agents.platform.stack.redis import Redis
from agents.platform.stack.server import NotReady


class RedisServer:
    """On one port, with nothing on disk; `url` is its address."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.folder, self.port, self._options = folder, free_port(), options
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 15.0) -> None:
        kind = Redis()
        command = kind.prepare(kind.install(self.folder, print), self.folder, [self.port])
        self._process = subprocess.Popen(
            [*command.argv, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + seconds
        while True:
            try:
                kind.probe(self.port, seconds=1)
                return
            except NotReady as error:
                if "NOAUTH" in str(error):
                    return
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis_server(folder: Path, options: Sequence[str] = ()) -> Iterator[RedisServer]:
    server = RedisServer(folder, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
