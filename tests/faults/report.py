"""What a run prints, and what it writes as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.faults.judge import Verdict

SHOWN = 12  # sentences of each sort; all are in the JSON file


@dataclass
class Outcome:
    """The figures of one run."""

    seed: int
    minutes: float
    pause: float
    verdict: Verdict = field(default_factory=Verdict)
    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    points_passed: Counter[str] = field(default_factory=Counter)
    points_struck: Counter[str] = field(default_factory=Counter)
    connections_cut: int = 0
    restarts: int = 0
    without_result: Counter[str] = field(default_factory=Counter)
    settled_seconds: float = 0.0
    left_out: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        return f"make faults SEED={self.seed} MINUTES={self.minutes:g} PAUSE={self.pause:g}"

    def as_json(self) -> dict[str, Any]:
        verdict = {**asdict(self.verdict), "good": self.verdict.good}
        return {**vars(self), "verdict": verdict, "command": self.command}


def _counted(found: Counter[str]) -> str:
    shown = ", ".join(f"{name} {number}" for name, number in sorted(found.items()))
    return f"{found.total()} ({shown})" if found else "0"


def show(outcome: Outcome, file: Path, kept: Path | None) -> None:
    """Print the table, and what is wrong; write the JSON file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(outcome.as_json(), indent=2) + "\n")
    verdict, console = outcome.verdict, Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(outcome):
        table.add_row(name, value)
    console.print(table)
    for title, lines in (
        ("Lost", verdict.lost), ("Different", verdict.different), ("Problem", verdict.problems),
    ):  # fmt: skip
        for line in lines[:SHOWN]:
            console.print(f"{title}: {line}", markup=False, soft_wrap=True)
        if len(lines) > SHOWN:
            console.print(f"{title}: {len(lines) - SHOWN} more in {file}")
    if kept is not None:
        console.print(f"Everything is kept in {kept}")
    console.print(f"Figures: {file}; again: {outcome.command}", soft_wrap=True)


def rows(outcome: Outcome) -> list[tuple[str, str]]:
    """The table, name and value."""
    verdict = outcome.verdict
    away = {name: outcome.faults[f"{name}-kill"] + outcome.faults[f"{name}-stop"]
            for name in ("broker", "catalog")}  # fmt: skip
    network = Counter({name: outcome.faults[name] for name in ("delay", "stall", "cut")})
    found = [
        ("seed, minutes", f"{outcome.seed}, {outcome.minutes:g}"),
        ("kills", _counted(outcome.kills)),
        ("SIGSTOPs", _counted(outcome.stops)),
        ("broker away", f"{away['broker']} ({outcome.faults['broker-kill']} by SIGKILL)"),
        ("catalog away", f"{away['catalog']} ({outcome.faults['catalog-kill']} by SIGKILL)"),
        ("network", f"{_counted(network)}, {outcome.connections_cut} connections cut"),
        ("disk full", str(outcome.faults["disk"])),
        ("points struck", _counted(outcome.points_struck)),
        ("restarts", str(outcome.restarts)),
        ("ended by themselves", _counted(outcome.exits)),
        ("sessions", f"{verdict.sessions} ({verdict.completed} completed, "
                     f"{verdict.incomplete} incomplete)"),
        ("recorders without a result", _counted(outcome.without_result)),
        ("frames", f"{verdict.frames}, in {verdict.records} records"),
        ("chunks", str(verdict.chunks)),
        ("bytes compared", str(verdict.bytes)),
        ("settled after", f"{outcome.settled_seconds:.1f} s"),
        ("lost", str(len(verdict.lost))),
        ("different", str(len(verdict.different))),
        ("problems", str(len(verdict.problems))),
    ]  # fmt: skip
    if outcome.left_out:
        found.insert(1, ("left out", ", ".join(outcome.left_out)))
    return found
