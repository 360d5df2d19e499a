"""What changed between two runs of the bench, and whether that is more than noise. Pure.

Noise of a figure is the largest of: the spread of its repeated measurements within either run
(most less least, to the median), and what it commonly changes by from one run to the next in the
history before the later run (the median of such changes, so that one real step does not hide
the next). If a figure was measured once in each, and there is no history, its noise is unknown.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from bench.history import Run
from bench.parts import BY_NAME, Goal

EARLIER = 6  # runs of the history that are looked at


class Verdict(StrEnum):
    """better, worse: of figures that have a goal. changed: of others."""

    NOISE = "within noise"
    UNKNOWN = "noise unknown"
    CHANGED = "changed"
    BETTER = "better"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in both runs. change, noise: to the first run's value; None: not known."""

    part: str
    figure: str
    before: float
    after: float
    change: float | None
    noise: float | None
    verdict: Verdict
    goal: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs. warnings: why they may not be comparable, and parts that only one of them has."""

    before: str
    after: str
    warnings: tuple[str, ...]
    changes: tuple[Change, ...]


def compare(before: Run, after: Run, history: Sequence[Run] = ()) -> Comparison:
    """Figure by figure, in the later run's order."""
    earlier = [
        run for run in history if run.kind == after.kind and run.date < after.date
    ][-EARLIER:]  # fmt: skip
    changes: list[Change] = []
    for name, part in after.parts.items():
        other = before.parts.get(name)
        if other is None:
            continue
        for figure in part.figures:
            if figure in other.figures:
                changes.append(_change(name, figure, before, after, earlier))
    return Comparison(before.name, after.name, tuple(_warnings(before, after)), tuple(changes))


def _warnings(before: Run, after: Run) -> list[str]:
    found = []
    if before.quick != after.quick:
        found.append("one of them is the short version")
    for fact in ("cpu", "cores", "memory", "kernel", "python", "libraries"):
        mine, other = before.machine.get(fact), after.machine.get(fact)
        if mine != other:
            if isinstance(mine, dict) and isinstance(other, dict):
                names = sorted(mine.keys() | other.keys())
                mine = {one: mine.get(one) for one in names if mine.get(one) != other.get(one)}
                other = {one: other.get(one) for one in mine}
            found.append(f"{fact} differs: {mine}, {other}")
    for run in (before, after):
        busy = max(run.load, default=0.0)
        if busy > 1.5 * (run.machine.get("cores") or 1):
            found.append(f"{run.name} was on a busy machine: load {busy:.1f}")
        found += [f"{run.name}: {name} failed" for name, one in run.parts.items() if one.error]
    for name in sorted(before.parts.keys() ^ after.parts.keys()):
        found.append(f"only one of them has {name}")
    return found


def _change(part: str, figure: str, before: Run, after: Run, earlier: Sequence[Run]) -> Change:
    old, new = before.parts[part].value(figure), after.parts[part].value(figure)
    goal = next((one for one in _goals(part) if one.figure == figure), None)
    said = f"{goal.text}, {'kept' if goal.kept(new) else 'missed'}" if goal else ""
    if old == 0:
        verdict = Verdict.NOISE if new == 0 else Verdict.CHANGED
        return Change(part, figure, old, new, None, None, verdict, said)
    change = new / old - 1
    noise = _noise(part, figure, before, after, earlier)
    return Change(part, figure, old, new, change, noise, _verdict(change, noise, goal), said)


def _goals(part: str) -> tuple[Goal, ...]:
    return BY_NAME[part].goals if part in BY_NAME else ()


def _verdict(change: float, noise: float | None, goal: Goal | None) -> Verdict:
    if change == 0:
        return Verdict.NOISE
    if noise is None:
        return Verdict.UNKNOWN
    if abs(change) <= noise:
        return Verdict.NOISE
    if goal is None:
        return Verdict.CHANGED
    return Verdict.BETTER if (change > 0) == (goal.least is not None) else Verdict.WORSE


def _noise(
    part: str, figure: str, before: Run, after: Run, earlier: Sequence[Run]
) -> float | None:  # fmt: skip
    known = [
        spread(values) for run in (before, after)
        if len(values := run.parts[part].figures[figure]) > 1
    ]  # fmt: skip
    medians = [
        run.parts[part].value(figure) for run in earlier
        if part in run.parts and figure in run.parts[part].figures
    ]  # fmt: skip
    steps = [abs(new / old - 1) for old, new in pairwise(medians) if old]
    if steps:
        known.append(statistics.median(steps))
    return max(known, default=None)


def spread(values: Sequence[float]) -> float:
    """Most less least, to the median."""
    middle = statistics.median(values)
    return abs((max(values) - min(values)) / middle) if middle else 0.0
