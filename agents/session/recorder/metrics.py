"""Metrics of the recorder, read from what is being recorded when they are asked for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from agents.session.recorder.roster import Roster


class RecorderMetrics:
    """Gauges over the recordings that run."""

    def __init__(self, registry: CollectorRegistry, roster: Roster) -> None:
        running = Gauge("lucid_recorder_recordings", "Sessions being recorded", registry=registry)
        running.set_function(lambda: len(roster.recordings))
        waiting = Gauge(
            "lucid_recorder_unacknowledged_bytes", "Payloads on their way to the broker",
            registry=registry,
        )  # fmt: skip
        waiting.set_function(lambda: sum(one.unacknowledged for one in roster.recordings))
        paused = Gauge("lucid_recorder_paused", "Recordings that are paused", registry=registry)
        paused.set_function(lambda: sum(one.state == "paused" for one in roster.recordings))
