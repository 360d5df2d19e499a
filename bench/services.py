"""Lucid's services as processes of their own, watched from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.platform import stack
from agents.platform.contract import load_contract
from agents.platform.settings import Settings

DEADLINE = 400.0
SAMPLE_EVERY = 0.02
NO_SCRUB = {"LUCID_STORAGE_SCRUB_RATE": "0"}
"""For storage whose speed is measured: its scrub begins with it, at a rate of its own."""
Found = TypeVar("Found")


def on_own_stack(measure: Callable[[Settings], Coroutine[object, object, Found]]) -> Found:
    """The figures of a bench that gets servers and a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings.load(home=Path(name))
        try:
            stack.up(settings)
            return asyncio.run(measure(settings))
        finally:
            stack.down(settings)


@dataclass
class Running:
    """A service as a process of its own, whose resident memory is sampled. idle, peak: bytes.

    idle_cpu: seconds of CPU until it was ready.
    """

    process: subprocess.Popen[bytes]
    log: Path
    home: Path
    name: str
    env: dict[str, str]
    idle: float = 0.0
    idle_cpu: float = 0.0
    peak: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def sample(self) -> None:
        """Until `over`: the highest resident memory."""
        looked_at = psutil.Process(self.process.pid)
        while not self.over.wait(SAMPLE_EVERY):
            try:
                self.peak = max(self.peak, looked_at.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def metrics(self) -> str:
        """What the service's `/metrics` says."""
        facts = (self.home / "run" / f"{self.name}-{self.process.pid}.json").read_text()
        port = int(re.findall(r'"port": (\d+)', facts)[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """A metric of the service, summed over its labels; 0 if it has none of that name."""
        return sum(values(self.metrics(), name).values())

    def overrides(self, section: str) -> dict[str, str]:
        """The settings of a section that this process was given."""
        prefix = f"LUCID_{section}_"
        return {
            name.removeprefix(prefix).lower(): value
            for name, value in self.env.items() if name.startswith(prefix)
        }  # fmt: skip

    def wait(self, look: Callable[[], bool], what: str, every: float = 0.02) -> None:
        """Wait until `look` is true; raises TimeoutError, or RuntimeError when it has ended."""
        deadline = time.monotonic() + DEADLINE
        while not look():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} within {DEADLINE:g} s")
            time.sleep(every)

    def said(self, event: str) -> int:
        """How many lines of its log are of that event."""
        return self.log.read_text().count(f'"event": "{event}"')


def values(exposition: str, name: str) -> dict[str, float]:
    """The values of one metric by their labels, as the Prometheus text format writes them."""
    rows = re.findall(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)$", exposition, re.MULTILINE)
    return {labels: float(value) for labels, value in rows}


def by_partition(exposition: str, name: str) -> dict[int, int]:
    """A metric that each partition of one topic has."""
    found = {}
    for labels, value in values(exposition, name).items():
        found[int(re.findall(r'partition="(\d+)"', labels)[0])] = int(value)
    return found


def first_assigned(running: Running) -> float:
    """When a data-plane service began to read, as it logged it (Unix time)."""
    for line in running.log.read_text().splitlines():
        if line.startswith("{") and (said := json.loads(line))["event"] == "assigned":
            return datetime.fromisoformat(said["time"]).timestamp()
    raise RuntimeError(f"{running.name} says nothing of its partitions")


@contextmanager
def service(
    settings: Settings, name: str, env: dict[str, str] | None = None, label: str = ""
) -> Iterator[Running]:
    """Run a service until the block is left; it is idle until it is ready."""
    with spawn(settings, name, env, label) as running:
        running.wait(lambda: running.said("ready") > 0, f"ready {name}")
        looked_at = psutil.Process(running.process.pid)
        running.idle = looked_at.memory_info().rss
        running.idle_cpu = sum(looked_at.cpu_times()[:2])
        yield running


@contextmanager
def spawn(
    settings: Settings, name: str, env: dict[str, str] | None = None, label: str = ""
) -> Iterator[Running]:
    """Start a service, which is not ready yet. label: of its log, if there are several."""
    mine = {
        "LUCID_HOME": str(settings.home), "LUCID_KAFKA": settings.kafka_servers(),
        "LUCID_MONGO": settings.mongo_url(), "LUCID_DATABASE": settings.database,
        "LUCID_TOPIC_PREFIX": settings.topic_prefix, f"LUCID_{name.upper()}_PORT": "0",
        **(env or {}),
    }  # fmt: skip
    log = settings.home / f"{label or name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "run", name],
            env={**os.environ, **mine}, stdout=out, stderr=out,
        )  # fmt: skip
    running = Running(process, log, settings.home, name, mine)
    sampling = threading.Thread(target=running.sample)
    sampling.start()
    try:
        yield running
    finally:
        running.over.set()
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        sampling.join()


async def ends(settings: Settings, topic: str) -> dict[int, int]:
    """The offset that the next record of each partition will get."""
    found = load_contract(settings).topic(topic)
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_servers())
    await consumer.start()
    try:
        places = [TopicPartition(found.full_name, number) for number in range(found.partitions)]
        offsets = await consumer.end_offsets(places)
        return {place.partition: offset for place, offset in offsets.items()}
    finally:
        await consumer.stop()
