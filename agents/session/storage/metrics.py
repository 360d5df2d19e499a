"""What storage counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram


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
        self.put_seconds = Histogram(
            "lucid_storage_put_seconds", "Write, sync and link of one file", registry=registry
        )
