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
        spooled = Gauge("lucid_recorder_spool_bytes", "Bytes of spools on disk", registry=registry)
        spooled.set_function(lambda: sum(one.track.spool.size for one in roster.recordings))
        behind = Gauge(
            "lucid_recorder_spooled_records", "Records that the broker has not confirmed yet",
            registry=registry,
        )  # fmt: skip
        behind.set_function(lambda: sum(one.waiting for one in roster.recordings))
        cut_off = Gauge(
            "lucid_recorder_cut_off", "Recordings whose records the broker does not take now",
            registry=registry,
        )  # fmt: skip
        cut_off.set_function(lambda: sum(one.trouble is not None for one in roster.recordings))
        paused = Gauge("lucid_recorder_paused", "Recordings that are paused", registry=registry)
        paused.set_function(lambda: sum(one.state == "paused" for one in roster.recordings))
