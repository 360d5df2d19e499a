"""What the benches read out of a service's metrics."""

from __future__ import annotations

from agents.platform.metrics import Metrics
from bench.services import by_partition, values


def test_a_metric_is_read_with_its_labels_and_no_other() -> None:
    metrics = Metrics("processor", version="1")
    metrics.read("lucid.session.frames", 0, 7)
    metrics.read("lucid.session.frames", 11, 1_234_567_890)
    metrics.committed("lucid.session.frames", 0, 5)
    metrics.sent("a", 3)
    metrics.sent("b", 4)
    text = metrics.exposition().decode()
    assert by_partition(text, "lucid_read_position") == {0: 7, 11: 1_234_567_890}
    assert by_partition(text, "lucid_commit_position") == {0: 5}
    assert sum(values(text, "lucid_produced_bytes_total").values()) == 7
    assert values(text, "lucid_produced_bytes") == {}


def test_a_metric_without_labels() -> None:
    text = "# TYPE lucid_open gauge\nlucid_open 3.5\nlucid_open_chunks 9.0\n"
    assert values(text, "lucid_open") == {"": 3.5}
    assert by_partition("", "lucid_read_position") == {}
