"""Makes a sample of each event type of the RDP monitor that has none yet.

`python -m tests.vectors.make_rdp_metrics`. What samples are is in samples.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from schemas.envelope import Event
from schemas.rdp_metrics import (
    AlertEvent,
    AlertRaised,
    MeasuredLimits,
    MetricsEvent,
    ServerMetrics,
    SessionUsage,
    Usage,
    resolved,
)
from tests.vectors.samples import write_new

FOLDER = Path(__file__).parent / "rdp_metrics"
SERVER = "01a20c5b-f2fa-7557-ac1e-5c3397094c1e"
SESSION = "01a20c5b-f2fa-7557-ac1e-5c3397094c1f"
WHEN = datetime(2026, 11, 25, 23, 30, 0, 123456, tzinfo=UTC)
USAGE = Usage(
    cpu=1.6125, memory=402_653_184, disk=73_400_320, processes=14, threads=31, connections=1,
    received=81_234, sent=4_800_000, packets_received=911, packets_sent=3600,
)  # fmt: skip
METRICS = ServerMetrics(
    server=SERVER, host="desk7", seconds=30.004,
    limits=MeasuredLimits(cpu=2.0, memory=2_147_483_648, disk=10_737_418_240),
    usage=USAGE.model_copy(update={"processes": 17}),
    sessions=[SessionUsage(session=SESSION, usage=USAGE)], partial=False, vanished=1,
)  # fmt: skip
RAISED = AlertRaised(
    id="0f4f7f36-51a5-5c2e-8a51-2f1a6d8e2a11", server=SERVER, session=SESSION, host="desk7",
    metric="cpu", severity="warning", percent=80.62, over=80.0, since=1_795_000_000_000_000,
)  # fmt: skip


def samples() -> list[Event]:
    """An event of each type."""
    source, more = "lucid/rdp-monitor/desk7", {"time": WHEN}
    return [
        MetricsEvent(METRICS, source, SERVER, id="8b1f0c9e-0f57-4a52-8d50-0a9d5d1c9a13", **more),
        AlertEvent(RAISED, source, SERVER, id=f"{RAISED.id}-raised", **more),
        AlertEvent(
            resolved(RAISED, "below", 41.5), source, SERVER, id=f"{RAISED.id}-resolved", **more
        ),
    ]


def main() -> None:
    """Write what is not there."""
    write_new(FOLDER, samples())


if __name__ == "__main__":
    main()
