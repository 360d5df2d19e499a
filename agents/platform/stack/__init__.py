"""Kafka, a MongoDB-compatible catalog and Redis as child processes on one machine.

`up`, `down`, `status` and `reset` take Settings; `commands.app` is `lucid stack`.
"""

from agents.platform.stack.errors import (
    BuildFailed,
    PortTaken,
    ServerFailed,
    StackBusy,
    StackError,
)
from agents.platform.stack.supervisor import (
    Endpoints,
    ServerStatus,
    down,
    reset,
    status,
    up,
)

__all__ = [
    "BuildFailed",
    "Endpoints",
    "PortTaken",
    "ServerFailed",
    "ServerStatus",
    "StackBusy",
    "StackError",
    "down",
    "reset",
    "status",
    "up",
]
