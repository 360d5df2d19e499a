"""`lucid run node-agent`: registers this node, then sends its signed heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from agents.node.agent.figures import look
from agents.node.agent.memory import Memory
from agents.node.agent.registering import Hearing, Node, RegistrationFailed
from agents.node.agent.settings import NodeAgentSettings
from agents.platform.clock import wall_clock
from agents.platform.contract import load_contract
from agents.platform.producer import Producer
from agents.platform.retry import Backoff, Transient, unless_stopped, wait_stopped
from agents.platform.service import Part, Service, StopSignal, run_service
from agents.platform.settings import Settings
from schemas.node_heartbeats import Beat, HeartbeatEvent, HeartbeatSent, sign_beat
from schemas.node_registration import DECIDE_WITHIN

NAME = "node-agent"
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), NodeAgentSettings.load(), build)


class AgentMetrics:
    """Whether the node is taken, and its heartbeats."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.approved = Gauge("lucid_node_approved", "1 once it is approved", registry=registry)
        self.beats = Counter(
            "lucid_node_heartbeats_sent", "Heartbeats on the broker", registry=registry
        )


class Membership:
    """Registers again and again until the node is approved, and hears when it is no more."""

    name = "registration"

    def __init__(self, node: Node, metrics: AgentMetrics) -> None:
        self._node, self._metrics = node, metrics
        self.approved = asyncio.Event()

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set."""
        backoff = Backoff(0.5, 10.0)
        while not stop.is_set():
            pause = self._node.section.again_after
            try:
                async with self._node.hearing() as hearing:
                    await self._belong(hearing, stop)
            except RegistrationFailed as error:
                log.error("not registered", node=self._node.id, error=error)
            except Transient as error:
                pause = backoff.next()
                log.warning("cannot register now", error=error)
            await wait_stopped(stop, pause)

    async def _belong(self, hearing: Hearing, stop: StopSignal) -> None:
        """One registration, from its request to its end. Returns when another is needed."""
        deadline = time.monotonic() + DECIDE_WITHIN / 1e6
        registration = await self._node.request()
        while not stop.is_set() and (self.approved.is_set() or time.monotonic() < deadline):
            for event in await hearing.said():
                found = await hearing.step(event, registration)
                if found is None:
                    continue
                log.info("registration", node=self._node.id, state=found.state,
                         reason=found.reason)  # fmt: skip
                self._set(found.state == "approved")
                if found.state in ("rejected", "expired"):
                    return

    def _set(self, approved: bool) -> None:
        (self.approved.set if approved else self.approved.clear)()
        self._metrics.approved.set(approved)


class Beating:
    """Heartbeats, as long as the node is approved."""

    name = "heartbeats"

    def __init__(
        self, node: Node, memory: Memory, membership: Membership, metrics: AgentMetrics
    ) -> None:
        self._node, self._memory = node, memory
        self._membership, self._metrics = membership, metrics

    async def run(self, stop: StopSignal, /) -> None:
        """Until `stop` is set."""
        while not await wait_stopped(stop, 0):
            if not await _either(self._membership.approved, stop):
                return
            try:
                await unless_stopped(stop, self.beat())
            except Transient as error:
                # The next one says the same, and newer: this one is not sent again.
                log.warning("a heartbeat is left out", error=error)
            await wait_stopped(stop, self._node.section.every)

    async def beat(self) -> HeartbeatSent:
        """One heartbeat. Raises Transient."""
        node, now = self._node, wall_clock()
        counter, work = await asyncio.to_thread(self._memory.next_beat, now)
        figures = await asyncio.to_thread(
            look, node.settings.home, node.section.sessions_folder(node.settings)
        )
        sent = sign_beat(
            node.signer,
            Beat(node=node.id, counter=counter, time=now, figures=figures, work=work),
        )
        await node.send(HeartbeatEvent, "node.heartbeats", sent)
        self._metrics.beats.inc()
        return sent


async def _either(wanted: asyncio.Event, stop: StopSignal) -> bool:
    """Waits for one of two; whether it is the wanted one."""
    waiting = [asyncio.create_task(one.wait()) for one in (wanted, stop)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return not stop.is_set()


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The agent's parts: its registration and its heartbeats."""
    settings, section = service.settings, service.section
    assert isinstance(section, NodeAgentSettings)
    contract = load_contract(settings)
    async with Producer(settings, contract.limits, metrics=service.metrics) as producer:
        node = Node.load(settings, section, contract, producer)
        memory = Memory(settings.home / "node" / f"{node.id}.json", section.work_folder(settings))
        metrics = AgentMetrics(service.metrics.registry)
        membership = Membership(node, metrics)
        log.info("this node", id=node.id, key=str(node.signer.verifier))
        yield [membership, Beating(node, memory, membership, metrics)]
