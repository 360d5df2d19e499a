"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the range from which Linux gives out ports of outgoing connections (32768 and up):
# a port chosen here is not taken by somebody's client before the server listens on it.
_RANGE = range(20_000, 32_000)
_given: set[int] = set()


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier one that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            probe.listen(1)
            return True
    return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on; within one process no port is given out twice.

    Raises OSError when every port of the range is taken.
    """
    for port in random.sample(_RANGE, len(_RANGE)):
        if port not in _given and is_free(port, host):
            _given.add(port)
            return port
    raise OSError(f"no free port between {_RANGE.start} and {_RANGE.stop} on {host}")
