"""Rounds without a broker: what waits for it, what is let go, what Prometheus is shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agents.platform.retry import Transient
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.rdp.monitor.agent import AnotherMonitor, alone
from agents.rdp.monitor.metrics import MonitorMetrics
from agents.rdp.monitor.rounds import Rounds
from agents.rdp.monitor.settings import MonitorSettings
from schemas.rdp_metrics import Alert, AlertRaised, AlertResolved
from schemas.rdp_metrics import ServerMetrics as Sample
from schemas.sessions import new_session_id
from tests.schemas.test_rdp_metrics import sample


def test_two_monitors_of_a_host_cannot_run(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "run" / "lock"),
        pytest.raises(AnotherMonitor, match="another rdp-monitor"),
        alone(tmp_path / "run" / "lock"),
    ):
        pass
    with alone(tmp_path / "run" / "lock"):
        pass


@dataclass
class Broker:
    """What was sent, or refused while it is away."""

    away: bool = False
    alerts: list[Alert] = field(default_factory=list)
    sampled: int = 0
    source: str = "s"
    alerts_topic: str = "a"

    async def tell(self, alert: Alert) -> None:
        if self.away:
            raise Transient("away")
        self.alerts.append(alert)

    async def samples(self, samples: list[Sample]) -> None:
        if self.away:
            raise Transient("away")
        self.sampled += len(samples)


@dataclass
class Fake:
    """A sampler that says what it is told to."""

    found: list[Sample]

    def sample(self, targets: Any) -> list[Sample]:
        return self.found


class NoDisk:
    """A disk that nobody has to walk."""

    def want(self, paths: Any) -> None:
        pass

    def step(self, entries: int, clock: float) -> int:
        return 0

    def close(self) -> None:
        pass


async def test_alerts_wait_for_the_broker_and_samples_do_not(tmp_path: Path) -> None:
    registry, broker = CollectorRegistry(), Broker(away=True)
    metrics, now = MonitorMetrics(registry), [100.0]
    fake = Fake([sample(disk=95)])
    section = MonitorSettings(port=0, raise_after=0, resolve_after=0, every=1)
    rounds = Rounds(
        section, fake, NoDisk(), broker, list, metrics, ready=asyncio.Event(),  # type: ignore[arg-type]
        settings=Settings.load(home=tmp_path), clock=lambda: now[0],
    )  # fmt: skip
    with pytest.raises(Transient, match="no round"):
        await rounds.healthy()
    await rounds.round()
    fake.found = [sample(disk=5)]
    now[0] += 1
    await rounds.round()
    await rounds.healthy()
    assert broker.alerts == []
    assert registry.get_sample_value("lucid_rdp_alerts_total", {
        "metric": "disk", "change": "raised"}) is None  # fmt: skip
    broker.away = False
    now[0] += 1
    await rounds.round()
    assert [type(one) for one in broker.alerts] == [AlertRaised, AlertResolved]
    assert broker.alerts[0].id == broker.alerts[1].id
    assert broker.sampled == 1
    real = broker.samples

    async def refuse(samples: list[Sample]) -> None:
        broker.away = True
        await real(samples)

    broker.samples = refuse  # type: ignore[method-assign]
    await rounds.round()
    assert registry.get_sample_value("lucid_rdp_samples_unsent_total") == 1
    now[0] += 100
    with pytest.raises(Transient, match="100 s ago"):
        await rounds.healthy()


async def test_a_monitor_that_is_stopped_before_it_knows_anything_measures_nothing(
    tmp_path: Path,
) -> None:
    rounds = Rounds(
        MonitorSettings(port=0), Fake([]), NoDisk(), Broker(), list,  # type: ignore[arg-type]
        MonitorMetrics(CollectorRegistry()), ready=asyncio.Event(),
        settings=Settings.load(home=tmp_path),
    )  # fmt: skip
    stop = StopSignal()
    running = asyncio.create_task(rounds.run(stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(running, 5)
    with pytest.raises(Transient):
        await rounds.healthy()


async def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.rdp.monitor.rounds.MOST_WAITING", 1)
    broker, fake, now = Broker(away=True), Fake([sample(disk=95)]), [1.0]
    rounds = Rounds(
        MonitorSettings(port=0, raise_after=0, resolve_after=0), fake, NoDisk(), broker,  # type: ignore[arg-type]
        list, MonitorMetrics(CollectorRegistry()), ready=asyncio.Event(),
        settings=Settings.load(home=tmp_path), clock=lambda: now[0],
    )  # fmt: skip
    for disk in (95, 0, 95, 0, 95):
        fake.found = [sample(disk=disk)]
        now[0] += 1
        await rounds.round()
    assert len(rounds._waiting) == 1
    broker.away = False
    await rounds.round()
    assert [type(one) for one in broker.alerts] == [AlertRaised]


def test_more_servers_than_are_shown_are_added_up() -> None:
    registry = CollectorRegistry()
    metrics = MonitorMetrics(registry)
    metrics.show([replace_server(sample(), str(new_session_id())) for _ in range(60)])
    shown = [
        one.labels["server"]
        for family in registry.collect() if family.name == "lucid_rdp_processes"
        for one in family.samples
    ]  # fmt: skip
    assert len(shown) == 51
    assert registry.get_sample_value("lucid_rdp_processes", {"server": "other"}) == 30


def replace_server(one: Sample, server: str) -> Sample:
    return one.model_copy(update={"server": server})
