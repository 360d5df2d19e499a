"""`lucid run rdp-server-manager`: commands and process events in; servers, ports and desired
states out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from agents.platform.catalog import Catalog
from agents.platform.contract import load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import open_letters
from agents.platform.producer import Producer
from agents.platform.retry import Transient, unless_stopped, wait_stopped
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from agents.rdp.server_manager.keeper import ServerManager
from agents.rdp.server_manager.metrics import ManagerMetrics
from agents.rdp.server_manager.settings import ServerManagerSettings
from schemas.envelope import Event
from schemas.rdp_commands import ServerCommand, read_server_command
from schemas.rdp_processes import XrdpProcessEvent

NAME = "rdp-server-manager"
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), ServerManagerSettings.load(), build)


def parse_command(record: Record) -> ServerCommand:
    """A command of `rdp.server.commands`; raises FormatError."""
    return read_server_command(record.key, record.value or b"")


def parse_process(record: Record) -> XrdpProcessEvent:
    """An event of `xrdp.process.events`; raises FormatError."""
    return XrdpProcessEvent.from_kafka(record.key, record.headers, record.value)


class Watch:
    """Looks after servers and ports every now and then (a part of the service)."""

    name = "watch"

    def __init__(self, manager: ServerManager, every: float) -> None:
        self._manager, self._every = manager, every

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set."""
        while True:
            try:
                await unless_stopped(stop, self._manager.look_after())
            except Transient as error:
                log.warning("cannot look after servers now", error=error)
            if await wait_stopped(stop, self._every):
                return


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The manager's parts: its two topics, and the watch."""
    settings, section = service.settings, service.section
    assert isinstance(section, ServerManagerSettings)
    contract = load_contract(settings)
    async with (
        Catalog(settings) as catalog,
        Producer(settings, contract.limits, metrics=service.metrics) as producer,
    ):
        await service.wait_until(catalog.ping)
        service.health.add("catalog", catalog.ping, timeout=6.0)
        letters = open_letters(service, producer, contract)

        async def send(topic: str, event: Event) -> None:
            await producer.send_event(contract.topic(topic).full_name, event)

        async def bury(topic: str, key: str) -> None:
            await producer.send(contract.topic(topic).full_name, None, key=key.encode())

        manager = ServerManager(
            catalog, section, settings.host, f"lucid/{NAME}/{settings.host}", send, bury
        )
        ManagerMetrics(service.metrics.registry, manager.states)

        async def handle_command(command: ServerCommand, record: Record) -> None:
            sent = record.timestamp if record.timestamp is not None else 0
            await manager.handle_command(command, time.time() - sent / 1000)

        async def handle_process(event: XrdpProcessEvent, record: Record) -> None:
            await manager.handle_process(event.change)

        control = ControlPlane(settings, NAME, letters=letters, metrics=service.metrics)
        control.consume(
            contract.topic("rdp.server.commands").full_name, parse_command, handle_command
        )
        control.consume(
            contract.topic("xrdp.process.events").full_name, parse_process, handle_process
        )
        service.health.add("control", control.healthy)
        yield [control, Watch(manager, section.look_every)]
