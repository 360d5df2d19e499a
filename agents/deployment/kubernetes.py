"""The Kubernetes base, made from the table of services. Pure: a kustomization and its files.

Kafka, MongoDB and Redis are the cluster's own; the base reaches them as lucid-kafka,
lucid-mongodb and lucid-redis in its namespace, ExternalName services that an overlay points
elsewhere. Secrets are those that `lucid init` writes to DEPLOY/kubernetes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.deployment.compose import to_yaml
from agents.deployment.services import BLOBS, SECRETS, STATE, USER, Service

Document = dict[str, Any]
NAMESPACE = "lucid"
SCALED = {"processor": "session.frames", "storage": "session.chunks"}
"""Services of which there may be as many as their topic has partitions, and the topic."""
LAG = 100
"""Records behind for which one more is started."""
_PYTHON = "/usr/bin/python3.11"


def files(services: Sequence[Service], version: str, partitions: int) -> dict[str, str]:
    """The text of every file of the base, by name."""
    documents: dict[str, list[Document]] = {
        "namespace.yaml": [_namespace(), _account()],
        "network.yaml": network(services),
        "servers.yaml": [_server("lucid-kafka"), _server("lucid-mongodb"), _server("lucid-redis")],
        "blobs.yaml": [_blobs()],
        "scaling.yaml": [
            document
            for one in services
            if one.name in SCALED
            for document in (_login(one), _scaled(one, partitions))
        ],
    }
    for one in services:
        documents[f"{one.container}.yaml"] = [workload(one, version), _service(one), _budget(one)]
    documents["kustomization.yaml"] = [{
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "namespace": NAMESPACE,
        "labels": [{"pairs": {"app.kubernetes.io/part-of": "lucid"}, "includeSelectors": False}],
        "resources": sorted(documents),
    }]  # fmt: skip
    head = "# Made by `make compose` from agents/deployment; change it there.\n"
    return {
        name: head + "---\n".join(to_yaml(each) for each in found)
        for name, found in documents.items()
    }


def _meta(name: str, **more: Any) -> Document:
    return {"name": name, "labels": {"app.kubernetes.io/name": name}, **more}


def _namespace() -> Document:
    """PodSecurity `restricted`, enforced: what asks for more is not started."""
    prefix = "pod-security.kubernetes.io"
    labels = {f"{prefix}/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": labels}}  # fmt: skip


def _account() -> Document:
    """Nothing here talks to Kubernetes."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta("lucid"),
            "automountServiceAccountToken": False}  # fmt: skip


def _server(name: str) -> Document:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": _meta(name),
        "spec": {"type": "ExternalName", "externalName": f"{name}.data.svc.cluster.local"},
    }  # fmt: skip


def _blobs() -> Document:
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": _meta("lucid-blobs"),
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Gi"}}},
    }  # fmt: skip


# Workloads ----------------------------------------------------------------------------------------


def workload(one: Service, version: str) -> Document:
    """A StatefulSet for the recorder, whose spool has to come back to it; else a Deployment."""
    stateful = one.name == "recorder"
    spec: Document = {
        "replicas": 1,
        "selector": {"matchLabels": {"app.kubernetes.io/name": one.container}},
        "template": {
            "metadata": {
                "labels": {"app.kubernetes.io/name": one.container, **_reaches(one)},
                "annotations": {
                    "prometheus.io/scrape": "true", "prometheus.io/port": str(one.port),
                    "prometheus.io/path": "/metrics",
                },
            },
            "spec": _pod(one, version, stateful),
        },
    }  # fmt: skip
    if stateful:
        spec["serviceName"] = one.container
        spec["volumeClaimTemplates"] = [{
            "metadata": {"name": "state"},
            "spec": {"accessModes": ["ReadWriteOnce"],
                     "resources": {"requests": {"storage": "10Gi"}}},
        }]  # fmt: skip
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet" if stateful else "Deployment",
        "metadata": _meta(one.container), "spec": spec,
    }  # fmt: skip


def _reaches(one: Service) -> dict[str, str]:
    """Labels by which the network policies let a pod out."""
    wanted = {"kafka": True, "mongodb": one.catalog, "redis": one.redis}
    return {f"lucid.dev/reaches-{name}": "true" for name, needed in wanted.items() if needed}


def _pod(one: Service, version: str, stateful: bool) -> Document:
    image = f"{one.image}:{version}"
    mounts = [
        {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
        {"name": "state", "mountPath": STATE}, {"name": "tmp", "mountPath": "/tmp"},
    ]  # fmt: skip
    volumes: list[Document] = [
        {"name": "given", "secret": {"secretName": f"lucid-{one.name}", "defaultMode": 0o440}},
        {"name": "secrets", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
    ]
    if not stateful:
        volumes.append({"name": "state", "emptyDir": {"sizeLimit": "10Gi"}})
    if one.blobs:
        mounts.append({"name": "blobs", "mountPath": BLOBS, "readOnly": one.blobs == "ro"})
        volumes.append({"name": "blobs", "persistentVolumeClaim": {
            "claimName": "lucid-blobs", "readOnly": one.blobs == "ro",
        }})  # fmt: skip
    return {
        "serviceAccountName": "lucid",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 15,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [{
            "name": "secrets", "image": image,
            "command": [_PYTHON, "-I", "/app/hand_over.py", "/given", SECRETS],
            "securityContext": _sealed(), "resources": _resources(64, 0.1),
            "volumeMounts": [
                {"name": "given", "mountPath": "/given", "readOnly": True},
                {"name": "secrets", "mountPath": SECRETS},
            ],
        }],
        "containers": [{
            "name": one.name, "image": image,
            "env": [
                {"name": "LUCID_CONFIG", "value": f"{SECRETS}/lucid.toml"},
                {"name": "LUCID_HOST", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "ports": [{"name": "http", "containerPort": one.port}],
            "startupProbe": _probe("/health/live", period=2, failures=30),
            "livenessProbe": _probe("/health/live", period=30, failures=3),
            "readinessProbe": _probe("/health/ready", period=10, failures=3),
            "securityContext": _sealed(), "resources": _resources(one.memory, one.cpus),
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    }  # fmt: skip


def _sealed() -> Document:
    return {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def _resources(memory: int, cpus: float) -> Document:
    return {
        "requests": {"memory": f"{min(memory, 128)}Mi", "cpu": "50m"},
        "limits": {"memory": f"{memory}Mi", "cpu": f"{cpus:g}"},
    }  # fmt: skip


def _probe(path: str, *, period: int, failures: int) -> Document:
    return {
        "httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "timeoutSeconds": 10,
        "failureThreshold": failures,
    }  # fmt: skip


def _service(one: Service) -> Document:
    spec: Document = {
        "selector": {"app.kubernetes.io/name": one.container},
        "ports": [{"name": "http", "port": one.port, "targetPort": "http"}],
    }  # fmt: skip
    if one.name == "recorder":
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(one.container), "spec": spec}


def _budget(one: Service) -> Document:
    """A node is drained one pod after the other; a service with one pod does not block it."""
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": _meta(one.container),
        "spec": {"maxUnavailable": 1,
                 "selector": {"matchLabels": {"app.kubernetes.io/name": one.container}}},
    }  # fmt: skip


def _login(one: Service) -> Document:
    """KEDA asks the broker as the service itself."""
    files = {"username": "kafka.user", "password": "kafka.password", "ca": "ca.pem"}
    return {
        "apiVersion": "keda.sh/v1alpha1", "kind": "TriggerAuthentication",
        "metadata": _meta(one.container),
        "spec": {"secretTargetRef": [
            {"parameter": parameter, "name": f"lucid-{one.name}", "key": key}
            for parameter, key in files.items()
        ]},
    }  # fmt: skip


def _scaled(one: Service, partitions: int) -> Document:
    """As many as the lag asks for, and never more than there are partitions."""
    return {
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": _meta(one.container),
        "spec": {
            "scaleTargetRef": {"name": one.container},
            "minReplicaCount": 1, "maxReplicaCount": partitions, "cooldownPeriod": 300,
            "triggers": [{
                "type": "kafka",
                "authenticationRef": {"name": one.container},
                "metadata": {
                    "sasl": "scram_sha512", "tls": "enable",
                    "bootstrapServers": "lucid-kafka:9092", "consumerGroup": one.name,
                    "topic": SCALED[one.name], "lagThreshold": str(LAG),
                    "allowIdleConsumers": "false",
                },
            }],
        },
    }  # fmt: skip


# Network ------------------------------------------------------------------------------------------


def network(services: Sequence[Service]) -> list[Document]:
    """Nothing may talk to anything, then what has to."""
    found = [_policy("lucid-nothing", {}, {"policyTypes": ["Ingress", "Egress"]})]
    found.append(_policy("lucid-names", {}, {
        "policyTypes": ["Egress"],
        "egress": [{
            "to": [{"namespaceSelector": _name_of("kube-system")}],
            "ports": [{"protocol": p, "port": 53} for p in ("UDP", "TCP")],
        }],
    }))  # fmt: skip
    for name, port in (("kafka", 9092), ("mongodb", 27017), ("redis", 6379)):
        selector = {"matchLabels": {f"lucid.dev/reaches-{name}": "true"}}
        found.append(_policy(f"lucid-{name}", selector, {
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{"namespaceSelector": _name_of("data")}],
                "ports": [{"protocol": "TCP", "port": port}],
            }],
        }))  # fmt: skip
    ports = [{"protocol": "TCP", "port": one.port} for one in services]
    found.append(_policy("lucid-metrics", {}, {
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"namespaceSelector": _name_of("monitoring")}], "ports": ports}],
    }))  # fmt: skip
    for one in services:
        if one.published:
            selector = {"matchLabels": {"app.kubernetes.io/name": one.container}}
            found.append(_policy("lucid-clients", selector, {
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [{"namespaceSelector": {"matchLabels": {"lucid.dev/client": "true"}}}],
                    "ports": [{"protocol": "TCP", "port": one.port}],
                }],
            }))  # fmt: skip
    return found


def _name_of(namespace: str) -> Document:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _policy(name: str, selector: Document, rules: Document) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": _meta(name),
        "spec": {"podSelector": selector, **rules},
    }  # fmt: skip
