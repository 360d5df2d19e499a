"""All checks of all containers, to the end, whatever fails on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

from agents.deployment.compose import KAFKA, MONGODB, REDIS
from agents.deployment.services import BLOBS, SECRETS, STATE, Service
from agents.deployment.validate import looking, session
from agents.deployment.validate.engine import (
    Compose,
    EngineProblem,
    Json,
    container,
    docker,
    labels,
)
from agents.deployment.validate.findings import COLUMNS, Finding, Report, failed, judged, skipped
from schemas.errors import LucidError

SHELLS = ("/bin/sh", "/bin/bash", "/busybox/sh", "sh")
SESSION = ("session", "verified", "read")
SETTLE_SECONDS = 90.0
PYTHON = "/usr/bin/python3.11"
_RUNNING_ONLY = ("shell", "health", "isolation", "secrets")
"""Checks that a container which does not run can neither pass nor fail."""
_SERVERS = {KAFKA: 9092, MONGODB: 27017, REDIS: 6379}


def validate(services: Sequence[Service], absent: Sequence[Service], version: str,
             contract: str) -> Report:  # fmt: skip
    """Check everything. contract: SHA-256 of the topics.yaml that the images should have."""
    settle([*(one.container for one in services), *_SERVERS])
    with ThreadPoolExecutor(6) as pool:
        of_services = pool.map(lambda one: list(_service(one, version, contract)), services)
        of_servers = pool.map(lambda name: list(_server(name)), _SERVERS)
        findings = [finding for group in (*of_services, *of_servers) for finding in group]
    findings += [
        Finding(one.container, "image", "absent", "this version has no room for it")
        for one in absent
    ]
    findings += _stack(services, [one.subject for one in findings
                                  if one.check == "running" and one.failed])  # fmt: skip
    return Report(tuple(findings))


def _guarded(subject: str, check: str, work: Callable[[], Finding]) -> Finding:
    """A check that breaks has failed, and stops no other."""
    try:
        return work()
    except (LucidError, KeyError, TypeError, ValueError, IndexError) as error:
        return failed(subject, check, str(error) or type(error).__name__)


def expected(one: Service) -> dict[str, bool]:
    """What a service may reach, by host and port."""
    return {
        f"{KAFKA}:9092": True, f"{MONGODB}:27017": one.catalog, f"{REDIS}:6379": one.redis,
        f"{KAFKA}:9093": False, "1.1.1.1:53": False,
    }  # fmt: skip


def _service(one: Service, version: str, contract: str) -> Iterator[Finding]:
    inspected = container(one.container)
    if inspected is None:
        yield from _absent(one.container, COLUMNS)
        return
    found, name = inspected, one.container
    down = looking.down(found)
    inside: Json | None = None
    problem = ""
    try:
        inside = None if down else look_inside(one)
    except (EngineProblem, ValueError) as error:
        problem = f"cannot look inside: {error}"

    def needs_inside(check: str, work: Callable[[Json], Finding]) -> Finding:
        if inside is None:
            return failed(name, check, problem)
        return work(inside)

    may = expected(one)
    if one.published:
        del may["1.1.1.1:53"]
    checks: dict[str, Callable[[], Finding]] = {
        "image": lambda: looking.image(one, labels(found["Image"]), version, contract),
        "running": lambda: looking.running(name, found, said(name) if down else ""),
        "port": lambda: looking.ports(name, found, exposed=one.port, published=one.published),
        "user": lambda: looking.user(name, found, inside),
        "shell": lambda: shell(name),
        "read-only": lambda: looking.read_only(name, found, inside),
        "capabilities": lambda: looking.capabilities(name, found, inside),
        "limits": lambda: looking.limits(name, found),
        "health": lambda: looking.health(name, found),
        "isolation": lambda: needs_inside(
            "isolation",
            lambda seen: looking.isolation(name, seen, may, networks(found), one.networks),
        ),
        "secrets": lambda: needs_inside("secrets", lambda seen: looking.secrets(one, found, seen)),
    }
    for check in COLUMNS:
        # A session on xrdp begins with a shell, so that image has one.
        if one.slim and check == "shell":
            continue
        if down and check in _RUNNING_ONLY:
            yield skipped(name, check, "it does not run")
        else:
            yield _guarded(name, check, checks[check])


def _absent(name: str, checks: Sequence[str]) -> Iterator[Finding]:
    """One failure, since it has one cause, whatever else cannot be looked at."""
    for check in checks:
        if check == "running":
            yield failed(name, check, "there is no such container: `docker compose up` says why")
        else:
            yield skipped(name, check, "there is no such container")


def said(name: str) -> str:
    """The last error that a container wrote."""
    done = docker(["logs", "--tail", "200", name], check=False)
    return looking.last_error(done.stdout + done.stderr)


def networks(inspected: Json) -> dict[str, bool]:
    """The networks that a container is on, and whether each is cut off from everything else."""
    names = list(inspected["NetworkSettings"]["Networks"])
    if not names:
        return {}
    shown = docker(["network", "inspect", *names]).stdout
    return {network["Name"]: bool(network["Internal"]) for network in json.loads(shown)}


def health_of(name: str) -> str:
    """healthy, unhealthy, starting; without a health check, or not running, the state itself."""
    return _health(container(name) or {"State": {"Status": "absent"}})


def _health(inspected: Json) -> str:
    state = inspected["State"]
    if state["Status"] != "running":
        return str(state["Status"])
    return str((state.get("Health") or {}).get("Status") or "running")


def settle(names: Sequence[str]) -> None:
    """Wait until no health check is at its first one any more, a bounded time."""
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end and any(_begins(name) for name in names):
        time.sleep(1.0)


def _begins(name: str) -> bool:
    """Whether a container may still get healthy, or not."""
    seen = container(name)
    if seen is None or seen.get("RestartCount", 0) >= looking.GIVEN_UP:
        return False
    return _health(seen) in ("starting", "restarting")


def wait_healthy(names: Sequence[str], seconds: float) -> dict[str, str]:
    """What is not healthy when everything is, or when the time is over.

    On a busy machine a service may give up waiting for the broker and be started anew.
    """
    end = time.monotonic() + seconds
    while True:
        found = {name: health_of(name) for name in names}
        late = {name: state for name, state in found.items() if state != "healthy"}
        if not late or time.monotonic() >= end:
            return late
        time.sleep(1.0)


def look_inside(one: Service) -> Json:
    """Feed inside.py to the container's Python; raises EngineProblem, ValueError."""
    asked = {
        "reach": [[place.rpartition(":")[0], int(place.rpartition(":")[2])]
                  for place in expected(one)],
        "state": [STATE, "/tmp", *([BLOBS] if one.blobs == "rw" else [])],
        "secrets": SECRETS,
    }  # fmt: skip
    script = resources.files(__package__).joinpath("inside.py").read_text()
    done = docker(
        ["exec", "-i", one.container, PYTHON, "-I", "-S", "-", json.dumps(asked)], feed=script
    )
    found: Json = json.loads(done.stdout)
    return found


def shell(name: str) -> Finding:
    """There is no shell: tries to run one. Another failure than `no such file` proves nothing."""
    problems = []
    for program in SHELLS:
        done = docker(["exec", name, program, "-c", "exit 0"], check=False)
        said = f"{done.stdout} {done.stderr}"
        if done.returncode == 0:
            problems.append(f"{program} runs")
        elif "no such file" not in said and "not found" not in said:
            problems.append(f"{program} could not be tried: {said.strip()}")
    return judged(name, "shell", problems)


def _server(name: str) -> Iterator[Finding]:
    inspected = container(name)
    checks = ("running", "port", "user", "read-only", "capabilities", "limits", "health")
    if inspected is None:
        yield from _absent(name, checks)
        return
    found = inspected
    down = looking.down(found)
    work: dict[str, Callable[[], Finding]] = {
        "running": lambda: looking.running(name, found, said(name) if down else ""),
        "port": lambda: looking.ports(name, found, exposed=_SERVERS[name], published=False),
        "user": lambda: looking.user(name, found, None),
        "read-only": lambda: looking.read_only(name, found, None),
        "capabilities": lambda: looking.capabilities(name, found, None),
        "limits": lambda: looking.limits(name, found),
        "health": lambda: looking.health(name, found),
    }
    for check in checks:
        if down and check in _RUNNING_ONLY:
            yield skipped(name, check, "it does not run")
        else:
            yield _guarded(name, check, work[check])


def _stack(services: Sequence[Service], down: Sequence[str]) -> Iterator[Finding]:
    """Checks of all containers together, with the command beside them.

    down: those that do not run. What goes through them is not tried, it would fail for the
    reason that is named already.
    """
    seen = container(KAFKA) or next(filter(None, (container(s.container) for s in services)), None)
    if seen is None:
        yield failed(session.STACK, "topics", "nothing runs")
        yield from (skipped(session.STACK, check, "nothing runs") for check in SESSION)
        return
    if KAFKA in down:
        yield from (skipped(session.STACK, check, f"{KAFKA} does not run")
                    for check in ("topics", *SESSION))  # fmt: skip
        return
    compose = Compose(seen)
    topics = _guarded(session.STACK, "topics", lambda: session.topics(compose))
    yield topics
    if topics.failed:
        # No service starts and nothing is recorded on a broker that differs.
        yield from (skipped(session.STACK, check, "the topics differ") for check in SESSION)
    elif any(one.name == "api" for one in services):
        ways = {KAFKA, MONGODB, *(one.container for one in services if one.group == "sessions")}
        if stopped := sorted(ways & set(down)):
            yield from (skipped(session.STACK, check, f"{stopped[0]} does not run")
                        for check in SESSION)  # fmt: skip
        else:
            yield from session.through(compose, published_port(services))


def published_port(services: Sequence[Service]) -> int:
    """Where the API's port is on this host."""
    one = next(one for one in services if one.published)
    inspected = container(one.container)
    bindings = (inspected or {}).get("HostConfig", {}).get("PortBindings") or {}
    places = bindings.get(f"{one.port}/tcp") or [{}]
    return int(places[0].get("HostPort") or one.port)
