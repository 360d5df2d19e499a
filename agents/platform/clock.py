"""What time it is for people and for records; what has to go on evenly asks `time.monotonic`."""

from __future__ import annotations

import time


def wall_clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
