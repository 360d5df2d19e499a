"""What the monitor shows to Prometheus: the newest sample of each server, and its own work.

The only label with a name of the installation in it is `server`, of which a host has 50 at
most; what there is beyond MAX_SERVERS is added up under `other`. A server that is gone is no
longer shown. Sessions, of which there are new ones all day, are on `rdp.metrics` and in the
API, and here only as a number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from schemas.rdp_metrics import Alert, AlertRaised, Metric, ServerMetrics

MAX_SERVERS = 50
METRICS: tuple[Metric, ...] = ("cpu", "memory", "disk")
_SHOWN = {
    "lucid_rdp_cpu_processors": ("Processors used in the last interval", "cpu"),
    "lucid_rdp_memory_bytes": ("Memory, shared pages divided (PSS)", "memory"),
    "lucid_rdp_disk_bytes": ("Files of the server's folder and its users' homes", "disk"),
    "lucid_rdp_processes": ("Processes of the server's tree", "processes"),
    "lucid_rdp_connections": ("Established TCP connections of the tree", "connections"),
    "lucid_rdp_received_bytes": ("Bytes received by TCP in the last interval", "received"),
    "lucid_rdp_sent_bytes": ("Bytes sent by TCP in the last interval", "sent"),
}


class MonitorMetrics(Collector):
    """The monitor's metrics in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._samples: Sequence[ServerMetrics] = ()
        registry.register(self)
        self.open = Gauge(
            "lucid_rdp_alerts_open", "Alerts that are raised now", ["metric"], registry=registry
        )
        self.alerts = Counter(
            "lucid_rdp_alerts", "Alerts that were raised and resolved", ["metric", "change"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "lucid_rdp_round_seconds", "One round of measuring", registry=registry
        )
        self.cpu = Counter(
            "lucid_rdp_round_cpu_seconds", "Processor time of rounds", registry=registry
        )
        self.vanished = Counter(
            "lucid_rdp_vanished_processes", "Processes that ended while they were looked at",
            registry=registry,
        )  # fmt: skip
        self.unsent = Counter(
            "lucid_rdp_samples_unsent", "Samples that no broker took", registry=registry
        )
        self.unread = Counter(
            "lucid_rdp_records_passed_over", "Records that could not be read", ["topic"],
            registry=registry,
        )  # fmt: skip

    def show(self, samples: Sequence[ServerMetrics]) -> None:
        """These are the newest ones, of all servers."""
        self._samples = samples
        self.vanished.inc(sum(sample.vanished for sample in samples))

    def told(self, alerts: Iterable[Alert]) -> None:
        """Count what changed."""
        for alert in alerts:
            change = "raised" if isinstance(alert, AlertRaised) else "resolved"
            self.alerts.labels(alert.metric, change).inc()

    def standing(self, alerts: Iterable[AlertRaised]) -> None:
        """Show the alerts that are open."""
        found = [alert.metric for alert in alerts]
        for metric in METRICS:
            self.open.labels(metric).set(found.count(metric))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The newest samples, as Prometheus asks for them."""
        shown = sorted(self._samples, key=lambda sample: sample.server)
        for name, (text, field) in _SHOWN.items():
            family = GaugeMetricFamily(name, text, labels=["server"])
            _fill(family, ((one, getattr(one.usage, field)) for one in shown))
            yield family
        family = GaugeMetricFamily("lucid_rdp_sessions", "Sessions measured", labels=["server"])
        _fill(family, ((one, len(one.sessions)) for one in shown))
        yield family


def _fill(family: GaugeMetricFamily, values: Iterable[tuple[ServerMetrics, float | None]]) -> None:
    found: dict[str, float] = defaultdict(float)
    for place, (sample, value) in enumerate(values):
        if value is not None:
            found[sample.server if place < MAX_SERVERS else "other"] += value
    for server, value in found.items():
        family.add_metric([server], value)
