"""A session through the running containers: recorded, sealed, stored, verified, read."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

from agents.deployment.services import service
from agents.deployment.validate.engine import Compose, EngineProblem
from agents.deployment.validate.findings import Finding, failed, ok, skipped

STACK = "stack"
FRAMES = 20
SECONDS = 60.0
OWNER = "validation"


def topics(compose: Compose) -> Finding:
    """The broker keeps the contract, as the image of the commands has it."""
    printed = compose.lucid("topics", "check", "--json", check=False)
    try:
        drift = json.loads(printed)["drift"]
    except (ValueError, KeyError):
        return failed(STACK, "topics", "the broker could not be compared with topics.yaml")
    if drift:
        shown = "; ".join(f"{d['topic']} {d['field']}: {d['found']}, not {d['wanted']}"
                          for d in drift[:3])  # fmt: skip
        return failed(STACK, "topics", f"{len(drift)} differences: {shown}")
    return ok(STACK, "topics", "the broker's are those of topics.yaml")


def through(compose: Compose, port: int) -> Iterator[Finding]:
    """Record a session, wait until it verifies, read it from the API."""
    try:
        recorded = json.loads(compose.lucid(
            "record", "--synthetic", str(FRAMES), "--owner", OWNER, "--project", OWNER, "--json",
        ))  # fmt: skip
    except (EngineProblem, ValueError) as error:
        yield failed(STACK, "session", f"none could be recorded: {error}")
        yield from (skipped(STACK, check, "no session") for check in ("verified", "read"))
        return
    session = str(recorded["session"])
    yield ok(STACK, "session", f"{FRAMES} frames were recorded as {session}")
    yield until("verified", "sealed, stored, and verified as complete",
                lambda: verified(compose, session))  # fmt: skip
    yield until("read", f"the API gives it out, on port {port} of this host",
                lambda: read(compose, port, session))  # fmt: skip


def until(check: str, good: str, attempt: Callable[[], str]) -> Finding:
    """Ask until nothing is wrong, or the time is over; `attempt` returns what is wrong."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            problem = attempt()
        except (EngineProblem, ValueError, KeyError) as error:
            problem = str(error)
        if not problem:
            return ok(STACK, check, good)
        if time.monotonic() >= end:
            return failed(STACK, check, problem)
        time.sleep(0.5)


def verified(compose: Compose, session: str) -> str:
    """What `lucid verify` finds wrong."""
    printed = compose.lucid("verify", session, "--json", check=False)
    try:
        found = json.loads(printed)
    except ValueError:
        return "it is not in the catalog"
    outcome = found.get("outcome", "missing")
    return "" if outcome == "ok" else f"it does not verify: {outcome}"


def read(compose: Compose, port: int, session: str) -> str:
    """What the API's answer lacks."""
    issued = json.loads(compose.lucid(
        "token", "issue", "--subject", OWNER, "--role", "session_viewer", "--owner", OWNER,
        "--project", OWNER, "--minutes", "2", "--json",
    ))  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/sessions/{session}",
        headers={"Authorization": f"Bearer {issued['token']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            document = json.load(answer)
    except (OSError, urllib.error.URLError) as error:
        return f"{service('api').container} does not give it out: {error}"
    found = document.get("data", document)
    return "" if session in json.dumps(found) else "the API's answer names another session"
