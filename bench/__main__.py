"""`make bench`: `python -m bench [--quick] [PART …]`, and `python -m bench compare [A B]`."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from bench.comparing import Comparison, Verdict, compare, spread
from bench.history import FOLDER, HistoryError, Measured, Run, all_runs, find, new_run, write
from bench.parts import BY_NAME, PARTS, Part
from bench.running import run_part
from schemas.errors import LucidError

OUT = Path("bench/out")
COLOURS = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.CHANGED: "yellow"}
console = Console(highlight=False)


def measure(
    names: Annotated[list[str] | None, typer.Argument(metavar="[PART]...")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short versions.")] = False,
    history: Annotated[Path, typer.Option(help="Where a run of all parts is written.")] = FOLDER,
) -> None:
    """Measure the parts, all by default; a run of all goes into the history.

    Status 1 if any of them failed.
    """
    for name in names or []:
        if name not in BY_NAME:
            raise typer.BadParameter(f"there is no part {name}; there are {', '.join(BY_NAME)}")
    wanted = [BY_NAME[name] for name in names or []] or [
        part for part in PARTS if part.quick is not None or not quick
    ]
    before = os.getloadavg()[0]
    found = {part.name: one for part, one in _measured(wanted, quick=quick)}
    run = new_run(found, quick=quick, load_before=before)
    console.print(f"Written to {write(run, OUT / 'last' if names else history)}")
    failed = [name for name, one in found.items() if one.error]
    if failed:
        console.print(f"[red]Failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _measured(wanted: list[Part], *, quick: bool) -> list[tuple[Part, Measured]]:
    """Each part's figures, shown as they come."""
    found = []
    for number, part in enumerate(wanted, 1):
        label = f"{number} of {len(wanted)}: {part.name}, {part.about}"
        with console.status(label) as status:
            if not console.is_terminal:
                console.print(label)
            one = run_part(part, OUT, quick=quick, look=_telling(status, label))
        found.append((part, one))
        _show(part, one)
    return found


def _telling(status: Status, label: str) -> Callable[[float], None]:
    def look(seconds: float) -> None:
        status.update(f"{label}: {seconds:.0f} s")

    return look


def _show(part: Part, one: Measured) -> None:
    title = f"{part.name} ({one.seconds:.0f} s)"
    if one.error:
        console.print(f"[red]{title} failed[/]")
        console.print(one.error, markup=False)
        return
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("figure")
    for heading in ("value", "spread"):
        table.add_column(heading, justify="right")
    table.add_column("goal")
    goals = {goal.figure: goal for goal in part.goals}
    for figure, values in one.figures.items():
        goal, value = goals.get(figure), statistics.median(values)
        said = ""
        if goal is not None:
            said = goal.text if goal.kept(value) else f"[red]{goal.text}: missed"
        wide = f"{spread(values):.0%}" if len(values) > 1 else ""
        table.add_row(figure, f"{value:.3f}", wide, said)
    console.print(table)


def compare_runs(
    before: Annotated[str, typer.Argument(help="File, beginning of a name, or commit.")] = "",
    after: Annotated[str, typer.Argument(help="The same; the last one by default.")] = "",
    history: Annotated[Path, typer.Option(help="The folder of runs.")] = FOLDER,
    everything: Annotated[bool, typer.Option("--all", help="Also what is within noise.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """What changed between two runs, by default the last two that can be compared."""
    runs = all_runs(history)
    one, other = _chosen(runs, history, before, after)
    found = compare(one, other, runs)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _table(found, everything)


def _chosen(runs: list[Run], folder: Path, before: str, after: str) -> tuple[Run, Run]:
    """Raises HistoryError."""
    if after:
        other = find(runs, folder, after)
    elif runs:
        other = runs[-1]
    else:
        raise HistoryError(f"{folder} has no run", hint="`make bench` makes one")
    if before:
        return find(runs, folder, before), other
    same = [run for run in runs if run.kind == other.kind and run.date < other.date]
    if not same:
        raise HistoryError(
            f"{folder} has no run before {other.name} that could be compared with it",
            hint="Name one: `python -m bench compare A B`",
        )
    return same[-1], other


def _table(found: Comparison, everything: bool) -> None:
    console.print(f"{found.before}  →  {found.after}")
    for warning in found.warnings:
        console.print(f"[yellow]{warning}")
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "figure"):
        table.add_column(heading)
    for heading in ("before", "after", "change", "noise"):
        table.add_column(heading, justify="right")
    table.add_column("")
    table.add_column("goal")
    quiet = 0
    for one in found.changes:
        if one.verdict is Verdict.NOISE and not everything:
            quiet += 1
            continue
        table.add_row(
            one.part, one.figure, f"{one.before:.4g}", f"{one.after:.4g}",
            _percent(one.change, "+"), _percent(one.noise, ""),
            f"[{COLOURS.get(one.verdict, 'default')}]{one.verdict}", one.goal,
        )  # fmt: skip
    console.print(table)
    if quiet:
        console.print(f"{quiet} figures are within noise (--all shows them)")


def _percent(share: float | None, sign: str) -> str:
    return "-" if share is None else f"{share:{sign}.1%}"


def main() -> None:
    """The first word chooses."""
    command = compare_runs if sys.argv[1:2] == ["compare"] else measure
    if command is compare_runs:
        del sys.argv[1]
    try:
        typer.run(command)
    except LucidError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
