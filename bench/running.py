"""Runs parts one after the other, each in a process of its own, whatever becomes of the others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import psutil

from bench.history import Measured
from bench.parts import Part

LOOK_SECONDS = 0.2
LEAVE_SECONDS = 30.0  # for a part that is given up, to end its servers
MARK = "BENCH_PART_FOLDER"
TAIL = 1500  # characters of its output that an error shows


def run_part(
    part: Part, folder: Path, *, quick: bool, look: Callable[[float], None] = lambda _: None
) -> Measured:
    """The part's figures, or why it has none. look: called with its seconds, now and then."""
    folder.mkdir(parents=True, exist_ok=True)
    result, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    result.unlink(missing_ok=True)
    began, why = time.monotonic(), ""
    with _marked(log) as (environment, out):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.part", part.name, "quick" if quick else "full",
             str(result)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                look(time.monotonic() - began)
                if time.monotonic() - began > part.limit:
                    why = f"not done within {part.limit:g} s; "
                    break
                time.sleep(LOOK_SECONDS)
        finally:
            # As Ctrl-C does, so that it ends its own servers.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE_SECONDS)
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    if process.returncode == 0 and not why:
        return Measured(seconds, json.loads(result.read_text()))
    said = log.read_text(errors="replace").strip()
    return Measured(seconds, {}, f"{why}{said[-TAIL:] or f'status {process.returncode}'}")


@contextmanager
def _marked(log: Path) -> Iterator[tuple[dict[str, str], BinaryIO]]:
    """An environment by which all processes of a part are known, and its output.

    Those that are left when the block is are killed, whoever their parent is by then (servers
    are nobody's children), and their temporary files deleted.
    """
    with tempfile.TemporaryDirectory(prefix="lucid-bench-", ignore_cleanup_errors=True) as folder:
        try:
            with log.open("wb") as out:
                yield {**os.environ, "TMPDIR": folder, MARK: folder}, out
        finally:
            for one in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if one.environ().get(MARK) == folder:
                        one.kill()
                        one.wait(LEAVE_SECONDS)
