"""`lucid run storage`: chunks and manifests in; files, catalog entries and events out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import structlog
from aiokafka import TopicPartition

from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.contract import load_contract
from agents.platform.dataplane import Fail, Runner
from agents.platform.deadletters import open_letters
from agents.platform.diskroom import DiskGuard
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.service import Part, Service, run_service, spare_collector
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from agents.session.storage.keeper import Keeper
from agents.session.storage.metrics import StorageMetrics
from agents.session.storage.rounds import make_scrub
from agents.session.storage.settings import StorageSettings
from agents.session.storage.worker import Shared, StorageWorker, Trouble

NAME = "storage"
log = structlog.get_logger(__name__)


def main() -> int:
    """Run the service; returns its exit status."""
    return run_service(NAME, Settings.load(), StorageSettings.load(), build)


@asynccontextmanager
async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
    """Storage's parts: its runner over chunks and manifests, and the scrub of what it stored."""
    settings, section = service.settings, service.section
    assert isinstance(section, StorageSettings)
    contract = load_contract(settings)
    blobs = Blobs(settings.blobs_dir)
    settings.blobs_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if leftovers := blobs.sweep():
        log.info("removed unfinished files of a crash", files=leftovers)
    async with (
        Catalog(settings) as catalog,
        Producer(settings, contract.limits, metrics=service.metrics) as producer,
    ):
        await service.wait_until(catalog.prepare)
        letters = open_letters(service, producer, contract)
        events = EventBus(producer, contract, service=NAME, host=settings.host, stop=service.stop)
        trouble = Trouble()
        service.health.add("catalog", catalog.ping, timeout=6.0)
        service.health.add("store", trouble.check)
        guard = DiskGuard(
            settings.blobs_dir, stop=int(settings.min_free), resume=settings.resume_at,
            registry=service.metrics.registry,
        )  # fmt: skip
        service.health.add("blobs", guard.check)
        with (
            ThreadPoolExecutor(section.threads, thread_name_prefix="store") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="scrub") as scrub_pool,
        ):
            keeper = Keeper(blobs, catalog, pool, StorageMetrics(service.metrics.registry))
            manifests = contract.topic("session.manifests").full_name
            shared = Shared(keeper, events, letters, manifests, trouble, service.stop)

            def make_worker(
                partition: TopicPartition, committed: int | None, fail: Fail
            ) -> StorageWorker:
                return StorageWorker(partition, shared, fail)

            runner = Runner(
                kafka=kafka_options(settings),
                group=f"{settings.topic_prefix}{NAME}",
                topics=[contract.topic("session.chunks").full_name, manifests],
                make_worker=make_worker,
                busy_limit=int(section.busy_limit),
                fetch_bytes=int(section.fetch_bytes),
                metrics=service.metrics,
                gate=guard.gate,
            )
            service.health.add("runner", runner.healthy)
            registry = service.metrics.registry
            scrub = make_scrub(settings, section, catalog, events, registry, scrub_pool)
            spare_collector()
            yield [runner, scrub]
