"""The compose files: as the code makes them, and as isolated as they should be."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import yaml

from agents.deployment import compose
from agents.deployment.services import SERVICES, SUBNETS, UnknownService, present, service
from agents.run import ROOMS

FOLDER = Path(__file__).parents[2] / "compose"
FILES = compose.files()
PORTS = {
    "lucid-session-pipeline": 8083, "lucid-session-recorder": 8084,
    "lucid-session-processor": 8085, "lucid-session-storage": 8086, "lucid-session-api": 8087,
    "lucid-rdp-server-manager": 8090, "lucid-xrdp": 8091, "lucid-rdp-controller": 8092,
    "lucid-rdp-monitor": 8093, "lucid-node-management": 8095,
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Takes compose's own tags."""


_Loader.add_multi_constructor("!", lambda loader, _, node: (
    loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode)
    else loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None
))  # fmt: skip


def load_text(text: str) -> dict:
    return yaml.load(text, Loader=_Loader)


def load(name: str) -> dict:
    return load_text(FILES[name])


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_files_are_as_the_code_makes_them(name: str) -> None:
    assert (FOLDER / name).read_text() == FILES[name], "run `make compose`"


def test_names_and_ports_are_those_of_the_plan() -> None:
    assert {one.container: one.port for one in SERVICES} == PORTS
    assert all(ROOMS.get(one.name, one.room) == one.room for one in SERVICES)
    assert [one.name for one in present(["api", "recorder"])] == ["recorder", "api"]
    assert service("lucid-xrdp") is service("xrdp")
    with pytest.raises(UnknownService, match="there is no service nginx"):
        service("nginx")


@pytest.mark.parametrize(
    ("name", "count"), [("sessions.yml", 5), ("rdp.yml", 4), ("node.yml", 1), ("phase3.yml", 10)]
)
def test_each_file_has_its_services_and_the_servers(name: str, count: int) -> None:
    services = load(name)["services"]
    own = set(services) & set(PORTS)
    assert len(own) == count
    assert set(services) - own == {*compose.SERVERS, compose.SETUP, compose.CLI}


@pytest.mark.parametrize("container", [*PORTS, *compose.SERVERS, compose.SETUP])
def test_every_container_is_hardened_and_limited(container: str) -> None:
    one = load("phase3.yml")["services"][container]
    assert one["container_name"] == container
    assert one["user"] == "65532:65532"
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert set(one["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(one)
    if container != compose.SETUP:
        assert one["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("container", list(PORTS))
def test_a_service_waits_for_what_it_needs_and_is_probed(container: str) -> None:
    one = load("phase3.yml")["services"][container]
    table = service(container)
    conditions = {name: entry["condition"] for name, entry in one["depends_on"].items()}
    assert conditions["lucid-setup"] == "service_completed_successfully"
    assert ("lucid-mongodb" in conditions) == table.catalog
    assert ("lucid-redis" in conditions) == table.redis
    check = one["healthcheck"]
    assert (check["interval"], check["timeout"], check["retries"]) == ("30s", "10s", 3)
    assert ("LUCID_MONGO" in one["environment"]) == table.catalog
    assert one.get("ports", []) == (
        ["127.0.0.1:${LUCID_API_PUBLISHED:-8087}:8087"] if table.name == "api" else []
    )


def test_networks_are_apart_and_have_no_way_out() -> None:
    networks = load("phase3.yml")["networks"]
    assert networks["lucid-dev"]["ipam"]["config"] == [{"subnet": "172.20.0.0/16"}]
    assert {name for name, one in networks.items() if not one["internal"]} == {"lucid-edge"}
    subnets = [ipaddress.ip_network(one) for one in SUBNETS.values()]
    assert not any(a.overlaps(b) for a in subnets for b in subnets if a is not b)
    services = load("phase3.yml")["services"]
    on_edge = {name for name, one in services.items() if "lucid-edge" in one["networks"]}
    assert on_edge == {"lucid-session-api"}


def test_no_file_has_a_password() -> None:
    for text in FILES.values():
        assert "://lucid:" not in text
        assert "PASSWORD=" not in text
        assert "PASSWORD: " not in text


@pytest.mark.parametrize("name", ["sessions", "rdp", "node", "phase3"])
def test_the_secure_override_is_for_the_same_services(name: str) -> None:
    plain, over = load(f"{name}.yml")["services"], load(f"{name}.secure.yml")["services"]
    assert set(over) == set(plain)
    for container in set(over) & set(PORTS):
        assert over[container]["environment"] == {
            "LUCID_CONFIG": "/run/lucid/lucid.toml", "LUCID_HOST": container,
        }  # fmt: skip
    assert over["lucid-setup"]["command"] == ["setup", "--users", "/run/lucid/users"]


def test_blobs_are_written_by_storage_only() -> None:
    mounts = {
        name: [v for v in one.get("volumes", []) if isinstance(v, str) and "blobs:" in v]
        for name, one in load("phase3.yml")["services"].items()
    }
    assert mounts["lucid-session-storage"] == ["blobs:/var/lib/lucid-blobs:rw"]
    writers = {name for name, found in mounts.items() if any(v.endswith(":rw") for v in found)}
    assert writers == {"lucid-session-storage"}
