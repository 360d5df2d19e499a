"""The compose files, made from the table of services. Pure: plain mappings, and their YAML.

    sessions.yml, rdp.yml, node.yml   a group of services, with the servers they need
    phase3.yml                        all ten, with the servers
    NAME.secure.yml                   an override: TLS and SCRAM on Kafka, passwords on the others
    standins.yml                      an override: local images of Kafka, MongoDB and Redis

Networks: lucid-dev has the broker and the services; the catalog and Redis have one each, so
that a service that does not need them does not even know their names; all have no way out.
Only the API is on lucid-edge, too, and only its port is published, on 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from agents.deployment.services import (
    BLOBS,
    CACHE,
    CATALOG,
    DEV,
    EDGE,
    GROUPS,
    SECRETS,
    SERVICES,
    STATE,
    SUBNETS,
    USER,
    Service,
)

Document = dict[str, Any]

PROBE = ["CMD", "/usr/bin/python3.11", "-I", "-S"]
_DEPLOY = "${LUCID_DEPLOY:?run `lucid init` and give its .env as --env-file}"
_VERSION = "${LUCID_VERSION:?run `lucid init` and give its .env as --env-file}"
_LOGS = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
KAFKA, MONGODB, REDIS, SETUP, CLI = (
    "lucid-kafka", "lucid-mongodb", "lucid-redis", "lucid-setup", "lucid-cli",
)  # fmt: skip
SERVERS = (KAFKA, MONGODB, REDIS)


def files() -> dict[str, str]:
    """The text of every file, by name."""
    groups: dict[str, list[Service]] = {"phase3": list(SERVICES)}
    for group in GROUPS:
        groups[group] = [one for one in SERVICES if one.group == group]
    documents: dict[str, Document] = {}
    for name, services in groups.items():
        documents[f"{name}.yml"] = stack(services)
        documents[f"{name}.secure.yml"] = secure(services)
    documents["standins.yml"] = standins()
    return {name: HEAD + to_yaml(document) for name, document in documents.items()}


HEAD = "# Made by `make compose` from agents/deployment; change it there.\n"


class _Plain(yaml.SafeDumper):
    """YAML without anchors, lists indented as people write them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def to_yaml(document: Mapping[str, Any]) -> str:
    """A document as text, keys in their order."""
    text: str = yaml.dump(
        dict(document), Dumper=_Plain, sort_keys=False, width=100, default_flow_style=False
    )
    return text


# The services -----------------------------------------------------------------------------------


def stack(services: Iterable[Service]) -> Document:
    """Services with the servers that all of them need."""
    chosen = list(services)
    volumes = ["kafka", "mongodb", *(f"{one.name}-state" for one in chosen), "cli-state"]
    if any(one.blobs for one in chosen):
        volumes.append("blobs")
    return {
        "name": "lucid",
        "services": {
            KAFKA: _kafka(),
            MONGODB: _mongodb(),
            REDIS: _redis(),
            SETUP: _setup(),
            **{one.container: _service(one) for one in chosen},
            CLI: _cli(),
        },
        "networks": {name: _network(name) for name in SUBNETS},
        "volumes": {name: {"name": f"lucid-{name}"} for name in volumes},
    }


def _network(name: str) -> Document:
    """Each has its addresses, or Docker would choose some of another's."""
    addresses = {"config": [{"subnet": SUBNETS[name]}]}
    return {"name": name, "internal": name != EDGE, "ipam": addresses}


def _hardened(name: str, *, memory: int, cpus: float, pids: int = 256) -> Document:
    """What every container has."""
    return {
        "container_name": name,
        "hostname": name,
        "user": f"{USER}:{USER}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "logging": _LOGS,
        "deploy": {"resources": {"limits": {"cpus": f"{cpus}", "memory": f"{memory}m",
                                            "pids": pids}}},
    }  # fmt: skip


def _secrets(name: str) -> Document:
    """A folder of secrets, read-only; a missing one stops the start instead of being made."""
    return {
        "type": "bind", "source": f"{_DEPLOY}/services/{name}", "target": SECRETS,
        "read_only": True, "bind": {"create_host_path": False},
    }  # fmt: skip


def addresses(one: Service) -> dict[str, str]:
    """Where a service finds its servers; nothing of those that it does not need."""
    found = {"LUCID_KAFKA": f"{KAFKA}:9092"}
    if one.catalog:
        found["LUCID_MONGO"] = f"mongodb://{MONGODB}:27017/"
    if one.redis:
        found["LUCID_REDIS"] = f"redis://{REDIS}:6379/0"
    return found


def _service(one: Service) -> Document:
    volumes: list[Any] = [f"{one.name}-state:{STATE}", _secrets(one.name)]
    if one.blobs:
        volumes.append(f"blobs:{BLOBS}:{one.blobs}")
    waits = {KAFKA: "service_healthy", SETUP: "service_completed_successfully"}
    if one.catalog:
        waits[MONGODB] = "service_healthy"
    if one.redis:
        waits[REDIS] = "service_healthy"
    document = {
        "image": f"{one.image}:{_VERSION}",
        **_hardened(one.container, memory=one.memory, cpus=one.cpus),
        "restart": "unless-stopped",
        "stop_grace_period": "15s",
        "environment": {**addresses(one), "LUCID_HOST": one.container},
        "volumes": volumes,
        "networks": one.networks,
        "depends_on": {name: {"condition": condition} for name, condition in waits.items()},
        "healthcheck": {
            "test": [*PROBE, "/app/probe.py"], "interval": "30s", "timeout": "10s", "retries": 3,
            "start_period": "60s",
        },
    }  # fmt: skip
    if one.published:
        document["ports"] = [f"127.0.0.1:${{LUCID_API_PUBLISHED:-{one.port}}}:{one.port}"]
    return document


# The servers --------------------------------------------------------------------------------------


def _health(test: list[str], start: str = "60s") -> Document:
    return {"test": test, "interval": "3s", "timeout": "6s", "retries": 5, "start_period": start}


def _config(folder: str, target: str) -> Document:
    return {
        "type": "bind", "source": f"{_DEPLOY}/{folder}", "target": target, "read_only": True,
        "bind": {"create_host_path": False},
    }  # fmt: skip


def _kafka() -> Document:
    return {
        "image": "${LUCID_KAFKA_IMAGE:-apache/kafka:4.3.1}",
        **_hardened(KAFKA, memory=1024, cpus=2.0, pids=512),
        "restart": "unless-stopped",
        "volumes": [f"kafka:{_KAFKA_STORE}", _config("kafka/plain", _KAFKA_CONFIG)],
        "networks": [DEV],
        "healthcheck": _health(
            ["CMD", "/opt/kafka/bin/kafka-broker-api-versions.sh", "--bootstrap-server",
             "127.0.0.1:9094"],
        ),
    }  # fmt: skip


_KAFKA_STORE, _KAFKA_CONFIG = "/var/lib/kafka", "/mnt/shared/config"


def _mongodb() -> Document:
    return {
        "image": "${LUCID_MONGO_IMAGE:-mongo:7}",
        **_hardened(MONGODB, memory=1024, cpus=2.0, pids=512),
        "restart": "unless-stopped",
        "volumes": ["mongodb:/data/db"],
        "networks": [CATALOG],
        "healthcheck": _health(["CMD", "mongosh", "--quiet", "--eval", "db.hello().ok"]),
    }


def _redis() -> Document:
    return {
        "image": "${LUCID_REDIS_IMAGE:-redis:7}",
        **_hardened(REDIS, memory=384, cpus=1.0),
        "restart": "unless-stopped",
        "command": ["redis-server", "/run/redis/redis.conf"],
        "volumes": [_config("redis/plain", "/run/redis")],
        "networks": [CACHE],
        "healthcheck": _health(["CMD", "redis-cli", "-e", "ping"], "10s"),
    }


def _setup() -> Document:
    """Makes the broker what the contract says, and ends; everything else waits for it."""
    return {
        "image": f"lucid/cli:{_VERSION}",
        **_hardened(SETUP, memory=256, cpus=1.0),
        "restart": "on-failure:3",
        "healthcheck": {"disable": True},
        "command": ["setup"],
        "environment": {"LUCID_KAFKA": f"{KAFKA}:9092", "LUCID_HOST": SETUP},
        "networks": [DEV],
        "depends_on": {KAFKA: {"condition": "service_healthy"}},
    }


def _cli() -> Document:
    """The `lucid` command next to the services: `docker compose run --rm lucid-cli …`."""
    hardened = _hardened(CLI, memory=1024, cpus=2.0)
    del hardened["container_name"]
    return {
        "image": f"lucid/cli:{_VERSION}",
        **hardened,
        "profiles": ["tools"],
        "healthcheck": {"disable": True},
        "environment": {
            "LUCID_KAFKA": f"{KAFKA}:9092", "LUCID_MONGO": f"mongodb://{MONGODB}:27017/",
            "LUCID_REDIS": f"redis://{REDIS}:6379/0", "LUCID_HOST": CLI,
        },
        "volumes": [f"cli-state:{STATE}", _secrets("cli"), f"blobs:{BLOBS}:ro"],
        "networks": [DEV, CATALOG, CACHE],
    }  # fmt: skip


# Overrides ----------------------------------------------------------------------------------------


class Reset(list[Any]):
    """Written as `!override`: replaces what the file before had, instead of adding to it."""


_Plain.add_representer(
    Reset, lambda dumper, data: dumper.represent_sequence("!override", list(data))
)


class ResetNull:
    """Written as `!reset null`: takes away what the file before had."""


_Plain.add_representer(ResetNull, lambda dumper, _: dumper.represent_scalar("!reset", "null"))


class Script(str):
    """Written as a block of lines."""


_Plain.add_representer(
    Script, lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|")
)


class _ResetMap(dict[str, Any]):
    """The same for a mapping."""


_Plain.add_representer(
    _ResetMap, lambda dumper, data: dumper.represent_mapping("!override", dict(data))
)


def secure(chosen: Iterable[Service]) -> Document:
    """Each service logs in as itself; its addresses and passwords are in its own file."""
    config = f"{SECRETS}/lucid.toml"
    services: Document = {
        KAFKA: {"volumes": Reset([f"kafka:{_KAFKA_STORE}",
                                   _config("kafka/secure", _KAFKA_CONFIG)])},
        MONGODB: {
            "environment": {
                "MONGO_INITDB_ROOT_USERNAME": "lucid",
                "MONGO_INITDB_ROOT_PASSWORD_FILE": "/run/mongodb/password",
            },
            "volumes": [_config("mongodb", "/run/mongodb")],
        },
        REDIS: {"volumes": Reset([_config("redis/secure", "/run/redis")])},
        SETUP: {
            "command": ["setup", "--users", f"{SECRETS}/users"],
            "environment": _ResetMap({"LUCID_CONFIG": config, "LUCID_HOST": SETUP}),
            "volumes": [_secrets("setup")],
        },
        CLI: {"environment": _ResetMap({"LUCID_CONFIG": config, "LUCID_HOST": CLI})},
    }  # fmt: skip
    for one in chosen:
        services[one.container] = {
            "environment": _ResetMap({"LUCID_CONFIG": config, "LUCID_HOST": one.container})
        }
    return {"name": "lucid", "services": services}


def standins() -> Document:
    """Images that `make containers` builds, where the official ones are out of reach."""
    return {
        "name": "lucid",
        "services": {
            KAFKA: {
                "image": "lucid/kafka:local",
                "healthcheck": {"test": [*PROBE, "/opt/kafka/kafka_probe.py", "9094"]},
            },
            MONGODB: {
                "image": "lucid/mongodb:local",
                "volumes": ["mongodb:/var/lib/ferretdb"],
                "healthcheck": {"test": [*PROBE, "/opt/ferretdb/mongodb_probe.py"]},
            },
            REDIS: {
                "image": "lucid/redis:local",
                "command": ["/run/redis/redis.conf"],
                "healthcheck": {"test": [*PROBE, "/opt/redis/redis_probe.py"]},
            },
        },
    }
