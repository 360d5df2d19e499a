"""Latencies: an HDR histogram of the whole run, and one for each slice of its time.

LucidError
└── NoHistograms    hdrhistogram is not installed
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from schemas.errors import LucidError

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds. count: how many were measured."""

    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    most: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class NoHistograms(LucidError):
    """Nothing can be measured."""

    exit_status = 78


def _new() -> HdrHistogram:
    # All other commands do without it: it is of the extra `load`.
    try:
        from hdrh.histogram import HdrHistogram
    except ModuleNotFoundError as error:
        raise NoHistograms(
            "hdrhistogram is not installed, and latencies are kept in its histograms",
            hint="Install `lucid-recorder[load]`",
        ) from error
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


class Latencies:
    """From a record's intended time to something that happened to it; three digits exact."""

    def __init__(self) -> None:
        self._all, self._slice = _new(), _new()

    def add(self, seconds: float) -> None:
        """One latency; what a clock makes negative counts as none."""
        value = min(max(LOWEST_US, round(seconds * 1e6)), HIGHEST_US)
        self._all.record_value(value)
        self._slice.record_value(value)

    def slice(self) -> Summary | None:
        """What came since the last call; None if nothing did."""
        found = _summary(self._slice)
        self._slice.reset()
        return found

    def summary(self) -> Summary | None:
        """Of the whole run."""
        return _summary(self._all)


def _summary(histogram: HdrHistogram) -> Summary | None:
    if histogram.get_total_count() == 0:
        return None
    most = histogram.get_max_value() / 1e6
    # A bucket's upper end may lie beyond the greatest value that is in it.
    p50, p90, p99, p999 = (
        min(most, histogram.get_value_at_percentile(one) / 1e6) for one in PERCENTILES
    )
    return Summary(histogram.get_total_count(), p50, p90, p99, p999, most)
