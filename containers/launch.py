"""Starts the one program of an image; what it refuses is one line on standard error.

The file `entry` beside it names it: `agents.session.storage.agent:main` for one.
"""

import importlib
import sys
from pathlib import Path


def main(entry: str) -> int:
    """Call the function that `entry` names; returns its exit status."""
    from schemas.errors import LucidError

    module, _, name = entry.partition(":")
    try:
        status: int = getattr(importlib.import_module(module), name)()
    except LucidError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return status


if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name("entry").read_text().strip()))
