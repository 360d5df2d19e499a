"""Prometheus alert rules and a Grafana dashboard. Pure; a test knows every metric they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agents.deployment.compose import to_yaml
from agents.deployment.services import Service

Document = dict[str, Any]
JOB = 'job="lucid"'


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule. wait: how long it has to be so; action: what to do about it."""

    name: str
    expression: str
    wait: str
    severity: str
    summary: str
    action: str


ALERTS = (
    Alert("LucidDown", f"up{{{JOB}}} == 0", "2m", "critical",
          "{{ $labels.instance }} does not answer", "Look at its log, then at its container"),
    Alert("LucidUnhealthy", 'lucid_check_ok{check!="disk"} == 0', "2m", "critical",
          "{{ $labels.service }}: check {{ $labels.check }} fails",
          "GET /health/ready of it says why, and what to do"),
    Alert("LucidDiskFull", 'lucid_check_ok{check="disk"} == 0', "1m", "critical",
          "{{ $labels.service }} has less free disk than LUCID_MIN_FREE",
          "Free some, or run `lucid retention apply`; nothing is taken meanwhile, and none lost"),
    Alert("LucidLag", "max by (service, topic) (lucid_lag_records) > 1000", "10m", "warning",
          "{{ $labels.service }} is {{ $value }} records behind on {{ $labels.topic }}",
          "Start more of it, up to the partitions; see whether its own servers are slow"),
    Alert("LucidRetentionNear",
          "lucid_commit_position - lucid_log_start_offset < 100 and lucid_lag_records > 1000",
          "1m", "critical",
          "{{ $labels.service }} is about to lose records of {{ $labels.topic }} to retention",
          "Lengthen the topic's retention, and start more of the service at once"),
    Alert("LucidRetentionOvertook", "max by (service, topic) (lucid_overtaken_offsets) > 0", "0m",
          "critical",
          "Retention took {{ $value }} records of {{ $labels.topic }} from {{ $labels.service }}",
          "docs/reliability.md says what is lost, and where that is recorded"),
    Alert("LucidFramesMissing", "increase(lucid_frame_records_missing_total[15m]) > 0", "0m",
          "critical", "{{ $value }} frame records never arrived",
          "`lucid sessions show` names the gaps; look at the recorder of that host"),
    Alert("LucidDeadLetters",
          "sum by (service, topic, code) (increase(lucid_records_dead_lettered_total[15m])) > 0",
          "0m", "warning", "{{ $labels.service }} refused records: {{ $labels.code }}",
          "`lucid dead-letters list` shows them, `replay` gives them back"),
    Alert("LucidDeadLetterLimit",
          "max by (service, topic, partition) (lucid_dead_letters_counted) "
          "> on (service) group_left 0.8 * max by (service) (lucid_dead_letter_limit)",
          "0m", "critical", "{{ $labels.service }} is about to stop for too many dead letters",
          "Find out what writes them before LUCID_DEAD_LETTER_LIMIT is reached"),
    Alert("LucidConflict", "increase(lucid_stored_conflicts_total[15m]) > 0", "0m", "critical",
          "A chunk or manifest came that differs from the stored one",
          "Somebody altered records, or a bug did: keep everything, run `lucid verify`"),
    Alert("LucidScrubFinding", "max(lucid_scrub_open_findings) > 0", "0m", "critical",
          "{{ $value }} stored files are missing or wrong",
          "`lucid scrub` names them; `lucid replay` repairs what the broker still has"),
    Alert("LucidScrubLate", "time() - max(lucid_scrub_last_round_end_seconds) > 604800", "1h",
          "warning", "The scrub has not finished a round for a week",
          "Raise LUCID_STORAGE_SCRUB_RATE"),
    Alert("LucidRecorderCutOff", "max(lucid_recorder_cut_off) > 0", "5m", "warning",
          "{{ $value }} recordings wait on their host's disk for the broker",
          "Look at the broker; LUCID_RECORDER_SPOOL_LIMIT says how much may wait"),
)  # fmt: skip

PANELS = (
    ("Healthy checks", "min by (service) (lucid_check_ok)", "short"),
    ("Sessions being recorded", "sum(lucid_recorder_recordings)", "short"),
    ("Sessions being cut", "sum(lucid_sessions_active)", "short"),
    ("Records behind", "max by (service, topic) (lucid_lag_records)", "short"),
    ("Records taken", "sum by (service, topic) (rate(lucid_records_consumed_total[5m]))", "ops"),
    ("Bytes taken", "sum by (service) (rate(lucid_consumed_bytes_total[5m]))", "Bps"),
    ("Chunks published", "sum(rate(lucid_chunks_processed_total[5m]))", "ops"),
    ("Chunks stored", "sum(rate(lucid_chunks_stored_total[5m]))", "ops"),
    ("Sealing, 95 %",
     "histogram_quantile(0.95, sum by (le) (rate(lucid_chunk_seal_seconds_bucket[5m])))", "s"),
    ("Writing a file, 95 %",
     "histogram_quantile(0.95, sum by (le) (rate(lucid_storage_put_seconds_bucket[5m])))", "s"),
    ("Compression", "sum(rate(lucid_chunk_raw_bytes_total[5m])) "
     "/ sum(rate(lucid_chunk_sealed_bytes_total[5m]))", "short"),
    ("Memory of open chunks", "sum(lucid_open_chunks_bytes)", "bytes"),
    ("Spools on disk", "sum(lucid_recorder_spool_bytes)", "bytes"),
    ("Refused records", "sum by (service, code) (increase(lucid_records_dead_lettered_total[1h]))",
     "short"),
    ("Missing frame records", "sum(increase(lucid_frame_records_missing_total[1h]))", "short"),
    ("Overtaken by retention", "max by (service, topic) (lucid_overtaken_offsets)", "short"),
    ("Wrong files", "max(lucid_scrub_open_findings)", "short"),
    ("Requests", "sum by (route, status) (rate(lucid_api_requests_total[5m]))", "reqps"),
    ("Requests, 95 %",
     "histogram_quantile(0.95, sum by (le, route) (rate(lucid_api_request_seconds_bucket[5m])))",
     "s"),
    ("Live streams", "sum(lucid_api_streams)", "short"),
    ("Memory", "process_resident_memory_bytes", "bytes"),
    ("Processor", "rate(process_cpu_seconds_total[5m])", "short"),
)  # fmt: skip


def rules() -> str:
    """The rule file for Prometheus."""
    listed = [
        {
            "alert": one.name, "expr": one.expression, "for": one.wait,
            "labels": {"severity": one.severity},
            "annotations": {"summary": one.summary, "action": one.action},
        }
        for one in ALERTS
    ]  # fmt: skip
    head = "# Made by `make compose` from agents/deployment; change it there.\n"
    return head + to_yaml({"groups": [{"name": "lucid", "rules": listed}]})


def scraping(services: Iterable[Service]) -> str:
    """A configuration for a Prometheus on the network of the services."""
    head = "# Made by `make compose` from agents/deployment; change it there.\n"
    targets = [f"{one.container}:{one.port}" for one in services]
    return head + to_yaml({
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "lucid", "static_configs": [{"targets": targets}]}],
    })  # fmt: skip


def dashboard() -> str:
    """The dashboard for Grafana: import it, and choose a Prometheus."""
    panels = [_panel(number, *panel) for number, panel in enumerate(PANELS)]
    return json.dumps({
        "uid": "lucid", "title": "Lucid", "schemaVersion": 39, "editable": True,
        "time": {"from": "now-6h", "to": "now"}, "refresh": "30s", "tags": ["lucid"],
        "templating": {"list": [{
            "name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus",
        }]},
        "panels": panels,
    }, indent=1) + "\n"  # fmt: skip


def _panel(number: int, title: str, expression: str, unit: str) -> Document:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1, "type": "timeseries", "title": title, "datasource": source,
        "gridPos": {"h": 7, "w": 8, "x": 8 * (number % 3), "y": 7 * (number // 3)},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "expr": expression, "datasource": source}],
    }  # fmt: skip


def named() -> set[str]:
    """Every metric that the rules and the dashboard name."""
    text = " ".join([*(one.expression for one in ALERTS), *(panel[1] for panel in PANELS)])
    return set(re.findall(r"\b(?:lucid|process)_\w+", text))
