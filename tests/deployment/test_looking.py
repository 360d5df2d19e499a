"""What validation says of a container, from what the engine and a look inside tell it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from agents.deployment.services import service
from agents.deployment.validate import looking, validating
from agents.deployment.validate.findings import Finding

STORAGE, API = service("storage"), service("api")
WHOLE: dict[str, Any] = {
    "Id": "1", "Name": "/lucid-session-storage", "Image": "sha256:1",
    "State": {"Status": "running", "ExitCode": 0,
              "Health": {"Status": "healthy", "Log": [{"Output": "{}"}]}},
    "Config": {"User": "65532:65532", "Env": ["LUCID_KAFKA=lucid-kafka:9092"],
               "ExposedPorts": {"8086/tcp": {}}, "Labels": {}},
    "HostConfig": {"ReadonlyRootfs": True, "PortBindings": {}, "CapDrop": ["ALL"],
                   "CapAdd": None, "SecurityOpt": ["no-new-privileges:true"], "Memory": 1,
                   "PidsLimit": 1, "NanoCpus": 1, "NetworkMode": "lucid-dev"},
    "Mounts": [{"Destination": "/run/lucid", "RW": False}],
    "NetworkSettings": {"Networks": {"lucid-dev": {}, "lucid-catalog": {}}},
}  # fmt: skip
INSIDE: dict[str, Any] = {
    "uid": 65532, "bounding": "0000000000000000", "no_new_privileges": "1", "writable": [],
    "unwritable": [], "keys": [], "open_secrets": {},
    "reached": {"lucid-kafka:9092": True, "lucid-mongodb:27017": True},
}  # fmt: skip
NETWORKS = {"lucid-dev": True, "lucid-catalog": True}
NAME = STORAGE.container


def all_of(inspected: dict[str, Any], inside: dict[str, Any]) -> dict[str, Finding]:
    """Every check that needs no engine."""
    found = [
        looking.running(NAME, inspected),
        looking.ports(NAME, inspected, exposed=8086, published=False),
        looking.user(NAME, inspected, inside), looking.read_only(NAME, inspected, inside),
        looking.capabilities(NAME, inspected, inside), looking.limits(NAME, inspected),
        looking.health(NAME, inspected), looking.secrets(STORAGE, inspected, inside),
        looking.isolation(NAME, inside, validating.expected(STORAGE), NETWORKS, STORAGE.networks),
    ]  # fmt: skip
    return {one.check: one for one in found}


def test_a_whole_container_passes() -> None:
    assert {one.verdict for one in all_of(WHOLE, INSIDE).values()} == {"ok"}


Change = Callable[[dict[str, Any], dict[str, Any]], None]
BREAKAGES: list[tuple[str, str, Change]] = [
    ("running", "it is called", lambda c, i: c.update(Name="/other")),
    ("port", "port 8086/tcp is published",
     lambda c, i: c["HostConfig"].update(PortBindings={"8086/tcp": [{"HostIp": ""}]})),
    ("port", "does not expose 8086", lambda c, i: c["Config"].update(ExposedPorts=None)),
    ("user", "its user is root", lambda c, i: c["Config"].update(User="")),
    ("user", "inside it is user 0", lambda c, i: i.update(uid=0)),
    ("read-only", "is not read-only", lambda c, i: c["HostConfig"].update(ReadonlyRootfs=False)),
    ("read-only", "/app can be written to", lambda c, i: i.update(writable=["/app"])),
    ("read-only", "/var/lib/lucid cannot", lambda c, i: i.update(unwritable=["/var/lib/lucid"])),
    ("capabilities", "given NET_RAW", lambda c, i: c["HostConfig"].update(CapAdd=["NET_RAW"])),
    ("capabilities", "not all capabilities", lambda c, i: c["HostConfig"].update(CapDrop=None)),
    ("capabilities", "privileged", lambda c, i: c["HostConfig"].update(Privileged=True)),
    ("capabilities", "no-new-privileges", lambda c, i: c["HostConfig"].update(SecurityOpt=None)),
    ("capabilities", "bounding set", lambda c, i: i.update(bounding="0000000000002000")),
    ("capabilities", "no_new_privs", lambda c, i: i.update(no_new_privileges="0")),
    ("capabilities", "PidMode is the host's", lambda c, i: c["HostConfig"].update(PidMode="host")),
    ("limits", "no limit of memory", lambda c, i: c["HostConfig"].update(Memory=0)),
    ("limits", "no limit of processes", lambda c, i: c["HostConfig"].update(PidsLimit=-1)),
    ("health", "no health check", lambda c, i: c["State"].pop("Health")),
    ("health", "unhealthy: catalog: no answer", lambda c, i: c["State"]["Health"].update(
        Status="unhealthy",
        Log=[{"Output": '{"checks": {"catalog": {"ok": false, "error": "no answer"}}}'}])),
    ("secrets", "a secret stands in its environment, LUCID_MONGO",
     lambda c, i: c["Config"]["Env"].append("LUCID_MONGO=mongodb://lucid:pw@m/")),
    ("secrets", "can be written to", lambda c, i: c["Mounts"][0].update(RW=True)),
    ("secrets", "nothing is mounted", lambda c, i: c.update(Mounts=[])),
    ("secrets", "processor.age, which it does not need", lambda c, i: i.update(
        keys=["processor.age"])),
    ("secrets", "has mode 0o644", lambda c, i: i.update(open_secrets={"/run/lucid/x": "0o644"})),
    ("secrets", "engine's socket", lambda c, i: c["Mounts"].append(
        {"Destination": "/var/run/docker.sock", "RW": True})),
    ("isolation", "lucid-redis:6379 can be reached",
     lambda c, i: i["reached"].update({"lucid-redis:6379": True})),
    ("isolation", "lucid-mongodb:27017 cannot", lambda c, i: i["reached"].update(
        {"lucid-mongodb:27017": False})),
]  # fmt: skip


@pytest.mark.parametrize(("check", "says", "change"), BREAKAGES, ids=[b[1] for b in BREAKAGES])
def test_one_breakage_fails_one_check(check: str, says: str, change: Change) -> None:
    inspected, inside = copy.deepcopy(WHOLE), copy.deepcopy(INSIDE)
    change(inspected, inside)
    found = all_of(inspected, inside)
    assert {name for name, one in found.items() if one.failed} == {check}
    assert says in found[check].detail


@pytest.mark.parametrize(
    ("state", "restarts", "says"),
    [
        ({"Status": "exited", "ExitCode": 78}, 0, "it is exited, exit status 78: no broker"),
        ({"Status": "created", "ExitCode": 128, "Error": "address already in use"}, 0,
         "it is created, exit status 128: address already in use"),
        ({"Health": {"Status": "starting"}}, 3, "does not stay up, restarts so far: 3: no broker"),
        ({"Status": "restarting"}, 1, "does not stay up, restarts so far: 1: no broker"),
    ],
)  # fmt: skip
def test_a_container_that_does_not_stay_up_says_why(
    state: dict[str, Any], restarts: int, says: str
) -> None:
    inspected = copy.deepcopy(WHOLE)
    inspected["State"].update(state)
    inspected["RestartCount"] = restarts
    assert looking.down(inspected)
    assert says in looking.running(NAME, inspected, "no broker").detail


def test_a_container_that_was_started_anew_and_runs_is_up() -> None:
    inspected = copy.deepcopy(WHOLE)
    inspected["RestartCount"] = 2
    for health in ("healthy", "unhealthy"):
        inspected["State"]["Health"]["Status"] = health
        assert not looking.down(inspected)


def test_the_last_error_of_a_log_is_found() -> None:
    line = '{"level": "error", "event": "service failed", "error": "no broker"}'
    assert looking.last_error(f'{line}\n{{"level": "info", "event": "stopped"}}\n') == "no broker"
    assert looking.last_error('{"level": "critical", "event": "hard exit"}') == "hard exit"
    assert looking.last_error("error: there is no key file\nTraceback") == "there is no key file"
    assert looking.last_error("[1]\nwhat else\n\n") == "what else"
    assert looking.last_error("") == ""


def test_networks_are_the_wanted_ones() -> None:
    def look(networks: dict[str, bool]) -> str:
        expected = validating.expected(STORAGE)
        return looking.isolation(NAME, INSIDE, expected, networks, STORAGE.networks).detail

    assert look(NETWORKS) == ""
    assert look({**NETWORKS, "bridge": False}) == "it is on bridge; bridge has a way out"
    assert look({"lucid-dev": True}) == "it is not on lucid-catalog"
    assert look({"lucid-dev": False, "lucid-catalog": True}) == "lucid-dev has a way out"


def test_the_published_port_is_on_this_host_only() -> None:
    inspected = copy.deepcopy(WHOLE)
    inspected["Config"]["ExposedPorts"] = {"8087/tcp": {}}

    def look(bindings: dict[str, Any]) -> str:
        inspected["HostConfig"]["PortBindings"] = bindings
        return looking.ports(API.container, inspected, exposed=8087, published=True).detail

    assert look({"8087/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8087"}]}) == ""
    assert "on all addresses" in look({"8087/tcp": [{"HostIp": "", "HostPort": "8087"}]})
    assert "8087 is not published" in look({})


def test_an_image_of_another_version_or_contract_is_named() -> None:
    labels = {"lucid.port": "8086", "lucid.room": STORAGE.room, "lucid.contract": "aa",
              "org.opencontainers.image.version": "1"}  # fmt: skip
    assert not looking.image(STORAGE, labels, "1", "aa").failed
    assert "is aa, not bb): `make cont" in looking.image(STORAGE, labels, "1", "bb").detail
    assert "version is 1, not 2" in looking.image(STORAGE, labels, "2", "aa").detail
    assert "lucid.port is missing" in looking.image(STORAGE, {}, "1", "aa").detail


def test_what_the_probe_printed_is_made_short() -> None:
    assert looking.failing("") == "no answer yet"
    assert looking.failing("no answer on port 1: x\nmore") == "no answer on port 1: x"
