"""What storage counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class StorageMetrics:
    """Prometheus metrics of one storage service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.chunks = Counter("lucid_chunks_stored", "Chunks stored", registry=registry)
        self.bytes = Counter("lucid_storage_used_bytes", "Bytes of stored chunks",
                             registry=registry)  # fmt: skip
        self.manifests = Counter("lucid_manifests_stored", "Manifests stored", registry=registry)
        self.duplicates = Counter(
            "lucid_stored_duplicates", "Chunks and manifests that were there already",
            registry=registry,
        )  # fmt: skip
        self.conflicts = Counter(
            "lucid_stored_conflicts", "Chunks, manifests and keys that differ from the first",
            registry=registry,
        )  # fmt: skip
        self.erased = Counter(
            "lucid_stored_erased", "Chunks and manifests of erased sessions, which are not taken",
            registry=registry,
        )  # fmt: skip
        self.put_seconds = Histogram(
            "lucid_storage_put_seconds",
            "Write, sync and link of a record's files",
            registry=registry,
        )


class ScrubMetrics:
    """What a scrub counts and shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.findings = Counter(
            "lucid_scrub_findings", "Files found to be wrong, each once", ["verdict"],
            registry=registry,
        )  # fmt: skip
        self.open = Gauge("lucid_scrub_open_findings", "Files that are wrong", registry=registry)
        self.bytes = Counter("lucid_scrub_read_bytes", "Bytes read to check", registry=registry)
        self.files = Counter("lucid_scrub_files", "Files looked at", registry=registry)
        self.round_seconds = Gauge(
            "lucid_scrub_last_round_seconds", "How long the last round took", registry=registry
        )
        self.round_end = Gauge(
            "lucid_scrub_last_round_end_seconds", "When the last round ended (Unix time)",
            registry=registry,
        )  # fmt: skip
