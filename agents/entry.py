"""Where the command `lucid` begins: Ctrl-C while its modules are loaded is no error to trace."""

from __future__ import annotations

INTERRUPTED = 130  # as shells count a program that SIGINT ended


def main() -> int:
    """Load the command and run it; its exit status."""
    try:
        from agents.cli import main as run
    except KeyboardInterrupt:
        return INTERRUPTED
    return run()
