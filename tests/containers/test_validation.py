"""Validation of the real stack: nothing fails when it is whole, and exactly what is broken."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.containers.conftest import HERE, Deployed, docker
from tests.waiting import wait_for

DRIFT = """
import asyncio, sys
sys.path[:0] = ["/opt/site", "/opt/own", "/app"]
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
async def main():
    client = AIOKafkaAdminClient(**kafka_options(Settings.load()))
    await client.start()
    await client.alter_configs([ConfigResource(
        ConfigResourceType.TOPIC, "session.holds", configs={"retention.ms": "1000"})])
    await client.close()
asyncio.run(main())
"""


def test_a_whole_stack_passes_every_check(deployed: Deployed) -> None:
    failed, report = deployed.validate()
    assert failed == set()
    assert report["ok"] is True
    assert report["healthy"] == report["containers"] == len(HERE) + 3


@pytest.fixture
def restored(deployed: Deployed) -> object:
    """Whatever a test did, the stack is whole again after it."""
    yield
    docker("network", "disconnect", "lucid-catalog", "lucid-session-recorder", check=False)
    (deployed.folder / "services/recorder/keys/processor.age").unlink(missing_ok=True)
    deployed.compose("up", "-d", "lucid-setup")
    deployed.up(*(one.container for one in HERE))


def _with_shell(folder: Path) -> str:
    """An image with something at /bin/sh that takes -c."""
    (folder / "Dockerfile").write_text(
        "FROM lucid/session-pipeline:0.1.0\nUSER 0\n"
        'RUN ["python3", "-c", "import os; os.symlink(\'/usr/bin/python3.11\', \'/bin/sh\')"]\n'
        "USER 65532:65532\n"
    )
    docker("build", "-q", "-t", "lucid/broken-pipeline:test", str(folder))
    return "lucid/broken-pipeline:test"


def test_five_breakages_are_found_and_nothing_else(
    deployed: Deployed, restored: None, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(yaml.safe_dump({"name": "lucid", "services": {
        "lucid-session-pipeline": {"image": _with_shell(tmp_path)},
        "lucid-session-processor": {"read_only": False},
        "lucid-session-storage": {"cap_add": ["NET_RAW"]},
    }}))  # fmt: skip
    changed = [f"lucid-session-{name}" for name in ("pipeline", "processor", "storage")]
    deployed.up(*changed, more=[broken])
    docker("network", "connect", "lucid-catalog", "lucid-session-recorder")
    deployed.compose("run", "--rm", "-T", "--no-deps", "--entrypoint",
                     "/usr/bin/python3.11", "lucid-setup", "-c", DRIFT)  # fmt: skip
    failed, report = deployed.validate()
    assert failed == {
        ("lucid-session-pipeline", "shell"),
        ("lucid-session-processor", "read-only"),
        ("lucid-session-storage", "capabilities"),
        ("lucid-session-recorder", "isolation"),
        ("stack", "topics"),
    }
    assert report["healthy"] == report["containers"]


def test_a_key_of_another_service_is_found(deployed: Deployed, restored: None) -> None:
    key = deployed.folder / "services/recorder/keys/processor.age"
    shutil.copy(deployed.folder / "keys/processor.age", key)
    shutil.chown(key, 65532, 65532)
    failed, _ = deployed.validate()
    assert failed == {("lucid-session-recorder", "secrets")}


def _health(name: str) -> str:
    return docker("inspect", name, "--format", "{{.State.Health.Status}}").strip()


def test_without_its_catalog_a_service_is_unhealthy_and_recovers(deployed: Deployed) -> None:
    names = ["lucid-session-storage", "lucid-session-pipeline", "lucid-session-api"]
    docker("pause", "lucid-mongodb")
    try:
        wait_for(
            lambda: all(_health(name) == "unhealthy" for name in names), seconds=120, every=0.2
        )
        assert _health("lucid-session-recorder") == "healthy"
    finally:
        docker("unpause", "lucid-mongodb")
    wait_for(lambda: all(_health(name) == "healthy" for name in names), seconds=120, every=0.2)


def test_each_service_may_only_what_the_contract_says(deployed: Deployed) -> None:
    """Storage, with its own login, is refused as a producer of session.frames."""
    script = DRIFT.replace("asyncio.run(main())", "").replace("async def main():", "async def x():")
    script += """
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
async def main():
    async with AIOKafkaProducer(**kafka_options(Settings.load())) as producer:
        await producer.send_and_wait("session.events", b"x")
        try:
            await producer.send_and_wait("session.frames", b"x")
        except TopicAuthorizationFailedError:
            print("refused")
asyncio.run(main())
"""
    found = subprocess.run(
        ["docker", "exec", "-i", "lucid-session-storage", "/usr/bin/python3.11", "-"],
        input=script, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.stdout.strip().endswith("refused"), found.stderr
