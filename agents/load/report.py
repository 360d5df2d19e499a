"""What came of a load. What was lost, or broke, is said before any figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rich.console import Console

from agents.load.counting import Verdict
from agents.load.latency import Summary
from agents.load.watching import Sample
from agents.platform.output import Rows

LATE_SECONDS = 0.5  # of the generator, 99 in 100: beyond it, it did not keep its plan
MOST_LISTED = 20


class Outcome(StrEnum):
    """In one word."""

    GOOD = "good"
    MISSED = "objective missed"
    STOPPED = "stopped early"
    LOST = "records lost"
    BROKEN = "broken off"
    UNCOUNTED = "not counted"
    REFUSED = "not begun"


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all sessions, by sequence number. lost: sent, and not in any stored chunk."""

    sessions: int = 0
    sent: int = 0
    confirmed: int = 0
    refused: int = 0
    unconfirmed: int = 0
    stored: int = 0
    lost: int = 0
    duplicated: int = 0
    never_sent: int = 0
    conflicts: int = 0
    sessions_not_ended: int = 0


@dataclass(frozen=True)
class Report:
    """One load. problems: what a reader must know before the figures; empty only if good."""

    run: str
    outcome: Outcome
    problems: Sequence[str]
    counts: Counts
    order: dict[str, Any]
    seconds: float = 0.0
    confirmed_rate: float = 0.0
    compressed: float = 0.0
    confirmed: Summary | None = None
    stored: Summary | None = None
    late: Summary | None = None
    memory_slope: dict[str, float] = field(default_factory=dict)
    lossy: Sequence[Verdict] = ()
    samples: Sequence[Sample] = ()

    @property
    def good(self) -> bool:
        return self.outcome is Outcome.GOOD

    def as_dict(self) -> dict[str, Any]:
        """For JSON: outcome and problems first."""
        return {
            "outcome": str(self.outcome), "problems": list(self.problems),
            "counts": {name: getattr(self.counts, name) for name in Counts.__slots__},
            "not_whole": [
                {"session": one.session, "sent": one.sent, "lost": one.lost,
                 "duplicated": one.duplicated, "never_sent": one.unknown,
                 "conflicts": one.conflicts, "ended": one.ended,
                 "lost_ranges": [[span.first, span.end - 1] for span in one.ranges]}
                for one in self.lossy[:MOST_LISTED]
            ],
            "run": self.run, "order": self.order, "seconds": round(self.seconds, 3),
            "confirmed_bytes_per_second": round(self.confirmed_rate),
            "compressed_to": round(self.compressed, 4),
            "seconds_to_confirmed": _figures(self.confirmed),
            "seconds_to_stored": _figures(self.stored),
            "seconds_behind_the_plan": _figures(self.late),
            "memory_bytes_per_minute": {k: round(v) for k, v in self.memory_slope.items()},
            "samples": [one.as_dict() for one in self.samples],
        }  # fmt: skip

    def title(self) -> str:
        """One line for a plot: what is wrong comes first."""
        if self.good:
            return f"{self.counts.sessions} sessions, nothing lost, nothing stored twice"
        return f"{str(self.outcome).upper()}: {self.problems[0] if self.problems else ''}"


def _figures(summary: Summary | None) -> dict[str, float] | None:
    return summary.as_dict() if summary is not None else None


def counted(verdicts: Sequence[Verdict], *, sent: int, confirmed: int, refused: int) -> Counts:
    """The sums of all sessions."""
    lost = sum(one.lost for one in verdicts)
    return Counts(
        sessions=len(verdicts), sent=sent, confirmed=confirmed, refused=refused,
        unconfirmed=sent - confirmed - refused,
        stored=sum(one.sent for one in verdicts) - lost, lost=lost,
        duplicated=sum(one.duplicated for one in verdicts),
        never_sent=sum(one.unknown for one in verdicts),
        conflicts=sum(one.conflicts for one in verdicts),
        sessions_not_ended=sum(not one.ended for one in verdicts),
    )  # fmt: skip


def shortcomings(counts: Counts) -> list[str]:
    """One sentence for each way in which the store differs from what was sent."""
    rows = (
        (counts.lost, f"of {counts.sent} records sent are not stored"),
        (counts.refused, "records were not taken by the broker"),
        (counts.unconfirmed, "records were never confirmed by the broker"),
        (counts.duplicated, "records are stored twice"),
        (counts.never_sent, "records are stored that were never sent"),
        (counts.conflicts, "files differ from the first ones stored under their names"),
        (counts.sessions_not_ended, f"of {counts.sessions} sessions have no manifest"),
    )
    return [f"{number} {text}" for number, text in rows if number]


def slopes(samples: Sequence[Sample]) -> dict[str, float]:
    """Growth of each service's memory, bytes a minute: least squares over the later half."""
    later = samples[len(samples) // 2 :]
    found = {}
    for name in sorted({name for one in later for name in one.rss}):
        points = [(one.at, float(one.rss[name])) for one in later if name in one.rss]
        if len(points) < 3:
            continue
        middle = sum(x for x, _ in points) / len(points)
        mean = sum(y for _, y in points) / len(points)
        spread = sum((x - middle) ** 2 for x, _ in points)
        if spread:
            found[name] = 60 * sum((x - middle) * (y - mean) for x, y in points) / spread
    return found


def show(report: Report, console: Console) -> None:
    """For people: problems first, then counts, then figures."""
    style = "" if report.good else "bold red"
    console.print(report.title(), style=style, markup=False, soft_wrap=True)
    for one in report.problems[1:] if not report.good else report.problems:
        console.print(f"  {one}", style="red", markup=False, soft_wrap=True)
    if report.outcome is Outcome.REFUSED:
        return
    counts = report.counts
    console.print(
        f"{counts.sent} records sent, {counts.confirmed} confirmed, {counts.stored} stored, "
        f"{counts.lost} lost, {counts.duplicated} stored twice; "
        f"{report.confirmed_rate / 1e6:.2f} MB/s",
        soft_wrap=True,
    )
    table = Rows()
    for heading in ("seconds from the intended time", "p50", "p90", "p99", "p99.9", "most", "of"):
        table.add_column(heading, justify="left" if heading[0] == "s" else "right")
    rows = (("to the broker's confirmation", report.confirmed), ("of a chunk, to stored",
            report.stored), ("to handing over (the generator's own)", report.late))  # fmt: skip
    for name, summary in rows:
        if summary is None:
            table.add_row(name, *["-"] * 6)
            continue
        s = summary
        seconds = [f"{value:.3f}" for value in (s.p50, s.p90, s.p99, s.p999, s.most)]
        table.add_row(name, *seconds, str(s.count))
    console.print(table)
