"""`lucid run recorder`: commands for this host in; frame records and events out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from agents.platform.contract import load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import open_letters
from agents.platform.retry import Transient, retry
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from agents.session.recorder.metrics import RecorderMetrics
from agents.session.recorder.order import Order, Outlet
from agents.session.recorder.recording import Recording
from agents.session.recorder.roster import Roster
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.capture import display_capture, source_of
from agents.session.recorder.spool_folder import SpoolBusy, leftovers
from agents.session.recorder.wiring import NAME, follow_progress, make_order, open_outlet, resume
from schemas.commands import RecorderCommand, read_command
from schemas.errors import LucidError

log = structlog.get_logger(__name__)


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


class TakingUp:
    """Goes on with the sessions that an earlier recorder left, each in its own time."""

    name = "leftovers"

    def __init__(
        self, order: Order, outlet: Outlet, section: RecorderSettings, roster: Roster
    ) -> None:
        self._order, self._outlet, self._section, self._roster = order, outlet, section, roster

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set."""
        places = leftovers(self._order.spool.folder)
        working = [asyncio.create_task(self._take_up(place, stop)) for place in places]
        await stop.wait()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    async def _take_up(self, place: Path, stop: StopSignal) -> None:
        async def attempt() -> Recording | None:
            return await resume(place, self._order, self._outlet, self._section)

        try:
            recording = await retry(attempt, stop=stop, on_retry=partial(self._waiting, place))
        except SpoolBusy as error:
            log.info("left to the recorder that has it", spool=str(place), error=str(error))
        except LucidError as error:
            log.error("cannot go on with a session", spool=str(place), error=error)
        else:
            if recording is not None:
                self._roster.add(recording, recording.display)

    @staticmethod
    def _waiting(place: Path, error: Transient, pause: float) -> None:
        log.warning("going on with a session later", spool=str(place), pause=round(pause, 2),
                    error=str(error))  # fmt: skip


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The recorder's parts: its commands, its recordings, and the sight of their progress."""
    settings, section = service.settings, service.section
    assert isinstance(section, RecorderSettings)
    order = make_order(settings, section)
    contract = load_contract(settings)
    async with open_outlet(settings, service.stop, service.metrics) as outlet:

        def make(command: RecorderCommand) -> Recording:
            capture = display_capture(
                section, command.display or "", command.xauthority, command.activity
            )
            own = replace(order, owner=command.owner, project=command.project)
            return Recording(source_of(capture, section), own, outlet, capture)

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
        taking_up = TakingUp(order, outlet, section, roster)
        yield [roster, taking_up, control, Follower(settings, roster)]
