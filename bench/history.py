"""What each run of `make bench` measured, with the facts of its machine: one JSON file a run.

bench/history/20261126T031500Z-dce71e7.json          -quick.json of the short version
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from schemas.errors import LucidError

FOLDER = Path("bench/history")
LIBRARIES = (
    "aiokafka", "cryptography", "fastapi", "faust-streaming", "lz4", "motor", "numpy", "pydantic",
    "pynacl", "uvloop", "uvicorn", "xcffib", "zstandard",
)  # fmt: skip


class HistoryError(LucidError):
    """A run of the bench is not in the history, or its file cannot be read."""

    exit_status = 66


@dataclass(frozen=True, slots=True)
class Measured:
    """A part's figures, each with all its values within the run. error: why there are none."""

    seconds: float
    figures: dict[str, list[float]] = field(default_factory=dict)
    error: str = ""

    def value(self, figure: str) -> float:
        return statistics.median(self.figures[figure])


@dataclass(frozen=True, slots=True)
class Run:
    """One run. machine: see `machine_facts`. load: averages of a minute, before and after."""

    date: str
    commit: str
    quick: bool
    machine: dict[str, Any]
    load: list[float]
    parts: dict[str, Measured]

    @property
    def name(self) -> str:
        stamp = datetime.fromisoformat(self.date).strftime("%Y%m%dT%H%M%SZ")
        return f"{stamp}-{self.commit}{'-quick' if self.quick else ''}"

    @property
    def kind(self) -> tuple[object, ...]:
        """Runs of one kind can be compared."""
        return (self.quick, self.machine.get("cpu"), self.machine.get("cores"))


def machine_facts() -> dict[str, Any]:
    """Of this machine and its software; memory in bytes."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(), "cores": os.cpu_count(), "memory": psutil.virtual_memory().total,
        "kernel": platform.release(), "python": platform.python_version(), "libraries": libraries,
    }  # fmt: skip


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """The checkout's commit, with + if anything was changed since; "none" outside of one."""
    try:
        return _git("rev-parse", "--short=8", "HEAD") + ("+" if _git("status", "--short") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def new_run(parts: dict[str, Measured], *, quick: bool, load_before: float) -> Run:
    """A run that ends now."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(date, commit(), quick, machine_facts(), [load_before, os.getloadavg()[0]], parts)


def write(run: Run, folder: Path) -> Path:
    """Its file; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.name}.json"
    path.write_text(json.dumps(_rounded(asdict(run)), indent=1, sort_keys=True) + "\n")
    return path


def _rounded(value: Any) -> Any:
    """Five digits are more than any measurement has."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def read(path: Path) -> Run:
    """Raises HistoryError."""
    try:
        found = json.loads(path.read_text())
        parts = {name: Measured(**one) for name, one in found.pop("parts").items()}
        run = Run(**found, parts=parts)
        if not all(isinstance(one.figures, dict) for one in parts.values()):
            raise TypeError("a part's figures are no object")
        datetime.fromisoformat(run.date)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise HistoryError(
            f"{path} is no run of the bench: {error}",
            hint="`make bench` writes them, into bench/history",
        ) from error
    return run


def all_runs(folder: Path) -> list[Run]:
    """From the first to the last; raises HistoryError."""
    return sorted((read(path) for path in folder.glob("*.json")), key=lambda run: run.date)


def find(runs: list[Run], folder: Path, name: str) -> Run:
    """The run of a file, or whose name begins so, or has that commit; raises HistoryError."""
    if Path(name).is_file():
        return read(Path(name))
    found = [
        run for run in runs if run.name.startswith(name) or run.commit.rstrip("+") == name
    ]  # fmt: skip
    if not found:
        raise HistoryError(
            f"{folder} has no run {name}",
            hint=f"It has {', '.join(run.name for run in runs[-5:]) or 'none'}",
        )
    return found[-1]
