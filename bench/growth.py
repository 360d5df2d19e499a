"""What a frame costs as sessions grow at constant bytes, and as bytes grow at constant sessions.

The same TOTAL bytes are recorded as 1, 10, 100 and 1000 sessions, each at a rate at which the
thousandth part of TOTAL lasts a little less than one cut by time. So all of them give about as many
chunks, and what grows is the number of sessions alone: 1000 of them are opened and closed for one
chunk each, the worst case that there is.

Processor and storage run as processes of their own and stay; records wait on the broker before
they are let go on, so that every count is worked off at full speed. Cost is their CPU time, both
together, from then to the last file, divided by the records with pixels.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.load.content import Content
from agents.platform.contract import apply_contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.settings import Settings
from bench.recorded import both, cpu_seconds, prepared, record, wait_stored
from bench.services import Running, on_own_stack

COUNTS: tuple[int, ...] = (1, 10, 100, 1000)
TOTAL = 500_000_000
SHARES: tuple[float, ...] = (0.25,)  # of TOTAL, with SAME sessions
SAME = 10
ROUNDS = 2
LEAST_SECONDS = 9.0  # of event time, of a session; the cut by time is at 10
CONTENT = "office"
PICTURE = Path("bench/out/growth.png")
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """One measurement. total: bytes that were asked for, raw: that there were.

    processor, storage: seconds of CPU. seconds: by the clock.

    chunks: files. peak: the processor's highest resident bytes.
    """

    sessions: int
    total: int
    raw: int
    frames: int
    chunks: int
    processor: float
    storage: float
    seconds: float
    peak: float

    @property
    def frame_us(self) -> float:
        return (self.processor + self.storage) / self.frames * 1e6


def run() -> dict[str, list[float]]:
    """Microseconds a frame by sessions and by bytes; goal: 1000 sessions at most 1.3 times 10."""
    costs = on_own_stack(_measure)
    draw(costs, PICTURE)
    return figures(costs)


async def _measure(settings: Settings) -> list[Cost]:
    init_keys(settings)
    await apply_contract(settings, load_contract(settings))
    rate = TOTAL / max(COUNTS) / LEAST_SECONDS
    content = await asyncio.to_thread(prepared, CONTENT, TOTAL)
    wanted = [(count, TOTAL) for count in COUNTS]
    wanted += [(SAME, round(TOTAL * share)) for share in SHARES]
    costs = []
    with both(settings) as services:
        # What only the first records cost is not a frame's cost.
        await _cost(settings, services, content, SAME, TOTAL // 20, rate)
        for number in range(ROUNDS):
            for count, total in wanted if number % 2 == 0 else reversed(wanted):
                costs.append(await _cost(settings, services, content, count, total, rate))
    return costs


async def _cost(
    settings: Settings, services: tuple[Running, Running], content: Content, sessions: int,
    total: int, rate: float,
) -> Cost:  # fmt: skip
    processor, storage = services
    with _stopped(processor):
        recorded = await record(settings, content, sessions=sessions, total=total, rate=rate)
        before = [cpu_seconds(one) for one in services]
        processor.peak, start = 0.0, time.time()
    ended = await asyncio.to_thread(wait_stored, settings, storage, recorded)
    mine, theirs = (cpu_seconds(one) - had for one, had in zip(services, before, strict=True))
    chunks = sum(
        sum(1 for _ in (settings.blobs_dir / one).glob("*.chunk")) for one in recorded.sessions
    )
    return Cost(sessions, total, recorded.raw, recorded.frames, chunks, mine, theirs, ended - start,
                processor.peak)  # fmt: skip


@contextmanager
def _stopped(running: Running) -> Iterator[None]:
    running.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running.process.send_signal(signal.SIGCONT)


# -- what it comes to ------------------------------------------------------------------------------


def figures(costs: Sequence[Cost]) -> dict[str, list[float]]:
    """By sessions and by megabytes. sessions_ratio: most sessions to SAME, within each round.

    open_close_ms: what a session costs besides its frames, by least squares over all counts.
    """
    most = max(cost.sessions for cost in costs)
    full = max(cost.total for cost in costs)
    found: dict[str, list[float]] = {}
    for cost in sorted(costs, key=lambda one: (one.sessions, one.total)):
        whole = cost.total == full
        name = f"sessions_{cost.sessions}" if whole else f"mb_{cost.total / 1e6:.0f}"
        found.setdefault(f"{name}_frame_us", []).append(cost.frame_us)
        found.setdefault(f"{name}_chunks", []).append(cost.chunks)
        found.setdefault(f"{name}_mb_s", []).append(cost.raw / cost.seconds / 1e6)
        found.setdefault(f"{name}_processor_mib", []).append(cost.peak / MIB)
    base = found.get(f"sessions_{SAME}_frame_us", [])
    if most > SAME and base:
        grown = found[f"sessions_{most}_frame_us"]
        found["sessions_ratio"] = [one / other for one, other in zip(grown, base, strict=True)]
    small = [values for name, values in found.items() if name.startswith("mb_") and "frame" in name]
    if small and base:
        found["bytes_ratio"] = [statistics.median(base) / statistics.median(small[0])]
    found["frame_us"], found["open_close_ms"] = _fitted(costs)
    return found


def _fitted(costs: Sequence[Cost]) -> tuple[list[float], list[float]]:
    rows = np.array([[cost.frames, cost.sessions] for cost in costs], float)
    spent = np.array([cost.processor + cost.storage for cost in costs])
    solved, *_ = np.linalg.lstsq(rows, spent, rcond=None)
    return [float(solved[0]) * 1e6], [float(solved[1]) * 1e3]


def draw(costs: Sequence[Cost], path: Path) -> None:
    """Cost of a frame by sessions and by bytes, every measurement a point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    full = max(cost.total for cost in costs)
    by_count = [cost for cost in costs if cost.total == full]
    by_bytes = [cost for cost in costs if cost.sessions == SAME]
    left.set_xscale("log")
    for axes, some, at, label in (
        (left, by_count, [cost.sessions for cost in by_count],
         f"sessions, {full / 1e6:.0f} MB together"),
        (right, by_bytes, [cost.raw / 1e6 for cost in by_bytes], f"MB, {SAME} sessions"),
    ):  # fmt: skip
        for name, values in (
            ("processor", [cost.processor / cost.frames * 1e6 for cost in some]),
            ("both", [cost.frame_us for cost in some]),
        ):
            axes.plot(at, values, "o", label=name, alpha=0.7)
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.set_ylabel("µs of CPU for each frame")
    left.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
