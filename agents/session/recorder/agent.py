"""`lucid run recorder`: commands for this host in; frame records and events out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from agents.platform.contract import load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import open_letters
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from agents.session.recorder.displays import display_source
from agents.session.recorder.metrics import RecorderMetrics
from agents.session.recorder.recording import Recording
from agents.session.recorder.roster import Roster
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.wiring import NAME, follow_progress, make_order, open_outlet
from schemas.commands import RecorderCommand, read_command


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), RecorderSettings.load(), build)


def parse(record: Record) -> RecorderCommand:
    """A command of `session.commands`; raises FormatError."""
    return read_command(record.value or b"")


class Follower:
    """Hands progress to the roster, as long as the service runs."""

    name = "progress"

    def __init__(self, settings: Settings, roster: Roster) -> None:
        self._settings, self._roster = settings, roster

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set."""
        following = asyncio.create_task(follow_progress(self._settings, self._roster.sealed))
        await stop.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The recorder's parts: its commands, its recordings, and the sight of their progress."""
    settings, section = service.settings, service.section
    assert isinstance(section, RecorderSettings)
    order = make_order(settings, section)
    contract = load_contract(settings)
    async with open_outlet(settings, service.stop, service.metrics) as outlet:

        def make(command: RecorderCommand) -> Recording:
            source = display_source(command.display or "", section, command.xauthority)
            own = replace(order, owner=command.owner, project=command.project)
            return Recording(source, own, outlet)

        roster = Roster(make, outlet.events, settings.host, section.stale_after)
        RecorderMetrics(service.metrics.registry, roster)
        letters = open_letters(service, outlet.producer, contract)

        async def handle(command: RecorderCommand, record: Record) -> None:
            sent = record.timestamp if record.timestamp is not None else 0
            await roster.carry_out(command, time.time() - sent / 1000)

        # Every host reads all commands, so each has a consumer group of its own.
        control = ControlPlane(
            settings, NAME, letters=letters, metrics=service.metrics,
            group=f"{settings.topic_prefix}{NAME}.{settings.host}",
        )  # fmt: skip
        control.consume(contract.topic("session.commands").full_name, parse, handle)
        service.health.add("control", control.healthy)
        yield [roster, control, Follower(settings, roster)]
