"""`lucid load` on the real servers: what it counts, and that it hides no loss."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agents.platform import stack as stack_api
from agents.platform.catalog import Catalog
from agents.platform.settings import Settings
from tests.conftest import Stack
from tests.e2e.conftest import Installation, install

SHORT = ("--sessions", "3", "--duration", "3", "--ramp", "1", "--json")


def _load(lucid: Installation, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = lucid.lucid("load", *arguments, check=False)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout), done.stderr.decode()


@pytest.fixture(scope="module")
def own(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """One without services."""
    return install(tmp_path_factory.mktemp("load"), stack)


def test_what_is_sent_is_what_is_stored(lucid: Installation, tmp_path: Path) -> None:
    status, report, _ = _load(
        lucid, *SHORT, "--arrival", "random", "--content", "text", "--project", "load-test",
        "--report", str(tmp_path), "--objective", "30",
    )  # fmt: skip
    assert (status, report["outcome"], report["problems"]) == (0, "good", [])
    counts = report["counts"]
    assert counts["sessions"] == 3
    assert counts["sent"] == counts["confirmed"] == counts["stored"] > 20
    assert counts["lost"] == counts["duplicated"] == counts["never_sent"] == 0
    assert report["seconds_to_stored"]["count"] >= 3
    assert report["seconds_to_confirmed"]["count"] == counts["sent"]
    last = report["samples"][-1]
    assert {"load", "processor", "storage"} <= set(last["rss"])
    assert set(last["lag"]) == {"processor", "storage"}
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    mine = [one for one in asyncio.run(_manifests(lucid)) if one["project"] == "load-test"]
    assert [one["owner"] for one in mine] == [report["run"]] * 3
    assert lucid.lucid("verify", mine[0]["session"], "--json")


async def _manifests(lucid: Installation) -> list[dict[str, Any]]:
    settings = Settings.load(
        home=lucid.home, mongo=lucid.env["LUCID_MONGO"], database=lucid.env["LUCID_DATABASE"]
    )
    async with Catalog(settings) as catalog:
        return [json.loads(one["manifest"]) for one in await catalog.find("manifests")]


def test_a_chunk_that_is_taken_away_is_lost_to_the_record(lucid: Installation) -> None:
    """The count believes the catalog, not the services' own figures."""
    script = """
import asyncio, sys
from agents.load import running
from agents.platform.catalog import Catalog
from agents import cli
settle = running._settle
async def then_remove(driver, seconds):
    await settle(driver, seconds)
    from agents.platform.settings import Settings
    async with Catalog(Settings.load()) as catalog:
        await catalog.delete("chunks", f"{next(iter(driver.sessions))}:0")
running._settle = then_remove
sys.exit(cli.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "load", *SHORT],
        env=lucid.env, capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["outcome"] == "records lost"
    (bad,) = report["not_whole"]
    assert report["problems"][0].startswith(f"{bad['lost']} of {report['counts']['sent']} records")
    assert bad["lost_ranges"] == [[0, bad["sent"] - 1]]


def test_the_limit_is_searched_for(lucid: Installation) -> None:
    status, found, told = _load(
        lucid, "--sessions", "1", "--most", "2", "--duration", "1", "--ramp", "0", "--find-limit",
        "--objective", "30", "--json",
    )  # fmt: skip
    assert (status, found["sessions"], found["broke_at"]) == (0, 2, None)
    assert [one["sessions"] for one in found["tries"]] == [1, 2]
    assert "2 sessions: 2 sessions, nothing lost" in told
    status, found, told = _load(
        lucid, "--sessions", "1", "--most", "2", "--duration", "1", "--ramp", "0", "--find-limit",
        "--objective", "0.01", "--json",
    )  # fmt: skip
    assert (status, found["sessions"], found["broke_at"]) == (1, 0, 1)
    assert "the objective is 0.01 s" in told


def test_a_full_disk_is_named(own: Installation, tmp_path: Path) -> None:
    own.start("processor")
    # Not ready from the start: no disk has as much room as is asked for.
    env = {**own.env, "LUCID_MIN_FREE": "1000TiB"}
    with (tmp_path / "storage.log").open("wb") as log:
        storage = subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "run", "storage"], env=env, stdout=log, stderr=log
        )
    try:
        status, report, told = _load(own, *SHORT, "--settle", "4")
        assert (status, report["outcome"]) == (1, "records lost")
        assert report["problems"][0].endswith("records sent are not stored")
        assert any(re.search("storage is not ready: .*free", one) for one in report["problems"])
        assert "records lost" in told
    finally:
        storage.send_signal(signal.SIGTERM)
        storage.wait(20)
        own.stop("processor")


def test_a_broker_that_stands_still_ends_the_run(stack: Stack, own: Installation) -> None:
    (kafka,) = (one.pid for one in stack_api.status(stack.settings) if one.server == "kafka")
    assert kafka is not None
    again = threading.Timer(90, os.kill, (kafka, signal.SIGCONT))
    again.start()
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "load", "--sessions", "3", "--duration", "60",
         "--ramp", "0", "--patience", "2", "--json"],
        env=own.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        # Records are on their way once the topic's files grow.
        asyncio.run(_until_written(stack.kafka, own.env["LUCID_TOPIC_PREFIX"] + "session.frames"))
        os.kill(kafka, signal.SIGSTOP)
        out, told = process.communicate(timeout=60)
    finally:
        os.kill(kafka, signal.SIGCONT)
        again.cancel()
        process.kill()
        process.wait()
    report = json.loads(out)
    assert (process.returncode, report["outcome"]) == (1, "broken off")
    assert report["counts"]["unconfirmed"] > 0
    assert "never confirmed by the broker" in " ".join(report["problems"][:3])
    assert any("the broker confirmed nothing for" in one for one in report["problems"])
    assert b"broken off" in told


async def _until_written(kafka: str, topic: str) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(8)]
        before = sum((await consumer.end_offsets(places)).values())
        async with asyncio.timeout(30):
            while sum((await consumer.end_offsets(places)).values()) < before + 20:
                await asyncio.sleep(0.1)
    finally:
        await consumer.stop()


def test_a_topic_with_wrong_limits_is_not_loaded(stack: Stack, own: Installation) -> None:
    asyncio.run(_narrow(stack.kafka, own.env["LUCID_TOPIC_PREFIX"] + "session.frames"))
    status, report, told = _load(own, *SHORT)
    assert (status, report["outcome"]) == (1, "not begun")
    assert "max.message.bytes" in report["problems"][0]
    assert report["counts"]["sent"] == 0
    assert report["seconds_to_confirmed"] is None
    assert "not begun" in told


async def _narrow(kafka: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        wanted = {"max.message.bytes": "20000"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])
        # The controller has it first, the broker soon after.
        asked = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None})
        async with asyncio.timeout(30):
            while "20000" not in str(await admin.describe_configs([asked])):
                await asyncio.sleep(0.05)
    finally:
        await admin.close()
