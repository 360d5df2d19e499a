"""The API's own metrics."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from agents.session.api.context import Api


class ApiMetrics:
    """Requests by route and status, streams, and sessions that can be listed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "lucid_api_requests", "Requests answered", ["route", "method", "status"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "lucid_api_request_seconds", "From a request to the end of its answer", ["route"],
            registry=registry,
        )  # fmt: skip
        self.refused = Counter(
            "lucid_api_requests_refused", "Requests refused, by Lucid's code", ["code"],
            registry=registry,
        )  # fmt: skip
        self.audit_waiting = Gauge(
            "lucid_audit_entries_waiting", "Audit entries that are only in memory",
            registry=registry,
        )  # fmt: skip
        self.streams = Gauge("lucid_api_streams", "Live streams now", registry=registry)
        self.indexed = Gauge(
            "lucid_api_sessions_indexed", "Sessions that can be listed", registry=registry
        )

        # Looking up labels takes longer than counting.
        self._request = lru_cache(2000)(self.requests.labels)
        self._duration = lru_cache(200)(self.seconds.labels)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._request(route, method, status).inc()
        self._duration(route).observe(seconds)

    def look_at(self, api: Api) -> None:
        """Set what is measured only when somebody asks."""
        self.indexed.set(len(api.index))
        self.audit_waiting.set(api.audit.waiting)
