"""A processor's partitions on a real broker: taken over, overtaken by retention, given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest
from aiokafka import ConsumerRecord
from prometheus_client import CollectorRegistry

from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.dataplane import Runner
from agents.platform.deadletters import DeadLetters
from agents.platform.eventbus import EventBus
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer
from agents.platform.retry import BrokerUnreachable
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.tls import kafka_options
from agents.platform.topic_reader import read_topic
from agents.session.processor.holding import HoldingBudget
from agents.session.processor.metrics import ProcessorMetrics
from agents.session.processor.outlet import Outlet
from agents.session.processor.worker import FramesWorker, Shared
from schemas.canonical import Strict, encode
from schemas.controls import Abandon
from schemas.deadletters import from_kafka as letter_from_kafka
from schemas.events import RecordsExpired, SessionOpened, SessionUnsealed, event_from_kafka
from schemas.frames import FrameRecord, Kind, to_kafka
from schemas.manifests import Manifest, read_manifest
from schemas.stored import ChunkRecord
from tests.conftest import Stack
from tests.factories import PROCESSOR as SIGNER
from tests.platform.topics import committed, expire
from tests.session.processor.test_sealing import PROCESSOR, make_log, seal

PARTITION = 3
Raw: TypeAlias = ConsumerRecord[bytes, bytes]


class Processing:
    """Topics of a test's own, and processors on them."""

    def __init__(self, settings: Settings, contract: Contract, producer: Producer) -> None:
        self.settings, self.contract, self.producer = settings, contract, producer

    def topic(self, name: str) -> str:
        return self.contract.topic(name).full_name

    def outlet(self) -> Outlet:
        events = EventBus(self.producer, self.contract, service="processor", host="h")
        letters = DeadLetters(self.producer, topic=self.topic("dead.letters"), service="processor")
        return Outlet(
            self.producer, letters, events, self.contract, kafka_options(self.settings), SIGNER
        )

    @asynccontextmanager
    async def running(self, **options: int) -> AsyncIterator[Runner]:
        """A processor, until the block is left."""
        registry = CollectorRegistry()
        holding = HoldingBudget(10**8, self.settings.scratch_dir)
        with ThreadPoolExecutor(2) as pool:
            shared = Shared(
                self.outlet(), [PROCESSOR.secret], pool, holding,
                ProcessorMetrics(registry, holding),
            )  # fmt: skip
            runner = Runner(
                kafka=kafka_options(self.settings), group=f"{self.settings.topic_prefix}p",
                topics=[self.topic("session.frames")], busy_limit=10**8, fetch_bytes=10**6,
                make_worker=lambda place, _, fail: FramesWorker(place, shared, fail),
                metrics=Metrics("processor", version="0"),
                consumer_options={"heartbeat_interval_ms": 500, **options},
            )  # fmt: skip
            stop = StopSignal()
            task = asyncio.create_task(runner.run(stop))
            try:
                yield runner
            finally:
                stop.set()
                await asyncio.wait_for(task, 20)

    async def feed(self, records: Sequence[FrameRecord]) -> int:
        """Put records into the partition; the last one's offset."""
        offset = -1
        for record in records:
            key, headers, value = to_kafka(record)
            sent = await self.producer.send(
                self.topic("session.frames"), value, key=key, headers=[*headers],
                partition=PARTITION,
            )  # fmt: skip
            offset = sent.offset
        return offset

    async def read(self, name: str, enough: Callable[[list[Raw]], bool]) -> list[Raw]:
        """All records of a topic, once there are enough."""
        async with asyncio.timeout(30):
            while True:
                found = [raw async for raw in read_topic(self.settings, self.topic(name))]
                if enough(found):
                    return found

    async def manifest(self) -> Manifest:
        (raw, *_) = await self.read("session.manifests", lambda found: len(found) > 0)
        assert raw.value is not None
        return read_manifest(raw.value)

    async def chunks(self) -> dict[int, set[bytes]]:
        """Bytes of the chunks by their index; more than one where they differ."""
        found: dict[int, set[bytes]] = {}
        for raw in await self.read("session.chunks", _last_chunk):
            chunk = ChunkRecord.from_kafka(raw.key, raw.headers, raw.value).chunk
            found.setdefault(chunk.header.index, set()).add(chunk.data)
        return found

    async def events(self, kind: type[Strict], count: int) -> list[Strict]:
        def those(raws: list[Raw]) -> list[Strict]:
            events = [event_from_kafka(raw.key, raw.headers, raw.value).data for raw in raws]
            return [data for data in events if isinstance(data, kind)]

        return those(await self.read("session.events", lambda raws: len(those(raws)) >= count))

    async def letters(self, count: int) -> list[str]:
        raws = await self.read("dead.letters", lambda found: len(found) >= count)
        return [letter_from_kafka(raw.key, raw.headers, raw.value).code for raw in raws]

    async def committed(self) -> int:
        group = f"{self.settings.topic_prefix}p"
        found = await committed(self.settings, group, self.topic("session.frames"))
        return found.get(PARTITION, 0)


def _last_chunk(raws: list[Raw]) -> bool:
    chunks = [ChunkRecord.from_kafka(raw.key, raw.headers, raw.value).chunk for raw in raws]
    return any(chunk.header.last for chunk in chunks)


@pytest.fixture
async def processing(stack: Stack, tmp_path: Path) -> AsyncIterator[Processing]:
    settings = Settings.load(home=tmp_path, kafka=stack.kafka, topic_prefix=f"w{uuid4().hex[:8]}.")
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Producer(settings, contract.limits) as producer:
        yield Processing(settings, contract, producer)


def abandon(log: Sequence[FrameRecord]) -> FrameRecord:
    payload = encode(Abandon(reason="silence", by="test", last_seen=1))
    return FrameRecord(log[0].session, Kind.ABANDON, -1, log[-1].time, b"", payload)


async def test_records_that_come_again_after_the_end_are_duplicates(
    processing: Processing,
) -> None:
    log = make_log(seed=1)
    async with processing.running():
        await processing.feed(log)
        manifest = await processing.manifest()
        last = await processing.feed([*log[5:], abandon(log)])
    async with processing.running():
        # Also for a member that only knows of the session by its progress.
        last = await processing.feed([*log[5:], abandon(log)])
        stranger = make_log(seed=2)
        last = await processing.feed([stranger[1], abandon(stranger)])
        assert await processing.letters(1) == ["NoOpenRecord"]
        (unsealed,) = await processing.events(SessionUnsealed, 1)
    assert unsealed == SessionUnsealed(
        session=str(stranger[0].session), partition=PARTITION, offset=last
    )
    assert await processing.committed() == last + 1
    (told, *_) = await processing.events(SessionOpened, 1)
    assert isinstance(told, SessionOpened)
    assert (told.session, told.partition, told.offset) == (manifest.session, PARTITION, 0)
    assert told.started == log[0].time
    assert [*(await processing.chunks()).values()] == [{data} for data in seal(log).chunks]


async def test_records_that_expired_are_reported_for_their_session_and_named_in_its_manifest(
    processing: Processing,
) -> None:
    log = make_log(seed=3)
    half = len(log) // 2
    async with processing.running():
        await processing.feed(log[:half])
        await processing.read("session.chunks", lambda found: len(found) >= 2)
    committed = await processing.committed()
    assert 0 < committed < half
    await processing.feed(log[half:])
    await expire(processing.settings, processing.topic("session.frames"), PARTITION, committed + 7)
    async with processing.running():
        manifest = await processing.manifest()
        events = await processing.events(RecordsExpired, 2)
    session, place = str(log[0].session), (PARTITION, committed, committed + 7)
    found = {
        (one.session, one.next_seq): (one.partition, one.first_offset, one.next_offset)
        for one in events
        if isinstance(one, RecordsExpired)
    }
    assert found == {(session, committed): place, (None, None): place}
    (run,) = manifest.tally.missing_ranges
    assert (run.first_seq, run.count) == (committed, 7)
    assert manifest.ended_by == "close"


async def test_a_record_that_comes_late_is_a_dead_letter(processing: Processing) -> None:
    log = make_log(seed=4)
    async with processing.running():
        await processing.feed([*log[:3], *log[6:20], log[4], *log[20:]])
        manifest = await processing.manifest()
        assert await processing.letters(1) == ["LateRecord"]
    assert [(run.first_seq, run.count) for run in manifest.tally.missing_ranges] == [(3, 3)]
    assert [*(await processing.chunks()).values()] == [
        {data} for data in seal([*log[:3], *log[6:]]).chunks
    ]


async def test_a_member_that_was_thrown_out_changes_nothing(processing: Processing) -> None:
    """As after SIGSTOP and SIGCONT: it goes on with what it held until it hears the truth."""
    log = make_log(60, seed=5)
    async with processing.running(heartbeat_interval_ms=600_000):
        await processing.feed(log[:20])
        await processing.read("session.chunks", lambda found: len(found) >= 2)
        async with processing.running() as owner:
            async with asyncio.timeout(20):
                while len(owner.assigned) < 8:
                    await asyncio.sleep(0.05)
            await processing.feed(log[20:])
            manifest = await processing.manifest()
    assert manifest.next_seq == len(log)
    assert [*(await processing.chunks()).values()] == [{data} for data in seal(log).chunks]
    assert await processing.committed() == len(log)


async def test_progress_of_a_broker_that_is_away_is_an_error_in_time(
    processing: Processing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = processing.outlet()
    monkeypatch.setitem(outlet._kafka, "bootstrap_servers", "127.0.0.1:9")
    with pytest.raises(BrokerUnreachable, match="progress of partition 3"):
        await outlet.read_progress(PARTITION)
