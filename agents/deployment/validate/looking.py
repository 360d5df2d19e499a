"""What `docker inspect` and a look from inside say of a container. Pure.

inspected: the engine's document of a container. inside: what inside.py printed in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from agents.deployment.services import EDGE, SECRETS, USER, Service
from agents.deployment.validate.findings import Finding, judged

Json = Mapping[str, Any]
GIVEN_UP = 2
"""Restarts after which nobody need wait for a container that has not got healthy."""
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@|PASSWORD=.+|SECRET=.+|TOKEN=.+", re.IGNORECASE)


def image(one: Service, labels: Mapping[str, str], version: str, contract: str) -> Finding:
    """The image is that of this service, this version and this contract."""
    wanted = {
        "lucid.port": str(one.port), "lucid.room": one.room,
        "org.opencontainers.image.version": version,
    }  # fmt: skip
    problems = [
        f"label {name} is {labels.get(name, 'missing')}, not {value}"
        for name, value in wanted.items()
        if labels.get(name) != value
    ]
    if (built := labels.get("lucid.contract", "missing")) != contract:
        problems.append(
            f"it was built with another topics.yaml than this one (label lucid.contract is "
            f"{built[:12]}, not {contract[:12]}): `make containers`"
        )
    return judged(one.container, "image", problems)


def down(inspected: Json) -> bool:
    """Whether it does not run, or only ever begins to."""
    state = inspected["State"]
    health = (state.get("Health") or {}).get("Status")
    return state["Status"] != "running" or (
        health == "starting" and inspected.get("RestartCount", 0) > 0
    )


def running(name: str, inspected: Json, said: str = "") -> Finding:
    """It runs, under its name. said: its last error, which is told of one that does not."""
    state = inspected["State"]
    problems = []
    if down(inspected):
        again = inspected.get("RestartCount", 0)
        what = f"it is {state['Status']}, exit status {state.get('ExitCode')}"
        if again:
            what = f"it does not stay up, restarts so far: {again}"
        # The engine's own words are there when it could not even start it: a taken port.
        reason = state.get("Error") or said
        problems.append(f"{what}: {reason}" if reason else what)
    if inspected["Name"].lstrip("/") != name:
        problems.append(f"it is called {inspected['Name']}")
    return judged(name, "running", problems)


def last_error(printed: str) -> str:
    """The last error in the log of a service; without one, its last line."""
    lines = [line for line in printed.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
            return str(entry.get("error") or entry.get("event"))
    return lines[-1] if lines else ""


def ports(name: str, inspected: Json, *, exposed: int | None, published: bool) -> Finding:
    """It exposes its own port, and publishes none, or to this host only."""
    problems = []
    if exposed is not None and f"{exposed}/tcp" not in (inspected["Config"]["ExposedPorts"] or {}):
        problems.append(f"its image does not expose {exposed}")
    bindings = inspected["HostConfig"]["PortBindings"] or {}
    for port, places in bindings.items():
        if not published or port != f"{exposed}/tcp":
            problems.append(f"port {port} is published")
        problems += [
            f"port {port} is published on {place['HostIp'] or 'all addresses'}"
            for place in places
            if place["HostIp"] != "127.0.0.1"
        ]
    if published and not bindings:
        problems.append(f"port {exposed} is not published")
    return judged(name, "port", problems)


def user(name: str, inspected: Json, inside: Json | None) -> Finding:
    """It runs as the user that has nothing."""
    problems = []
    if inspected["Config"]["User"] != f"{USER}:{USER}":
        problems.append(f"its user is {inspected['Config']['User'] or 'root'}, not {USER}")
    if inside and inside["uid"] != USER:
        problems.append(f"inside it is user {inside['uid']}")
    return judged(name, "user", problems)


def read_only(name: str, inspected: Json, inside: Json | None) -> Finding:
    """Nothing but volumes and /tmp can be written to."""
    problems = []
    if not inspected["HostConfig"]["ReadonlyRootfs"]:
        problems.append("its root file system is not read-only")
    if inside:
        problems += [f"{place} can be written to" for place in inside["writable"]]
        problems += [f"{place} cannot be written to" for place in inside["unwritable"]]
    return judged(name, "read-only", problems)


def capabilities(name: str, inspected: Json, inside: Json | None) -> Finding:
    """No capability, no new privileges, no host namespaces."""
    host = inspected["HostConfig"]
    problems = []
    if host.get("Privileged"):
        problems.append("it is privileged")
    if "ALL" not in (host.get("CapDrop") or []):
        problems.append("not all capabilities are dropped")
    if host.get("CapAdd"):
        problems.append(f"it is given {', '.join(host['CapAdd'])}")
    if not any(str(o).startswith("no-new-privileges") for o in host.get("SecurityOpt") or []):
        problems.append("no-new-privileges is not set")
    if inside and int(inside["bounding"], 16):
        problems.append(f"its bounding set is {inside['bounding']}")
    if inside and inside["no_new_privileges"] != "1":
        problems.append("inside, no_new_privs is not set")
    shared = [kind for kind in ("PidMode", "NetworkMode", "IpcMode") if host.get(kind) == "host"]
    problems += [f"{kind} is the host's" for kind in shared]
    return judged(name, "capabilities", problems)


def limits(name: str, inspected: Json) -> Finding:
    """Memory, processes and processor time are limited."""
    host = inspected["HostConfig"]
    problems = [
        f"no limit of {what}"
        for what, value in (
            ("memory", host.get("Memory")), ("processes", host.get("PidsLimit")),
            ("cpus", host.get("NanoCpus") or host.get("CpuQuota")),
        )
        if not value or value < 0
    ]  # fmt: skip
    return judged(name, "limits", problems)


def health(name: str, inspected: Json) -> Finding:
    """Its health check passes; what the last one printed, if not."""
    found = inspected["State"].get("Health")
    if not found:
        return judged(name, "health", ["it has no health check"])
    problems = []
    if found["Status"] != "healthy" or inspected["State"]["Status"] != "running":
        last = found["Log"][-1]["Output"] if found.get("Log") else ""
        problems.append(f"{found['Status']}: {failing(last)}")
    return judged(name, "health", problems)


def failing(printed: str) -> str:
    """The failing checks in what the probe printed, else its first line."""
    checks = re.findall(r'"([\w-]+)": ?\{"ok": ?false[^}]*?"error": ?"([^"]*)"', printed)
    found = "; ".join(f"{check}: {error}" for check, error in checks)
    return found or (printed.strip().splitlines() or ["no answer yet"])[0]


def isolation(
    name: str, inside: Json, expected: Mapping[str, bool], networks: Mapping[str, bool],
    wanted: Collection[str],
) -> Finding:  # fmt: skip
    """It reaches what it needs, and nothing else.

    expected: host:port to whether it may. networks: those it is on, and whether each is cut off.
    """
    problems = []
    for place, may in expected.items():
        reached = inside["reached"].get(place, False)
        if reached != may:
            problems.append(f"{place} can{'' if reached else 'not'} be reached")
    problems += [f"it is on {one}" for one in sorted(set(networks) - set(wanted))]
    problems += [f"it is not on {one}" for one in sorted(set(wanted) - set(networks))]
    problems += [
        f"{one} has a way out" for one, internal in networks.items() if not internal and one != EDGE
    ]
    return judged(name, "isolation", problems)


def secrets(one: Service, inspected: Json, inside: Json) -> Finding:
    """No secret in the environment; its folder is read-only, and holds its own keys only."""
    problems = [
        f"a secret stands in its environment, {entry.split('=')[0]}"
        for entry in inspected["Config"]["Env"] or []
        if _PASSWORD.search(entry)
    ]
    mounts = {mount["Destination"]: mount for mount in inspected["Mounts"]}
    if SECRETS not in mounts:
        problems.append(f"nothing is mounted at {SECRETS}")
    elif mounts[SECRETS]["RW"]:
        problems.append(f"{SECRETS} can be written to")
    problems += [f"its key {key} is missing" for key in sorted(set(one.keys) - set(inside["keys"]))]
    over = sorted(set(inside["keys"]) - set(one.keys))
    problems += [f"it has the key {key}, which it does not need" for key in over]
    problems += [f"{path} has mode {mode}" for path, mode in inside["open_secrets"].items()]
    if any("docker.sock" in destination for destination in mounts):
        problems.append("it has the engine's socket")
    return judged(one.container, "secrets", problems)
