"""`lucid run pipeline`: events in; the sessions' documents, verdicts, anchors and abandons out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from agents.platform.catalog import Catalog
from agents.platform.contract import load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import DeadLetters
from agents.platform.eventbus import EventBus
from agents.platform.keys import load_trusted
from agents.platform.producer import Producer
from agents.platform.projections import wall_clock
from agents.platform.retry import Transient, wait_stopped
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from agents.session.pipeline.keeper import SessionKeeper, Topics
from agents.session.pipeline.settings import PipelineSettings
from schemas.events import CommandDone, CommandRefused, SessionEvent, event_from_kafka

NAME = "pipeline"
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), PipelineSettings.load(), build)


def parse(record: Record) -> SessionEvent:
    """An event of `session.events`; raises FormatError."""
    return event_from_kafka(record.key, record.headers, record.value)


class Watch:
    """Gives up sessions whose recorder is silent.

    Silence counts from when this pipeline was up to date with the events: an older sign of
    life may still wait in the topic.
    """

    name = "watch"

    def __init__(self, keeper: SessionKeeper, section: PipelineSettings) -> None:
        self._keeper = keeper
        self._section = section
        self._silent = round(section.abandon_after * 1_000_000)
        self._since = wall_clock()

    def heard(self, event: SessionEvent) -> None:
        """An event that is old when it is handled says that others still wait."""
        if wall_clock() - event.time.timestamp() * 1_000_000 > self._silent / 2:
            self._since = wall_clock()

    async def run(self, stop: StopSignal, /) -> None:
        """Look at silent sessions every now and then."""
        while not await wait_stopped(stop, self._section.watch_every):
            try:
                await self._keeper.abandon_silent(self._silent, self._since)
            except Transient as error:
                log.warning("cannot look at silent sessions now", error=error)


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The pipeline's two parts: its event handlers and the watch."""
    settings, section = service.settings, service.section
    assert isinstance(section, PipelineSettings)
    contract = load_contract(settings)
    letters_topic = contract.topic("dead.letters")
    async with (
        Catalog(settings) as catalog,
        Producer(settings, contract.limits, metrics=service.metrics) as producer,
    ):
        await service.wait_until(catalog.prepare)
        service.health.add("catalog", catalog.ping, timeout=6.0)
        letters = DeadLetters(
            producer, topic=letters_topic.full_name, service=NAME, metrics=service.metrics
        )
        events = EventBus(producer, contract, service=NAME, host=settings.host, stop=service.stop)
        topics = Topics(
            contract.topic("session.frames").full_name, contract.topic("session.anchors").full_name
        )
        trusted = load_trusted(settings)
        if not trusted:
            log.warning("no key is trusted: whose checkpoints these are is not checked",
                        folder=str(settings.keys_dir))  # fmt: skip
        keeper = SessionKeeper(catalog, producer, events, topics, settings.host, trusted)
        watch = Watch(keeper, section)

        async def handle(event: SessionEvent, record: Record) -> None:
            watch.heard(event)
            if not isinstance(event.data, CommandDone | CommandRefused):
                await keeper.handle(event, (record.partition, record.offset))

        control = ControlPlane(settings, NAME, letters=letters, metrics=service.metrics)
        control.consume(contract.topic("session.events").full_name, parse, handle)
        service.health.add("control", control.healthy)
        yield [control, watch]
