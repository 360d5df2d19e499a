"""Kubernetes, alerts and the dashboard: as the code makes them, and right in themselves."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from agents.deployment import kubernetes, monitoring
from agents.deployment.services import SERVICES, service
from containers import hand_over, written
from containers.images import ROOT

FILES = written.files()
K8S = [
    document
    for name, text in FILES.items()
    if name.startswith("compose/k8s/") and "kustomization" not in name
    for document in yaml.safe_load_all(text)
]
WORKLOADS = [one for one in K8S if one["kind"] in ("Deployment", "StatefulSet")]


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_files_are_as_the_code_makes_them(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name], "run `make compose`"


def test_no_file_is_left_over() -> None:
    there = {path for path in (ROOT / "compose").rglob("*") if path.is_file()}
    assert there == {ROOT / name for name in FILES}


def test_the_kustomization_has_every_file() -> None:
    listed = yaml.safe_load(FILES["compose/k8s/kustomization.yaml"])["resources"]
    files = {Path(name).name for name in FILES if name.startswith("compose/k8s/")}
    assert set(listed) == files - {"kustomization.yaml"}


@pytest.mark.parametrize("one", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_a_pod_is_restricted_and_probed(one: dict) -> None:
    pod = one["spec"]["template"]["spec"]
    table = service(one["metadata"]["name"])
    context = pod["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 65532)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert set(container["resources"]) == {"requests", "limits"}
    main = pod["containers"][0]
    assert main["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert main["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert main["ports"] == [{"name": "http", "containerPort": table.port}]
    labels = one["spec"]["template"]["metadata"]["labels"]
    assert ("lucid.dev/reaches-mongodb" in labels) == table.catalog
    assert ("lucid.dev/reaches-redis" in labels) == table.redis
    named = {volume["name"] for volume in pod["volumes"]}
    claimed = {each["metadata"]["name"] for each in one["spec"].get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in main["volumeMounts"]} <= named | claimed


def test_each_workload_has_a_service_and_a_budget() -> None:
    names = {one["metadata"]["name"] for one in WORKLOADS}
    for kind in ("Service", "PodDisruptionBudget"):
        assert names <= {one["metadata"]["name"] for one in K8S if one["kind"] == kind}


def test_nothing_may_talk_unless_a_policy_says_so() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in K8S
                if one["kind"] == "NetworkPolicy"}  # fmt: skip
    assert policies["lucid-nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["lucid-clients"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8087}]
    assert policies["lucid-mongodb"]["egress"][0]["ports"][0]["port"] == 27017


def test_what_scales_never_outnumbers_the_partitions() -> None:
    scaled = [one for one in K8S if one["kind"] == "ScaledObject"]
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} == {
        "lucid-session-processor", "lucid-session-storage",
    }  # fmt: skip
    for one in scaled:
        assert one["spec"]["maxReplicaCount"] == 8
        topic = one["spec"]["triggers"][0]["metadata"]["topic"]
        assert topic in (ROOT / "topics.yaml").read_text()


def test_all_services_can_be_written() -> None:
    """Those, too, whose room is not there yet."""
    found = kubernetes.files(SERVICES, "1.0.0", 8)
    assert all(f"{one.container}.yaml" in found for one in SERVICES)


def _made() -> set[str]:
    """Every metric that the code makes, as Prometheus sees its name."""
    code = "".join(path.read_text() for path in (ROOT / "agents").rglob("*.py"))
    names = {f"lucid_{name}_total" for name in re.findall(r"_counter\(\s*\"(\w+)\"", code)}
    names |= {f"lucid_{name}" for name in re.findall(r"_gauge\(\s*\"(\w+)\"", code)}
    for kind, name in re.findall(r"(Counter|Gauge|Histogram)\(\s*\"(lucid_\w+)\"", code):
        ends = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
        names |= {name + end for end in ends[kind]}
    return names | {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def test_every_metric_that_is_named_exists() -> None:
    assert monitoring.named() - _made() == set()
    assert {"lucid_lag_records", "lucid_check_ok"} <= monitoring.named()


def test_alerts_say_what_to_do() -> None:
    groups = yaml.safe_load(FILES["compose/monitoring/rules.yml"])["groups"]
    rules = groups[0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) == len(monitoring.ALERTS)
    for rule in rules:
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in ("warning", "critical")
    page = (ROOT / "docs/operations.md").read_text()
    assert all(f"`{rule['alert']}`" in page for rule in rules)


def test_the_dashboard_has_a_place_for_every_panel() -> None:
    panels = json.loads(FILES["compose/monitoring/dashboard.json"])["panels"]
    assert len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}) == len(panels)
    assert all(one["gridPos"]["x"] + one["gridPos"]["w"] <= 24 for one in panels)


def test_secrets_are_handed_over_with_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "given"
    source.mkdir()
    (source / "lucid.toml").write_text("a")
    (source / "keys__tokens__x.pub.jwk").write_text("b")
    (source / "..data").mkdir()
    assert hand_over.main(str(source), str(tmp_path / "out")) == 0
    path = tmp_path / "out/keys/tokens/x.pub.jwk"
    assert path.read_text() == "b"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"lucid.toml", "keys"}
    assert hand_over.main(str(tmp_path / "gone"), str(tmp_path / "out")) == 73
    assert "cannot copy the secrets" in capsys.readouterr().err


def test_checking_differs_from_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module("containers.__main__")
    monkeypatch.setattr(command.images, "ROOT", tmp_path)
    monkeypatch.setattr(command.written, "files", lambda: {"compose/a.yml": "x\n"})
    monkeypatch.setattr(sys, "argv", ["containers", "compose", "--check"])
    assert command.main() == 1
    monkeypatch.setattr(sys, "argv", ["containers", "compose"])
    assert command.main() == 0
    assert (tmp_path / "compose/a.yml").read_text() == "x\n"
    monkeypatch.setattr(sys, "argv", ["containers", "compose", "--check"])
    assert command.main() == 0
    assert "Differ: none" in capsys.readouterr().out
