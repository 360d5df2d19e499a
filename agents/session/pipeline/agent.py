"""`lucid run pipeline`: events in; the sessions' documents, verdicts, anchors and abandons out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from agents.platform.catalog import Catalog
from agents.platform.clock import wall_clock
from agents.platform.contract import load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import open_letters
from agents.platform.eventbus import EventBus
from agents.platform.expiry import Expired
from agents.platform.hearing import Hearing
from agents.platform.keys import load_trusted
from agents.platform.producer import Producer
from agents.platform.redis_client import redis_if_set
from agents.platform.retry import Transient, Unreachable, wait_stopped
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from agents.session.pipeline.keeper import SessionKeeper, Topics
from agents.session.pipeline.live import LiveWriter
from agents.session.pipeline.settings import PipelineSettings
from agents.session.pipeline.states import OF_NO_SESSION
from agents.session.pipeline.transitions import check_partition
from schemas.events import (
    RecordsExpired,
    SessionEvent,
    event_from_kafka,
)

NAME = "pipeline"
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), PipelineSettings.load(), build)


def parse(record: Record) -> SessionEvent:
    """An event of `session.events`; raises FormatError."""
    return event_from_kafka(record.key, record.headers, record.value)


class Watch:
    """Abandons sessions whose recorder is silent, and counts those that stay incomplete.

    Silence counts from when this pipeline last could not hear: an older sign of life may
    still wait in the topic or, while no broker is there, with the recorder. hears: whether
    the group keeps up with the topic; raises Unreachable.
    """

    name = "watch"

    def __init__(
        self, keeper: SessionKeeper, section: PipelineSettings,
        hears: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self._keeper = keeper
        self._section = section
        self._hears = hears
        self._silent = round(section.abandon_after * 1_000_000)
        self._settle = round(section.settle_after * 1_000_000)
        self._since = self._looked = wall_clock()

    def heard(self, event: SessionEvent) -> None:
        """An event that is old when it is handled says that others still wait."""
        if wall_clock() - event.micros > self._silent / 2:
            self._since = wall_clock()

    async def run(self, stop: StopSignal, /) -> None:
        """Look at open sessions every now and then."""
        while not await wait_stopped(stop, self._section.watch_every):
            await self.look()

    async def look(self) -> list[str]:
        """Look once, if broker and catalog answer; the sessions that were ended or counted."""
        asleep = wall_clock() - self._looked > self._section.watch_every * 1e6 + self._silent / 2
        try:
            if asleep or not await self._hears():
                self._since = wall_clock()
            return await self._keeper.look_after(self._silent, self._settle, self._since)
        except Unreachable as error:
            self._since = wall_clock()
            log.warning("cannot look at silent sessions now", error=error)
        except Transient as error:
            log.warning("cannot abandon a silent session now", error=error)
        finally:
            self._looked = wall_clock()
        return []


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The pipeline's parts: its event handlers, the watch, and the live state."""
    settings, section = service.settings, service.section
    assert isinstance(section, PipelineSettings)
    contract = load_contract(settings)
    async with (
        AsyncExitStack() as resources,
        Catalog(settings) as catalog,
        Producer(settings, contract.limits, metrics=service.metrics) as producer,
        Hearing(
            settings, group=settings.topic_prefix + NAME,
            topic=contract.topic("session.events"), patience=section.abandon_after / 2,
        ) as hearing,
    ):  # fmt: skip
        await service.wait_until(catalog.prepare)
        service.health.add("catalog", catalog.ping, timeout=6.0)
        letters = open_letters(service, producer, contract)
        events = EventBus(producer, contract, service=NAME, host=settings.host, stop=service.stop)
        topics = Topics(
            contract.topic("session.frames").full_name, contract.topic("session.anchors").full_name
        )
        trusted = load_trusted(settings)
        if not trusted:
            log.warning("no key is trusted: whose checkpoints these are is not checked",
                        folder=str(settings.keys_dir))  # fmt: skip
        keeper = SessionKeeper(catalog, producer, events, topics, settings.host, trusted)
        watch = Watch(keeper, section, hearing.hears)
        redis = redis_if_set(settings)
        if redis is not None:
            resources.push_async_callback(redis.close)
        live = LiveWriter(redis)
        service.health.add("redis", live.healthy, advisory=True)

        partitions = contract.topic("session.frames").partitions

        async def handle(event: SessionEvent, record: Record) -> None:
            check_partition(event, partitions)
            watch.heard(event)
            if not isinstance(event.data, OF_NO_SESSION):
                await keeper.handle(event, (record.partition, record.offset))
            live.heard(event)

        async def expired(lost: Expired) -> None:
            event = RecordsExpired(
                session=None, topic="session.events", partition=lost.partition,
                first_offset=lost.first, next_offset=lost.next_offset, next_seq=None,
            )  # fmt: skip
            await events.emit(event, f"session.events/{lost.partition}")

        control = ControlPlane(
            settings, NAME, letters=letters, metrics=service.metrics, expired=expired
        )
        control.consume(contract.topic("session.events").full_name, parse, handle)
        service.health.add("control", control.healthy)
        yield [control, watch, live]
