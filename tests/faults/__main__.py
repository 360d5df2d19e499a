"""`python -m tests.faults --seed 1 --minutes 10`: one run of the fault harness.

Exit status: 0 when nothing is lost or different, 1 when something is, 2 for wrong arguments.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.faults import disk
from tests.faults.report import show
from tests.faults.run import Options, Tell, execute, keep
from tests.faults.schedule import PAUSE

QUIET_SECONDS = 10.0  # between lines where there is no terminal


def main(
    seed: Annotated[int, typer.Option(help="Decides what goes wrong when.", min=0)] = 1,
    minutes: Annotated[float, typer.Option(help="How long things go wrong.", min=0.1)] = 10,
    recorders: Annotated[int, typer.Option(help="Sessions at any time.", min=1, max=32)] = 4,
    pause: Annotated[float, typer.Option(help="Seconds between faults.", min=1)] = PAUSE,
    home: Annotated[Path | None, typer.Option(help="An empty folder for the run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("faults-out"),
) -> None:
    """Kill, stop, cut, delay and fill things by a seeded schedule; then compare everything."""
    home = (home or Path(tempfile.mkdtemp(prefix="lucid-faults-"))).absolute()
    options = Options(seed, minutes * 60, home, recorders, pause)
    if disk.MARK not in os.environ:
        inner = ["--seed", seed, "--minutes", minutes, "--recorders", recorders, "--pause", pause,
                 "--home", home, "--out", out]  # fmt: skip
        disk.enter(options.blobs, [sys.executable, "-m", "tests.faults", *map(str, inner)])
    for name in [name for name in os.environ if name.startswith("LUCID_")]:
        if name not in (disk.MARK, "LUCID_CACHE"):
            del os.environ[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kept: Path | None = home
    console = Console(stderr=True, highlight=False)
    try:
        with console.status("starting") as status:
            outcome = execute(options, _teller(console, status.update))
        kept = None if outcome.verdict.good else home
        show(outcome, out / f"seed-{seed}.json", kept)
    finally:
        if kept is not None:
            keep(options)
        if disk.is_mounted(options.blobs):
            subprocess.run(["umount", str(options.blobs)], check=False)
        if kept is None:
            shutil.rmtree(home, ignore_errors=True)
    raise typer.Exit(0 if outcome.verdict.good else 1)


def _teller(console: Console, update: Tell) -> Tell:
    """A live line on a terminal, else a line every 10 s."""
    if console.is_terminal:
        return update
    last = -QUIET_SECONDS

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= QUIET_SECONDS:
            last = time.monotonic()
            console.print(text, soft_wrap=True)

    return tell


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
