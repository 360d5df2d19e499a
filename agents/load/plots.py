"""A report as pictures: a PNG, and one HTML file that needs nothing beside it.

LucidError
├── NoPlots      matplotlib is not installed
└── NoFolder     the folder for the report cannot be made or written to
"""

from __future__ import annotations

import html
import importlib.util
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.load.latency import Summary
from agents.load.report import Report
from schemas.errors import LucidError

MIB = 1024.0**2
Point = tuple[float, float | None]
INCHES, DOTS = (9.0, 13.0), 110


class NoPlots(LucidError):
    """The report cannot be drawn."""

    exit_status = 78


class NoFolder(LucidError):
    """There is nowhere to put the report."""

    exit_status = 73


def require_folder(folder: Path) -> None:
    """Make the folder; raise NoFolder if it takes no files: before a long run, not behind it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise NoFolder(
            f"cannot write to the folder {folder}: {error.strerror or error}",
            hint="--report names one that is yours and has room",
        ) from error


def require_plots() -> None:
    """Raise NoPlots before a long run, not behind it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoPlots(
            "matplotlib is not installed, and a report is drawn with it",
            hint="Install `lucid-recorder[load]`, or give no --report",
        )


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.json, report.png and report.html into a folder; raises NoPlots."""
    require_plots()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"report.{ending}" for ending in ("json", "png", "html")]
    paths[0].write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    paths[1].write_bytes(_drawn(report, "png"))
    paths[2].write_text(_page(report))
    return paths


def _drawn(report: Report, form: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots(5, 1, sharex=True)
    samples = report.samples
    figure.suptitle(report.title(), color="black" if report.good else "#b00020", wrap=True)
    for name in ("sent", "confirmed", "stored"):
        _line(axes[0], [(one.at, getattr(one, f"{name}_rate") / 1e6) for one in samples], name)
    _titled(axes[0], "MB/s of payloads")
    for place, style in (("confirmed", "-"), ("stored", "--")):
        for part in ("p50", "p99", "most"):
            points = [(one.at, _value(getattr(one, place), part)) for one in samples]
            _line(axes[1], points, f"{place} {part}", style)
    axes[1].set_yscale("log")
    _titled(axes[1], "seconds from the intended time")
    for number, (field, title, unit) in enumerate(_BY_SERVICE, start=2):
        by_service = [(one.at, getattr(one, field)) for one in samples]
        for name in sorted({name for _, found in by_service for name in found}):
            points = [(at, _scaled(found.get(name), unit)) for at, found in by_service]
            _line(axes[number], points, name)
        _titled(axes[number], title)
    axes[4].set_xlabel("seconds since the start")
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=DOTS)
    return out.getvalue()


_BY_SERVICE = (
    ("lag", "records not committed (lag)", 1.0), ("cpu", "cores", 1.0), ("rss", "MiB resident", MIB)
)  # fmt: skip


def _value(summary: Summary | None, field: str) -> float | None:
    return None if summary is None else max(1e-4, float(getattr(summary, field)))


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _line(axes: Any, points: Sequence[Point], label: str, style: str = "-") -> None:
    known = [(at, value) for at, value in points if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), style, label=label, linewidth=1.0,
                  marker="." if len(known) < 60 else None, markersize=3)  # fmt: skip


def _titled(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7, ncols=4)


def _page(report: Report) -> str:
    """Problems, counts, figures, pictures (SVG within the page), then all of it as JSON."""
    facts = report.as_dict()
    del facts["samples"]
    svg = _drawn(report, "svg").decode()
    picture = svg[svg.index("<svg") :]
    problems = "".join(f"<li>{html.escape(one)}</li>" for one in report.problems)
    rows = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{value}</td></tr>"
        for name, value in facts["counts"].items()
    )
    style = (
        "body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        ".bad{color:#b00020}th{text-align:left;padding-right:2em;font-weight:normal}"
        "svg{max-width:100%;height:auto}pre{font-size:12px;overflow:auto}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lucid load '
        f"{html.escape(report.run)}</title><style>{style}</style></head><body>"
        f'<h1 class="{"" if report.good else "bad"}">{html.escape(report.title())}</h1>'
        f'<ul class="bad">{problems}</ul><table>{rows}</table>{picture}'
        f"<pre>{html.escape(json.dumps(facts, indent=1))}</pre></body></html>\n"
    )
