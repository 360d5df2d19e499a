"""An audit trail of its own, commands that write to it, and what a service does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

from agents.platform.audit import (
    Audit,
    chain_folder,
)
from agents.platform.audit_state import known_of, read_states
from agents.platform.contract import Contract
from agents.platform.producer import Producer
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.audit import AuditEvent, ProjectionRebuilt
from schemas.audit_trail import TrailCheck, TrailReport


def act(number: int) -> ProjectionRebuilt:
    return ProjectionRebuilt(projection="sessions", events=number)


@dataclass
class Trail:
    """A topic of this test's own, and the home of who writes to it."""

    settings: Settings
    contract: Contract

    def producer(self) -> Producer:
        return Producer(self.settings, self.contract.limits)

    async def events(self) -> list[AuditEvent]:
        topic = self.contract.topic("audit.events").full_name
        return [
            AuditEvent.from_kafka(raw.key, raw.headers, raw.value)
            async for raw in read_topic(self.settings, topic)
        ]

    async def check(self) -> TrailReport:
        """The whole topic, compared with the states of this home."""
        trail = TrailCheck()
        topic = self.contract.topic("audit.events").full_name
        states = read_states(chain_folder(self.settings, self.contract))
        async for raw in read_topic(self.settings, topic):
            trail.add(raw.headers, raw.value, raw.offset)
        return trail.finish([known_of(state, state) for state in states])

    async def acts(self) -> Counter[int]:
        """How often each act of `act` is there, the same entry twice counted once."""
        found = {event.id: event.data for event in await self.events()}
        return Counter(one.events for one in found.values() if isinstance(one, ProjectionRebuilt))


WRITER = """
import asyncio, sys
from pathlib import Path
from agents.platform import points
from agents.platform.audit import Audit
from agents.platform.contract import load_contract
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.audit import ProjectionRebuilt

async def main(first, count):
    settings = Settings.load()
    contract = load_contract(settings)
    async with Producer(settings, contract.limits) as producer:
        audit = Audit(producer, contract)
        for number in range(first, first + count):
            await audit.record(ProjectionRebuilt(projection="s", events=number), "s")

points.arm()
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def command(trail: Trail, first: int, count: int, **more: str) -> subprocess.Popen[bytes]:
    """A process of its own that records acts."""
    environment = {
        **os.environ, "LUCID_HOME": str(trail.settings.home), "LUCID_HOST": "desk7",
        "LUCID_KAFKA": str(trail.settings.kafka),
        "LUCID_TOPIC_PREFIX": trail.settings.topic_prefix, **more,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(first), str(count)], env=environment,
        stderr=subprocess.PIPE,
    )  # fmt: skip


@dataclass
class Running:
    """A service's writer as a part that runs."""

    writer: Audit
    stop: StopSignal
    task: asyncio.Task[None]

    async def end(self) -> None:
        self.stop.set()
        async with asyncio.timeout(20):
            await self.task
