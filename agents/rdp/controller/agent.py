"""`lucid run rdp-controller`: gates and commands in; recordings and the sessions' events out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from agents.platform.contract import load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import open_letters
from agents.platform.hearing import Hearing
from agents.platform.producer import Producer
from agents.platform.retry import Unreachable, wait_stopped
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from agents.rdp.controller.connections import Connections
from agents.rdp.controller.gates import GateSocket
from agents.rdp.controller.ledger import Tools
from agents.rdp.controller.metrics import ControllerMetrics
from agents.rdp.controller.orders import Orders
from agents.rdp.controller.outbox import Outbox
from agents.rdp.controller.recordings import Recordings
from agents.rdp.controller.servers import Servers
from agents.rdp.controller.sessions import Sessions
from agents.rdp.controller.settings import ControllerSettings
from agents.rdp.controller.store import Store
from schemas.events import SessionEvent, event_from_kafka
from schemas.rdp_processes import XrdpProcessEvent
from schemas.rdp_session_commands import RdpSessionCommand, read_session_command

NAME = "rdp-controller"
LISTEN_EVERY = 2.0
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), ControllerSettings.load(), build)


def parse_command(record: Record) -> RdpSessionCommand:
    """A command of `rdp.session.commands`; raises FormatError."""
    return read_session_command(record.key, record.value or b"")


def parse_event(record: Record) -> SessionEvent:
    """An event of `session.events`; raises FormatError."""
    return event_from_kafka(record.key, record.headers, record.value)


def parse_process(record: Record) -> XrdpProcessEvent:
    """An event of `xrdp.process.events`; raises FormatError."""
    return XrdpProcessEvent.from_kafka(record.key, record.headers, record.value)


class Listening:
    """Notes when this controller cannot hear the recorder: silence means nothing then."""

    name = "listening"

    def __init__(self, recordings: Recordings, hears: Callable[[], Awaitable[bool]]) -> None:
        self._recordings, self._hears = recordings, hears

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set."""
        while not await wait_stopped(stop, LISTEN_EVERY):
            try:
                heard = await self._hears()
            except Unreachable as error:
                log.warning("the recorder cannot be heard now", error=error)
                heard = False
            if not heard:
                self._recordings.deaf()


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The controller's parts: its sessions, their connections, its commands and events."""
    settings, section = service.settings, service.section
    assert isinstance(section, ControllerSettings)
    contract, host = load_contract(settings), settings.host
    store = Store(section.state or settings.home / "rdp" / "sessions")
    store.open()
    # Each host reads all records of these topics, so each has a consumer group of its own.
    group = f"{settings.topic_prefix}{NAME}.{host}"
    events = contract.topic("session.events")
    async with (
        Producer(settings, contract.limits, metrics=service.metrics) as producer,
        Hearing(settings, group=group, topic=events, patience=section.silent_after / 2) as hearing,
    ):
        outbox = Outbox(
            producer, contract.topic("rdp.session.events").full_name, f"lucid/{NAME}/{host}"
        )
        recordings = Recordings(
            producer, contract.topic("session.commands").full_name, host, section
        )
        servers = Servers(store, host)
        tools = Tools(section, settings.rdp_require_recording, store, outbox, recordings, servers)
        sessions = Sessions(tools, host)
        connections = Connections(tools, sessions, host)
        orders = Orders(sessions, outbox, host)
        ControllerMetrics(service.metrics.registry, sessions, connections, outbox)

        async def command(order: RdpSessionCommand, record: Record) -> None:
            sent = record.timestamp if record.timestamp is not None else 0
            await orders.carry_out(order, time.time() - sent / 1000)

        async def event(heard: SessionEvent, record: Record) -> None:
            recordings.heard(heard)

        async def process(heard: XrdpProcessEvent, record: Record) -> None:
            servers.heard(heard.change)

        control = ControlPlane(
            settings, NAME, letters=open_letters(service, producer, contract),
            metrics=service.metrics, group=group,
        )  # fmt: skip
        control.consume(contract.topic("rdp.session.commands").full_name, parse_command, command)
        control.consume(events.full_name, parse_event, event)
        control.consume(contract.topic("xrdp.process.events").full_name, parse_process, process)
        service.health.add("control", control.healthy)
        service.health.add("connections", connections.healthy)
        sessions.restore()
        async with GateSocket(settings.rdp_socket_path, sessions.serve):
            yield [sessions, connections, control, Listening(recordings, hearing.hears), outbox]
        await recordings.close()
    store.close()
