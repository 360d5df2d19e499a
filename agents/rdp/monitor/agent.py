"""`lucid run rdp-monitor`: what this host's RDP servers and sessions use, and alerts about it."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from agents.platform.contract import load_contract
from agents.platform.producer import Producer
from agents.platform.service import Part, Service, run_service
from agents.platform.settings import Settings
from agents.rdp.monitor.disk import Disk
from agents.rdp.monitor.following import Following
from agents.rdp.monitor.known import TOPICS, Known
from agents.rdp.monitor.metrics import MonitorMetrics
from agents.rdp.monitor.rounds import Outlet, Rounds
from agents.rdp.monitor.sampler import Sampler
from agents.rdp.monitor.settings import MonitorSettings
from schemas.errors import LucidError

NAME = "rdp-monitor"


class AnotherMonitor(LucidError):
    """A monitor of this folder runs already; two would raise every alert twice."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), MonitorSettings.load(), build)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of this host's monitor; raises AnotherMonitor. It ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnotherMonitor(
                f"another rdp-monitor holds {path}",
                hint="End it first, or give this one another LUCID_HOME and LUCID_HOST",
            ) from error
        yield


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The monitor's parts: what follows the events, and the rounds."""
    settings, section = service.settings, service.section
    assert isinstance(section, MonitorSettings)
    contract = load_contract(settings)
    metrics = MonitorMetrics(service.metrics.registry)
    known = Known(settings.host)
    following = Following(
        settings, contract, TOPICS, known.take, lambda topic: metrics.unread.labels(topic).inc()
    )
    disk = Disk(every=section.disk_every, most=section.disk_most)
    sampler = Sampler(host=settings.host, disk=disk)

    async def counts() -> None:
        if sampler.problem is not None:
            raise sampler.problem

    limits = {
        topic.full_name: topic.max_record
        for topic in (contract.topic("rdp.metrics"), contract.topic("rdp.alerts"))
    }
    with alone(settings.home / "run" / "rdp-monitor.lock"):
        async with Producer(settings, limits, metrics=service.metrics) as producer:
            rounds = Rounds(
                section, sampler, disk, Outlet.of(producer, contract, settings.host),
                known.targets, metrics, ready=following.caught_up, settings=settings,
            )  # fmt: skip
            service.health.add("following", following.healthy)
            service.health.add("rounds", rounds.healthy)
            service.health.add("socket-counts", counts, advisory=True)
            yield [following, rounds]
