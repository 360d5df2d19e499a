"""What a processor counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agents.session.processor.holding import HoldingBudget
from schemas.chunks import Chunk
from schemas.frames import FrameRecord, Kind


class ProcessorMetrics:
    """Prometheus metrics of one processor."""

    def __init__(self, registry: CollectorRegistry, holding: HoldingBudget) -> None:
        held = Gauge("lucid_open_chunks_bytes", "Memory that open chunks take", registry=registry)
        held.set_function(holding.memory)
        spilled = Gauge(
            "lucid_spilled_bytes", "Bytes spilled to disk since the start", registry=registry
        )
        spilled.set_function(lambda: holding.spilled)
        self.open_sessions = Gauge(
            "lucid_sessions_active", "Sessions that are being cut", registry=registry
        )
        self.records = Counter(
            "lucid_frame_records", "Frame records taken", ["kind"], registry=registry
        )
        self.duplicates = Counter(
            "lucid_frame_records_duplicate", "Frame records dropped by sequence number",
            registry=registry,
        )  # fmt: skip
        self.missing = Counter(
            "lucid_frame_records_missing", "Sequence numbers that never arrived", registry=registry
        )
        self.chunks = Counter("lucid_chunks_processed", "Chunks published", registry=registry)
        self.raw_bytes = Counter(
            "lucid_chunk_raw_bytes", "Plaintext bytes of published chunks", registry=registry
        )
        self.sealed_bytes = Counter(
            "lucid_chunk_sealed_bytes", "Bytes of published chunks", registry=registry
        )
        self.seal_seconds = Histogram(
            "lucid_chunk_seal_seconds", "From cut to sealed, waiting included", registry=registry
        )
        self._kinds: dict[Kind, Counter] = {}

    def took(self, record: FrameRecord, duplicates: int) -> None:
        """Count one routed record, or its being a duplicate."""
        if duplicates:
            self.duplicates.inc(duplicates)
            return
        counter = self._kinds.get(record.kind)
        if counter is None:
            counter = self._kinds[record.kind] = self.records.labels(record.kind.label)
        counter.inc()

    def sealed(self, chunk: Chunk) -> None:
        """Count one published chunk."""
        self.chunks.inc()
        self.missing.inc(chunk.header.missing)
        self.raw_bytes.inc(chunk.header.raw_size)
        self.sealed_bytes.inc(len(chunk.data))
