"""`lucid run xrdp`: desired states in; processes of this host, and what became of them, out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from agents.platform.contract import Contract, load_contract
from agents.platform.control import ControlPlane, Record
from agents.platform.deadletters import open_letters
from agents.platform.emitter import Emitter
from agents.platform.producer import Producer
from agents.platform.service import Part, Service, run_service
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.xrdp.files import FolderLock
from agents.rdp.xrdp.house import House
from agents.rdp.xrdp.launcher import Gate, Launcher
from agents.rdp.xrdp.metrics import XrdpMetrics
from agents.rdp.xrdp.settings import XrdpSettings
from schemas.canonical import InvalidModel
from schemas.errors import FormatError
from schemas.rdp_config import DesiredServer, XrdpConfigEvent
from schemas.rdp_processes import ProcessChanged, XrdpProcessEvent
from schemas.sessions import parse_session_id

NAME = "xrdp"
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), XrdpSettings.load(), build)


def parse(record: Record) -> tuple[str, DesiredServer | None]:
    """A server and what it shall be; None for a tombstone. Raises FormatError."""
    return read_wanted(record.key, record.headers, record.value)


def read_wanted(
    key: bytes | None, headers: Sequence[tuple[str, bytes | None]], value: bytes | None
) -> tuple[str, DesiredServer | None]:
    """The same of a record as it comes from the broker."""
    if value is None:
        if key is None:
            raise InvalidModel("a tombstone of no server")
        return str(parse_session_id(key)), None
    wanted = XrdpConfigEvent.from_kafka(key, headers, value).wanted
    return wanted.server, wanted


async def snapshot(settings: Settings, contract: Contract) -> dict[str, DesiredServer]:
    """What each server shall be now, by server id. Raises BrokerUnreachable."""
    found: dict[str, DesiredServer] = {}
    async for record in read_topic(settings, contract.topic("xrdp.config.events").full_name):
        try:
            server, wanted = read_wanted(record.key, tuple(record.headers), record.value)
        except FormatError:
            continue  # becomes a dead letter where the record is consumed
        if wanted is None:
            found.pop(server, None)
        elif server not in found or found[server].version < wanted.version:
            found[server] = wanted
    return found


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The room's parts: its servers, the desired states, and the reports on their way."""
    settings, section = service.settings, service.section
    assert isinstance(section, XrdpSettings)
    contract = load_contract(settings)
    folder = section.folder or settings.home / "xrdp"
    lock = FolderLock(folder)
    with lock.held():
        # Two rooms would each end what the other has started.
        await service.wait_until(lock.take)
        async with _parts(service, section, contract, folder) as parts:
            yield parts


@asynccontextmanager
async def _parts(
    service: Service, section: XrdpSettings, contract: Contract, folder: Path
) -> AsyncIterator[Sequence[Part]]:
    settings = service.settings
    async with Producer(settings, contract.limits, metrics=service.metrics) as producer:
        emitter = Emitter(producer, contract, "xrdp.process.events")
        source = f"lucid/{NAME}/{settings.host}"
        gate = Gate(settings.rdp_socket_path, settings.rdp_require_recording)
        launcher = Launcher(section, folder, gate)
        metrics = XrdpMetrics(
            service.metrics.registry, lambda: [one.life.state for one in house.keepers.values()]
        )

        def report(change: ProcessChanged) -> None:
            metrics.reported(change)
            emitter.put(XrdpProcessEvent(change, source, change.server))

        house = House(launcher, section, settings.host, report)
        house.take_over(await snapshot(settings, contract))
        letters = open_letters(service, producer, contract)

        async def handle(found: tuple[str, DesiredServer | None], record: Record) -> None:
            house.want(*found)

        # Every host reads all desired states, so each has a consumer group of its own.
        control = ControlPlane(
            settings, NAME, letters=letters, metrics=service.metrics,
            group=f"{settings.topic_prefix}{NAME}.{settings.host}",
        )  # fmt: skip
        control.consume(contract.topic("xrdp.config.events").full_name, parse, handle)
        service.health.add("control", control.healthy)
        yield [emitter, house, control]
