"""`lucid init`, `lucid setup` and `lucid validate containers`, as they are called."""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.deployment.validate import commands as validating
from agents.deployment.validate.findings import Report, failed, ok, skipped
from agents.platform.retry import BrokerUnreachable
from tests.conftest import Stack

RUN = CliRunner()


def test_init_says_what_it_made_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_HOME", str(tmp_path))
    options = ["init", "--user", str(os.getuid()), "--image-version", "9.9"]
    done = RUN.invoke(app, [*options, "--json"], catch_exceptions=False)
    made = json.loads(done.stdout)
    assert made["folder"] == str(tmp_path / "deploy")
    assert "passwords/storage" in made["made"]
    assert (tmp_path / "deploy/.env").read_text() == (
        f"LUCID_DEPLOY={tmp_path}/deploy\nLUCID_VERSION=9.9\n"
    )
    again = RUN.invoke(app, options, catch_exceptions=False)
    start = f"docker compose --env-file {tmp_path}/deploy/.env -f compose/phase3.yml"
    assert again.stdout == f"Nothing to make: all is there\n{start} up -d\n"
    secure = RUN.invoke(app, [*options, "--secure"], catch_exceptions=False)
    assert secure.stdout.endswith(f"\n{start} -f compose/phase3.secure.yml up -d\n")


def test_setup_makes_the_topics_of_a_broker(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_HOME", str(stack.home))
    monkeypatch.setenv("LUCID_TOPIC_PREFIX", f"setup-{uuid4().hex[:8]}.")
    done = RUN.invoke(app, ["setup", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["topics"] > 5
    again = RUN.invoke(app, ["setup"], catch_exceptions=False)
    assert again.stdout == "Changed 0 topics, set 0 users, gave 0 rights, took 0\n"


def test_setup_without_a_broker_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUCID_HOME", str(tmp_path))
    monkeypatch.setenv("LUCID_KAFKA", "127.0.0.1:1")
    with pytest.raises(BrokerUnreachable, match=r"no Kafka broker answers at 127\.0\.0\.1:1"):
        RUN.invoke(app, ["setup"], catch_exceptions=False)


@pytest.mark.parametrize("broken", [False, True])
def test_validation_is_a_table_and_a_status(monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    findings = [ok("lucid-kafka", "health"), ok("stack", "topics"), skipped("stack", "read", "x")]
    if broken:
        findings.append(failed("lucid-session-api", "health", "unhealthy: [catalog] no answer"))
    monkeypatch.setattr(validating, "docker", lambda _: None)
    monkeypatch.setattr(validating, "validate", lambda *_: Report(tuple(findings)))
    done = RUN.invoke(app, ["validate", "containers"], catch_exceptions=False)
    assert done.exit_code == int(broken)
    last = done.stdout.splitlines()[-1]
    counted = "1 of 2 containers healthy; 4 checks, 1" if broken else (
        "1 of 1 containers healthy; 3 checks, 0")  # fmt: skip
    assert last == f"{counted} failed, 1 not tried for what failed before"
    wanted = "FAILED  lucid-session-api: health: unhealthy: [catalog] no answer"
    assert (wanted in done.stdout) == broken
    printed = RUN.invoke(app, ["validate", "containers", "--json"], catch_exceptions=False)
    assert json.loads(printed.stdout)["ok"] is not broken
    assert printed.exit_code == int(broken)
