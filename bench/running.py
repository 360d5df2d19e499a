"""Runs parts one after the other, each in a process of its own, whatever becomes of the others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.history import Measured
from bench.parts import Part

LOOK_SECONDS = 0.2
LEAVE_SECONDS = 30.0  # for a part that is given up, to end its servers
TAIL = 1500  # characters of its output that an error shows


def run_part(
    part: Part, folder: Path, *, quick: bool, look: Callable[[float], None] = lambda _: None
) -> Measured:
    """The part's figures, or why it has none. look: called with its seconds, now and then."""
    folder.mkdir(parents=True, exist_ok=True)
    result, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    result.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.part", part.name, "quick" if quick else "full",
             str(result)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    why = ""
    try:
        while process.poll() is None:
            look(time.monotonic() - began)
            if time.monotonic() - began > part.limit:
                why = f"not done within {part.limit:g} s; "
                break
            time.sleep(LOOK_SECONDS)
    finally:
        _end(process)
    seconds = time.monotonic() - began
    if process.returncode == 0 and not why:
        return Measured(seconds, json.loads(result.read_text()))
    said = log.read_text(errors="replace").strip()
    return Measured(seconds, {}, f"{why}{said[-TAIL:] or f'status {process.returncode}'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it as Ctrl-C does, so that it ends its own servers; then all that it left."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_SECONDS)
    # Its session is its own, and so is its group: nobody else is in it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
