"""What `lucid record` and the recorder service share: keys, producer, events, progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from agents.platform.contract import load_contract
from agents.platform.eventbus import EventBus
from agents.platform.keys import load_recipients, load_signer
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from agents.session.recorder.leftover import take_up
from agents.session.recorder.order import Order, Outlet, SpoolOrder
from agents.session.recorder.recording import Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.capture import source_of
from schemas.errors import FormatError
from schemas.progress import SessionProgress, read_progress

log = structlog.get_logger(__name__)

NAME = "recorder"
OnProgress = Callable[[SessionProgress], None]


def make_order(
    settings: Settings, section: RecorderSettings, *, owner: str = "", project: str = ""
) -> Order:
    """How to record, with the keys of the keys folder; raises KeyProblem."""
    return Order(
        signer=load_signer(settings, "recorder"),
        recipients=load_recipients(settings),
        host=settings.host,
        owner=owner,
        project=project,
        sealing=section.sealing(),
        keepalive_every=section.keepalive_every,
        spool=SpoolOrder(
            folder=section.spool or settings.home / "spool",
            limit=int(section.spool_limit),
            when_full=section.spool_full,
            sync_every=section.sync_every,
            unacknowledged=int(section.unacknowledged),
        ),
    )


@asynccontextmanager
async def open_outlet(
    settings: Settings, stop: asyncio.Event, metrics: Metrics | None = None
) -> AsyncIterator[Outlet]:
    """A connection to the broker; raises BrokerUnreachable."""
    contract = load_contract(settings)
    frames = contract.topic("session.frames")
    async with Producer(settings, contract.limits, metrics=metrics) as producer:
        partitions = len(await producer.kafka.partitions_for(frames.full_name))
        events = EventBus(producer, contract, service=NAME, host=settings.host, stop=stop)
        yield Outlet(settings, producer, events, frames.full_name, partitions)


async def resume(
    place: Path, order: Order, outlet: Outlet, section: RecorderSettings
) -> Recording | None:
    """Open the session that a spool was left of; None if nothing had been recorded.

    Raises what `take_up` and `Recording.open` raise.
    """
    leftover = await take_up(place, order, outlet)
    if leftover is None:
        return None
    capture = leftover.head.capture
    source = source_of(capture, section) if capture is not None else None
    recording = Recording(source, order, outlet, leftover=leftover)
    await recording.open()
    return recording


async def follow_progress(settings: Settings, on_progress: OnProgress) -> None:
    """Hand over every progress record from now on, until cancelled.

    Progress is shown, and tells of sessions that were ended by others; losing sight of it
    stops no recording, so trouble of the broker is only logged.
    """
    topic = load_contract(settings).topic("session.progress").full_name
    consumer = AIOKafkaConsumer(
        topic, **kafka_options(settings), group_id=None, enable_auto_commit=False,
        auto_offset_reset="latest",
    )  # fmt: skip
    try:
        await consumer.start()
        async for raw in consumer:
            if raw.value is None:
                continue
            with contextlib.suppress(FormatError):  # whose it is will report it
                on_progress(read_progress(raw.value))
    except KafkaError as error:
        log.warning("progress is out of sight", error=error)
    finally:
        await consumer.stop()
