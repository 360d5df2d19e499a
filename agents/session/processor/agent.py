"""`lucid run processor`: frame records in; chunks, manifests and progress out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from agents.platform.contract import load_contract
from agents.platform.dataplane import Fail, Runner
from agents.platform.deadletters import open_letters
from agents.platform.diskroom import DiskGuard
from agents.platform.eventbus import EventBus
from agents.platform.keys import load_identities, load_signer
from agents.platform.producer import Producer
from agents.platform.service import Part, Service, run_service, spare_collector
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from agents.session.processor.holding import HoldingBudget
from agents.session.processor.metrics import ProcessorMetrics
from agents.session.processor.outlet import Outlet
from agents.session.processor.settings import ProcessorSettings
from agents.session.processor.worker import FramesWorker, Shared

NAME = "processor"

COLLECT_AFTER = 2_000
"""New objects after which the collector looks through them: cycles may hold records."""


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), ProcessorSettings.load(), build)


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """The processor's one part: its runner over `session.frames`."""
    settings, section = service.settings, service.section
    assert isinstance(section, ProcessorSettings)
    identities = load_identities(section.identity or settings.keys_dir / "processor.age")
    signer = load_signer(settings, "processor")
    contract = load_contract(settings)
    async with Producer(settings, contract.limits, metrics=service.metrics) as producer:
        letters = open_letters(service, producer, contract)
        events = EventBus(producer, contract, service=NAME, host=settings.host, stop=service.stop)
        outlet = Outlet(producer, letters, events, contract, kafka_options(settings), signer)
        service.stop.on_set.append(outlet.close)
        guard = DiskGuard(
            settings.scratch_dir, stop=int(settings.min_free), resume=settings.resume_at,
            registry=service.metrics.registry,
        )  # fmt: skip
        holding = HoldingBudget(int(section.hold_limit), settings.scratch_dir, guard.has_room)
        service.health.add("scratch", holding.check)
        metrics = ProcessorMetrics(service.metrics.registry, holding)
        with ThreadPoolExecutor(section.threads, thread_name_prefix="seal") as pool:
            shared = Shared(outlet, identities, pool, holding, metrics)

            def make_worker(
                partition: TopicPartition, committed: int | None, fail: Fail
            ) -> FramesWorker:
                return FramesWorker(partition, shared, fail)

            runner = Runner(
                kafka=kafka_options(settings),
                group=f"{settings.topic_prefix}{NAME}",
                topics=[contract.topic("session.frames").full_name],
                make_worker=make_worker,
                busy_limit=int(section.busy_limit),
                fetch_bytes=int(section.fetch_bytes),
                metrics=service.metrics,
                gate=holding.gate,
            )
            service.health.add("runner", runner.healthy)
            spare_collector(COLLECT_AFTER)
            yield [runner]
