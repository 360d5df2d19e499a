"""`python -m tests.faults.rdp --seed 1 --minutes 5`: RDP services killed under real desktops.

Exit status: 0 when everything was true, whole and gone at the end, 1 when something was not.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from agents.platform import stack as servers
from tests.conftest import Stack, own_settings
from tests.faults.rdp_plan import make_plan
from tests.faults.rdp_scene import Scene, a_scene
from tests.rdp.people import can_run

CHECK_EVERY = 5  # steps


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(scene: Scene, seed: int, minutes: float) -> int:
    """Play steps until the time is over, then settle; how many there were."""
    end, number = time.monotonic() + minutes * 60, 0
    for number, step in enumerate(make_plan(seed, len(scene.users)), 1):
        scene.play(step)
        scene.come_back()
        if number % CHECK_EVERY == 0:
            scene.until_true(f"after {number} steps")
        if time.monotonic() > end:
            break
    scene.settle()
    return number


def main(
    seed: Annotated[int, typer.Option(help="Decides what is killed when.", min=0)] = 1,
    minutes: Annotated[float, typer.Option(help="How long things go wrong.", min=0.1)] = 5,
) -> None:
    """Kill the five RDP services by a seeded plan; then compare events with what is there."""
    if not can_run():
        typer.echo("Real desktops need root, xrdp and xfreerdp: `make setup` as root", err=True)
        raise typer.Exit(1)
    for name in [name for name in os.environ if name.startswith("LUCID_")]:
        if name != "LUCID_CACHE":
            del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="lucid-rdp-faults-", dir="/tmp"))
    home.chmod(0o755)
    settings = own_settings(home / "stack")
    good = False
    try:
        up = servers.up(settings)
        stack = Stack(home / "stack", settings, up.kafka, up.mongo, up.redis)
        with a_scene(stack, home / "lucid", tell) as scene:
            steps = run(scene, seed, minutes)
        for problem in scene.problems:
            typer.echo(problem, err=True)
        good = not scene.problems
        typer.echo(
            f"seed {seed}: {steps} steps, {scene.kills} kills, {scene.recordings} recordings, "
            f"true again after {scene.slowest:.1f} s at most, {len(scene.problems)} problems"
        )
    finally:
        servers.down(settings)
        if good:
            shutil.rmtree(home, ignore_errors=True)
        else:
            typer.echo(f"kept {home}", err=True)
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
