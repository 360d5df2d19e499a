"""How commands write times."""

from __future__ import annotations

import pytest

from agents.platform.output import clock, clock_utc

NOON = 1_767_268_799_999_600  # 2026-01-01 11:59:59.9996


@pytest.mark.parametrize(
    ("time", "parts", "text"),
    [
        (NOON, "minutes", "2026-01-01 11:59"),
        (NOON, "seconds", "2026-01-01 11:59:59"),
        (NOON, "milliseconds", "2026-01-01 11:59:59.999"),
        (1_767_268_800_000_000, "milliseconds", "2026-01-01 12:00:00.000"),
        (None, "seconds", ""),
        (0, "seconds", ""),
    ],
)
def test_a_time_is_written_in_utc_and_cut(time: int | None, parts: str, text: str) -> None:
    assert clock(time, parts) == text


def test_a_time_that_stands_alone_says_that_it_is_utc() -> None:
    assert clock_utc(NOON) == "2026-01-01 11:59:59 UTC"
