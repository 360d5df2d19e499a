"""What operators get wrong: the container stops with one clear line, and validation names it."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

from tests.containers.conftest import HERE, Deployed, docker
from tests.waiting import wait_for

NAMES = {one.name: one.container for one in HERE}
STOPPED = ("pipeline", "recorder", "processor", "storage")
OTHER_TOPICS = """
from pathlib import Path
path = Path("/app/schemas/topics.yaml")
text = path.read_text()
assert "retention: forever" in text
path.write_text(text.replace("retention: forever", "retention: 30d"))
"""


def _of_other_topics(folder: Path) -> str:
    """Storage's image, built with another topics.yaml, as its label says."""
    digest = hashlib.sha256(b"another").hexdigest()
    (folder / "Dockerfile").write_text(
        "FROM lucid/session-storage:0.1.0\nUSER 0\n"
        f"RUN {json.dumps(['/usr/bin/python3.11', '-c', OTHER_TOPICS])}\n"
        f"USER 65532:65532\nLABEL lucid.contract={digest}\n"
    )
    docker("build", "-q", "-t", "lucid/broken-storage:test", str(folder))
    return "lucid/broken-storage:test"


def _stopped(name: str) -> bool:
    """Whether it ended at least once because of what is wrong."""
    seen = json.loads(docker("inspect", name))[0]
    return bool(seen["RestartCount"]) or seen["State"]["Status"] in ("restarting", "exited")


def test_each_mistake_of_an_operator_is_named(deployed: Deployed, tmp_path: Path) -> None:
    """A taken port, a missing secret, a wrong broker, a read-only volume, other topics."""
    secret = deployed.folder / "services/processor/kafka.password"
    kept = secret.rename(tmp_path / "kafka.password")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mistakes = tmp_path / "mistakes.yml"
        mistakes.write_text(f"""
name: lucid
services:
  {NAMES["api"]}: {{ports: !override ["127.0.0.1:{port}:8087"]}}
  {NAMES["pipeline"]}: {{environment: {{LUCID_KAFKA: "lucid-kafka:1"}}}}
  {NAMES["recorder"]}: {{volumes: ["recorder-state:/var/lib/lucid:ro"]}}
  {NAMES["storage"]}: {{image: "{_of_other_topics(tmp_path)}"}}
""")
        try:
            others = [NAMES[name] for name in ("pipeline", "recorder", "storage")]
            deployed.compose("up", "-d", *others, more=[mistakes])
            docker("restart", "-t", "10", NAMES["processor"])
            said = deployed.compose("up", "-d", NAMES["api"], more=[mistakes], check=False)
            assert "address already in use" in said
            wait_for(lambda: all(_stopped(NAMES[name]) for name in STOPPED), seconds=120, every=0.2)
            failed, report = deployed.validate()
        finally:
            kept.rename(secret)
            docker("restart", "-t", "10", NAMES["processor"])
            deployed.up(*NAMES.values())
    assert failed == {
        (NAMES["storage"], "image"),
        *((NAMES[name], "running") for name in (*STOPPED, "api")),
    }
    assert report["healthy"] == report["containers"] - 5
    details = {
        (one["subject"], one["check"]): one["detail"]
        for one in report["findings"] if one["verdict"] == "failed"
    }  # fmt: skip
    says = {
        "api": f"127.0.0.1:{port}: bind: address already in use",
        "pipeline": "no Kafka broker answers at lucid-kafka:1",
        "recorder": "cannot write to /var/lib/lucid/run (Read-only file system)",
        "processor": "there is no key file /run/lucid/kafka.password",
        "storage": "the broker differs from topics.yaml",
    }
    for name, words in says.items():
        assert words in details[NAMES[name], "running"], name
    assert "another topics.yaml" in details[NAMES["storage"], "image"]
