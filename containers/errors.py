"""What goes wrong while images are built, and running the programs that build them.

LucidError
└── BuildProblem      a program is missing or failed; says which, and what it printed last
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from schemas.errors import LucidError


class BuildProblem(LucidError):
    """A step of a build failed."""


def run(
    command: Sequence[str], *, what: str, cwd: Path | None = None,
    env: Mapping[str, str] | None = None, seconds: float = 900.0,
) -> str:  # fmt: skip
    """Standard output of a program; raises BuildProblem with the last lines it printed."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BuildProblem(
            f"{what}: the program {command[0]} is not installed",
            hint="`make container-packages` installs what is needed, as root on Debian",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BuildProblem(f"{what} did not finish in {seconds:.0f} s") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        shown = "\n  ".join(lines[-15:])
        raise BuildProblem(f"{what} failed with exit status {done.returncode}:\n  {shown}\n")
    return done.stdout
