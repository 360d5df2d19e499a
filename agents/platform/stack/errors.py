"""What can go wrong with the stack.

LucidError
├── MissingTool           (agents.platform.tools) a program to build or run a server with
└── StackError
    ├── BuildFailed       a server could not be downloaded or built
    ├── ServerFailed      a server ended at its start, or was not ready in time
    ├── PortTaken         a port that was asked for is in use
    └── StackBusy         another `lucid stack` works on the same folder for too long
"""

from __future__ import annotations

from schemas.errors import LucidError


class StackError(LucidError):
    """The stack is not in the state that was asked for."""

    exit_status = 69  # EX_UNAVAILABLE of sysexits.h


class BuildFailed(StackError):
    """A server could not be downloaded or built."""


class ServerFailed(StackError):
    """A server ended at its start, or was not ready in time."""


class PortTaken(StackError):
    """A port that was asked for is in use by another program."""


class StackBusy(StackError):
    """Another command holds the lock for longer than this one waits."""
