"""`lucid run node-management`: requests, heartbeats and commands in; what became of nodes out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from agents.node.management import orders, registrations
from agents.node.management.heartbeats import Heartbeats
from agents.node.management.keeper import Keeper
from agents.node.management.metrics import ManagementMetrics
from agents.node.management.outlet import Outlet
from agents.node.management.settings import NodeManagementSettings
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, load_contract
from agents.platform.control import ControlPlane
from agents.platform.deadletters import open_letters
from agents.platform.keys import KeyUnreadable, create_key_file, read_key_file
from agents.platform.producer import Producer
from agents.platform.retry import Transient, unless_stopped, wait_stopped
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from schemas.node_base import CLOCK, ClockTicked
from schemas.node_heartbeats import HeartbeatEvent
from schemas.node_registration import RegistrationEvent

NAME = "node-management"
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), NodeManagementSettings.load(), build)


def challenge_secret(folder: Path) -> bytes:
    """32 secret bytes of this installation, made once; raises KeyProblem."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "node-management.secret"
    create_key_file(path, lambda: os.urandom(32).hex())
    try:
        secret = bytes.fromhex(read_key_file(path, private=True).strip())
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise KeyUnreadable(
            f"{path} does not hold 64 hex digits", hint="Remove it: it is made anew"
        )
    return secret


class Ticker:
    """Writes ticks, so that deadlines and silence are counted in the logs themselves."""

    name = "ticker"

    def __init__(self, producer: Producer, contract: Contract, host: str, every: float) -> None:
        self._producer, self._contract = producer, contract
        self._host, self._every = host, every

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set."""
        while not await wait_stopped(stop, self._every):
            try:
                await unless_stopped(stop, self.tick())
            except Transient as error:
                log.warning("cannot write a tick now", error=error)

    async def tick(self) -> None:
        """One tick on both topics. Raises Transient."""
        data, source = ClockTicked(host=self._host), f"lucid/{NAME}/{self._host}"
        for topic, kind in (
            ("node.registration", RegistrationEvent), ("node.heartbeats", HeartbeatEvent),
        ):  # fmt: skip
            place = self._contract.topic(topic).full_name
            await self._producer.send_event(place, kind(data, source, CLOCK))


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The manager's parts: the handlers of its three topics, and the clock."""
    settings, section = service.settings, service.section
    assert isinstance(section, NodeManagementSettings)
    contract = load_contract(settings)
    secret = challenge_secret(settings.keys_dir)
    async with (
        Catalog(settings) as catalog,
        Producer(settings, contract.limits, metrics=service.metrics) as producer,
    ):
        await service.wait_until(catalog.ping)
        service.health.add("catalog", catalog.ping, timeout=6.0)
        letters = open_letters(service, producer, contract)
        keeper = Keeper(catalog, Outlet(producer, contract, f"lucid/{NAME}/{settings.host}"))
        requests = registrations.Registrations(keeper, secret)
        commands = orders.Orders(keeper, section.scaling())
        heartbeats = Heartbeats(
            keeper, section.rules(), section.scaling(),
            ManagementMetrics(service.metrics.registry),
        )  # fmt: skip
        control = ControlPlane(settings, NAME, letters=letters, metrics=service.metrics)
        topic = contract.topic
        control.consume(topic("node.registration").full_name, registrations.parse, requests.handle)
        control.consume(topic("node.commands").full_name, orders.parse, commands.handle)
        control.consume_many(topic("node.heartbeats").full_name, heartbeats.take)
        service.health.add("control", control.healthy)
        yield [control, Ticker(producer, contract, settings.host, section.tick_every)]
