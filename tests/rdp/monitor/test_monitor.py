"""The monitor on the real broker: samples, alerts, restarts, a broker that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.producer import Producer
from agents.platform.service import Service, make_service, serve
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.monitor.agent import build
from agents.rdp.monitor.known import TOPICS
from agents.rdp.monitor.processes import Ref
from agents.rdp.monitor.rounds import open_alerts
from agents.rdp.monitor.settings import MonitorSettings
from schemas.envelope import Event
from schemas.rdp_config import DesiredServer, Limits, ServerConfig, XrdpConfigEvent
from schemas.rdp_metrics import Alert, AlertEvent, AlertRaised, AlertResolved, MetricsEvent
from schemas.rdp_metrics import ServerMetrics as Sample
from schemas.rdp_processes import ProcessChanged, ProcessRef, ServerPids, XrdpProcessEvent
from schemas.rdp_session_events import RdpSessionChanged, RdpSessionEvent
from schemas.sessions import new_session_id
from tests.conftest import Stack
from tests.rdp.monitor.trees import Tree, a_tree
from tests.waiting import until

pytestmark = pytest.mark.stack
HOST = "desk7"
ITS_TOPICS = (*TOPICS, "rdp.metrics", "rdp.alerts")
QUICK = {
    "every": 0.2, "raise_after": 0.2, "resolve_after": 0.2, "memory_over": 5.0, "hysteresis": 1.0,
}  # fmt: skip


@dataclass
class House:
    """A broker's topics of their own, and servers that are told of on them."""

    settings: Settings
    contract: Contract
    producer: Producer
    seq: int = 0
    servers: list[str] = field(default_factory=list)

    async def send(self, topic: str, event: Event) -> None:
        await self.producer.send_event(self.contract.topic(topic).full_name, event)

    async def configure(self, server: str, **limits: Any) -> None:
        wanted = DesiredServer(
            server=server, name="support", host=HOST, version=1, desired="running", restarts=0,
            port=13389, config=ServerConfig(limits=Limits(**limits)),
        )  # fmt: skip
        await self.send("xrdp.config.events", XrdpConfigEvent(wanted, "lucid/test/h", server))

    async def change(self, server: str, *roots: Ref, host: str = HOST, state: Any = "running",
                     folder: str = "") -> None:  # fmt: skip
        self.seq += 1
        refs = [ProcessRef(pid=one.pid, started=one.started) for one in roots]
        pids = ServerPids(**dict(zip(("xrdp", "sesman"), refs, strict=False)))
        change = ProcessChanged(
            server=server, host=host, seq=self.seq, version=1, restarts=0, state=state, port=13389,
            pids=pids, attempt=1, folder=folder,
        )  # fmt: skip
        await self.send("xrdp.process.events", XrdpProcessEvent(change, "lucid/test/h", server))

    async def session(
        self, server: str, session: str, seq: int, root: Ref, state: Any = "active"
    ) -> None:
        ref = ProcessRef(pid=root.pid, started=root.started)
        data = RdpSessionChanged(
            session=session, seq=seq, server=server, host=HOST, user="ada", uid=2**31,
            display=":4790", leader=ref, xorg=ref, state=state, created=1, changed=1,
        )  # fmt: skip
        await self.send("rdp.session.events", RdpSessionEvent(data, "lucid/test/h", session))

    async def read(self, topic: str, kind: type[Event]) -> list[Any]:
        full = self.contract.topic(topic).full_name
        return [
            kind.from_kafka(one.key, one.headers, one.value).data
            async for one in read_topic(self.settings, full)
        ]

    async def samples(self) -> list[Sample]:
        return await self.read("rdp.metrics", MetricsEvent)

    async def alerts(self) -> list[Alert]:
        return await self.read("rdp.alerts", AlertEvent)


@pytest.fixture
async def house(stack: Stack, tmp_path: Path) -> AsyncIterator[House]:
    name = f"mon{uuid4().hex[:8]}"
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, mongo=stack.mongo, database=name, host=HOST,
        topic_prefix=f"{name}.",
    )  # fmt: skip
    contract = load_contract(settings)
    # Topics take most of the time; `serve` compares all of them, unless it is told not to.
    await apply_contract(settings, Contract({name: contract.topic(name) for name in ITS_TOPICS}))
    async with Producer(settings, contract.limits) as producer:
        yield House(settings, contract, producer)


@asynccontextmanager
async def with_some_topics(service: Service) -> AsyncIterator[None]:
    """In the place of the comparison with the whole contract."""
    yield


@asynccontextmanager
async def monitor(house: House, **section: Any) -> AsyncIterator[Service]:
    """The service, from ready to stopped."""
    service = make_service("rdp-monitor", house.settings, MonitorSettings(
        **{"port": 0, **QUICK, **section}))  # fmt: skip
    task = asyncio.create_task(serve(service, build, prepare=with_some_topics))
    try:
        async with asyncio.timeout(30):
            while (await service.health.readiness())[0] != 200 and not task.done():
                await asyncio.sleep(0.05)
        assert not task.done()
        yield service
    finally:
        service.stop.set()
        status = await asyncio.wait_for(task, 20)
    assert status == 0


def new_id() -> str:
    return str(new_session_id())


@pytest.fixture
def roots() -> Any:
    with a_tree(children=1) as one, a_tree() as other:
        yield one, other


async def test_servers_of_this_host_are_measured_and_no_others(
    house: House, roots: tuple[Tree, Tree]
) -> None:
    mine, elsewhere, ended = new_id(), new_id(), new_id()
    await house.configure(mine, cpu=2, memory_mb=512, disk_gb=1)
    await house.change(ended, roots[1].ref)
    await house.change(ended, state="stopped")
    await house.change(elsewhere, roots[1].ref, host="other")
    await house.change(mine, roots[0].ref, folder=str(house.settings.home))
    async with monitor(house) as service:

        async def measured() -> list[Sample]:
            found = await house.samples()
            return found if found and found[-1].usage.disk is not None else []

        samples = await until(measured)
        assert {one.server for one in samples} == {mine}
        newest = samples[-1]
        assert newest.host == HOST
        assert newest.usage.processes == 2
        assert newest.limits is not None
        assert newest.limits.memory == 512 * 1024**2
        text = service.metrics.exposition().decode()
        assert f'lucid_rdp_processes{{server="{mine}"}} 2.0' in text
        assert f'lucid_rdp_sessions{{server="{mine}"}} 0.0' in text
        await house.change(mine, state="stopped")

        async def gone() -> bool:
            return b"lucid_rdp_processes{" not in service.metrics.exposition()

        await until(gone)


async def test_sessions_are_measured_as_long_as_they_last(
    house: House, roots: tuple[Tree, Tree]
) -> None:
    server, session = new_id(), new_id()
    desktop, xrdp = roots
    await house.change(server, xrdp.ref)
    await house.session(server, session, 0, desktop.ref)
    async with monitor(house):

        async def measured(*wanted: str) -> bool:
            found = await house.samples()
            return bool(found) and [one.session for one in found[-1].sessions] == [*wanted]

        await until(lambda: measured(session))
        newest = (await house.samples())[-1]
        assert newest.sessions[0].usage.processes == 2
        assert newest.usage.processes == 3
        assert newest.limits is None
        await house.session(server, session, 1, desktop.ref, state="terminated")
        await house.session(server, session, 0, desktop.ref)
        await until(measured)


async def test_an_alert_is_raised_goes_on_over_restarts_and_is_resolved_once(
    house: House, roots: tuple[Tree, Tree]
) -> None:
    tree, _ = roots
    server = new_id()
    await house.configure(server, memory_mb=512)
    await house.change(server, tree.ref)
    tree.tell(f"hold {64 * 1024**2}")

    async def raised() -> list[Alert]:
        return await house.alerts()

    async with monitor(house) as service:
        (first,) = await until(raised)
        assert isinstance(first, AlertRaised)
        assert (first.server, first.metric, first.severity) == (server, "memory", "warning")
        assert first.percent > 12
        assert b'lucid_rdp_alerts_open{metric="memory"} 1.0' in service.metrics.exposition()
    before = len(await house.samples())
    async with monitor(house) as service:

        async def more() -> bool:
            return len(await house.samples()) >= before + 5

        await until(more)
        assert await house.alerts() == [first]
        assert b'lucid_rdp_alerts_open{metric="memory"} 1.0' in service.metrics.exposition()
    await house.change(server, state="stopped")
    async with monitor(house):

        async def resolved() -> list[Alert]:
            found = await house.alerts()
            return found if len(found) > 1 else []

        found = await until(resolved)
    assert [type(one) for one in found] == [AlertRaised, AlertResolved]
    assert (found[1].id, found[1].resolution) == (first.id, "ended")
    topic = house.contract.topic("rdp.alerts").full_name
    assert await open_alerts(house.settings, topic, HOST) == []


async def test_a_record_that_is_no_event_is_passed_over_and_counted(
    house: House, roots: tuple[Tree, Tree]
) -> None:
    server = new_id()
    for topic in ("xrdp.process.events", "rdp.alerts"):
        full = house.contract.topic(topic).full_name
        await house.producer.send(full, b"{}", key=b"x", headers=[])
    await house.change(server, roots[1].ref)
    async with monitor(house) as service:
        await until(house.samples)
        text = service.metrics.exposition().decode()
        assert 'lucid_rdp_records_passed_over_total{topic="xrdp.process.events"} 1.0' in text
