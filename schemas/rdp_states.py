"""The states of RDP servers, of their processes and of ports, and which may follow which. Pure.

LucidError
└── ForbiddenTransition    a change of state that the tables below do not have
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from schemas.errors import LucidError

ServerState = Literal[
    "creating", "configuring", "starting", "running", "stopping", "stopped", "failed",
    "maintenance", "deleted",
]  # fmt: skip
ProcessState = Literal["stopped", "starting", "running", "stopping", "failed", "restarting"]
PortState = Literal["available", "allocated", "reserved", "blocked"]
State = TypeVar("State", bound=str)

SERVER_STEPS: Mapping[ServerState, frozenset[ServerState]] = {
    # A port is claimed: the server's configuration is known.
    "creating": frozenset({"configuring", "failed", "deleted"}),
    "configuring": frozenset({"starting", "stopping", "failed", "deleted"}),
    # Back to configuring when the port turns out to be occupied and another one is taken.
    "starting": frozenset({"configuring", "running", "stopping", "failed"}),
    # Back to starting while its processes are restarted.
    "running": frozenset({"starting", "stopping", "failed"}),
    "stopping": frozenset({"stopped", "maintenance", "deleted", "failed", "starting"}),
    "stopped": frozenset({"configuring", "starting", "maintenance", "stopping", "deleted"}),
    # A failed server has given its port back, so that it is configured again.
    "failed": frozenset({"configuring", "maintenance", "stopping", "deleted"}),
    "maintenance": frozenset({"configuring", "starting", "stopped", "stopping", "deleted"}),
    "deleted": frozenset(),
}
PROCESS_STEPS: Mapping[ProcessState, frozenset[ProcessState]] = {
    "stopped": frozenset({"starting", "failed"}),
    "starting": frozenset({"running", "restarting", "stopping", "failed"}),
    "running": frozenset({"restarting", "stopping", "failed"}),
    "restarting": frozenset({"starting", "stopping", "failed"}),
    "stopping": frozenset({"stopped", "failed"}),
    "failed": frozenset({"starting", "stopping", "stopped"}),
}
PORT_STEPS: Mapping[PortState, frozenset[PortState]] = {
    "available": frozenset({"allocated", "blocked"}),
    "allocated": frozenset({"reserved", "available"}),
    # A reservation is over when its time is; it may be blocked meanwhile.
    "reserved": frozenset({"available", "allocated", "blocked"}),
    "blocked": frozenset({"available"}),
}
HOLDS_NO_PORT: frozenset[ServerState] = frozenset({"creating", "failed", "deleted"})
"""States in which a server has no port of its own."""

SETTLED: frozenset[ServerState] = frozenset(
    {"running", "stopped", "failed", "maintenance", "deleted"}
)
"""States that stay as they are until a command comes, or something happens to a process."""


class ForbiddenTransition(LucidError):
    """A state cannot follow another one."""


def check_step(
    steps: Mapping[State, frozenset[State]], before: State, after: State, of: str
) -> State:
    """The state after; the same one again is no step. Raises ForbiddenTransition."""
    if after != before and after not in steps[before]:
        raise ForbiddenTransition(f"{of} is {before} and cannot become {after}")
    return after
