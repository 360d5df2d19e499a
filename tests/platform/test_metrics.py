"""Metrics of one service each."""

from __future__ import annotations

import re

from agents.platform.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    found = metrics.registry.get_sample_value(name, labels)
    return None if found is None else float(found)


def test_two_services_in_one_process_do_not_collide() -> None:
    first, second = Metrics("storage", version="1"), Metrics("storage", version="1")
    first.took("t", 5)
    labels = {"service": "storage", "topic": "t"}
    assert value(first, "lucid_records_consumed_total", **labels) == 1
    assert value(second, "lucid_records_consumed_total", **labels) is None


def test_each_metric_counts_what_it_says() -> None:
    metrics = Metrics("storage", version="1")
    metrics.took("t", 5)
    metrics.sent("u", 7)
    metrics.refused("t", "NotCanonical")
    metrics.retried("t", "CatalogUnreachable")
    metrics.held(99)
    with metrics.handling("t"):
        pass
    on_t = {"service": "storage", "topic": "t"}
    on_u = {"service": "storage", "topic": "u"}
    assert value(metrics, "lucid_consumed_bytes_total", **on_t) == 5
    assert value(metrics, "lucid_records_produced_total", **on_u) == 1
    assert value(metrics, "lucid_produced_bytes_total", **on_u) == 7
    dead = "lucid_records_dead_lettered_total"
    assert value(metrics, dead, **on_t, code="NotCanonical") == 1
    assert value(metrics, "lucid_record_retries_total", **on_t, code="CatalogUnreachable") == 1
    assert value(metrics, "lucid_held_bytes", service="storage") == 99
    assert value(metrics, "lucid_record_seconds_count", **on_t) == 1
    assert value(metrics, "lucid_build_info", service="storage", version="1") == 1


def test_a_revoked_partition_is_not_shown_any_more() -> None:
    metrics = Metrics("storage", version="1")
    labels = {"service": "storage", "topic": "t", "partition": "3"}
    metrics.committed("t", 3, 10, end=14)
    assert value(metrics, "lucid_commit_position", **labels) == 10
    assert value(metrics, "lucid_lag_records", **labels) == 4
    metrics.read("t", 3, 12)
    assert value(metrics, "lucid_read_position", **labels) == 12
    metrics.revoked("t", 3)
    metrics.revoked("t", 4)
    assert value(metrics, "lucid_commit_position", **labels) is None
    assert value(metrics, "lucid_read_position", **labels) is None


def test_names_have_the_prefix() -> None:
    text = Metrics("storage", version="1").exposition().decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    standard = {name for name in names if name.startswith(("python_", "process_"))}
    assert names - standard
    assert all(name.startswith("lucid_") for name in names - standard)
