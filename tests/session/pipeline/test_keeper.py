"""Sessions in the real catalog: settled when all is counted, given up when silent, written once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer

from agents.platform.catalog import Catalog
from agents.platform.contract import apply_contract, load_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.session.pipeline.keeper import NotYet, SessionKeeper, Topics
from agents.session.pipeline.reconciliation import StoredChunk, reconcile
from agents.session.pipeline.states import SessionState
from schemas.canonical import Strict
from schemas.events import (
    ChunkStored,
    ManifestStored,
    ScrubFinding,
    SessionClosed,
    SessionEvent,
    SessionOpened,
)
from schemas.frames import Kind, from_kafka
from schemas.manifests import manifest_hash
from schemas.notes import Signer, Verifier
from tests.conftest import Stack
from tests.factories import PROCESSOR, RECORDER, MadeSession, make_session

FOREIGN = Signer("foreign.example/one", b"\x07" * 32)

SECOND = 1_000_000
BEGIN = 1_800_000_000 * SECOND


@pytest.fixture
async def keeper(stack: Stack, tmp_path: Path) -> AsyncIterator[SessionKeeper]:
    mark = uuid4().hex[:8]
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, mongo=stack.mongo, database=f"s{mark}",
        topic_prefix=f"s{mark}.",
    )  # fmt: skip
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        events = EventBus(producer, contract, service="pipeline", host="h")
        topics = Topics(
            contract.topic("session.frames").full_name, contract.topic("session.anchors").full_name
        )
        yield SessionKeeper(catalog, producer, events, topics, "h", clock=lambda: BEGIN)


def event(made: MadeSession, data: Strict) -> SessionEvent:
    return SessionEvent(data, "lucid/test/h", made.manifest.session,
                        time=datetime.fromtimestamp(BEGIN / SECOND, UTC))  # fmt: skip


def opened(made: MadeSession) -> SessionEvent:
    return event(made, SessionOpened(
        session=made.manifest.session, partition=2, offset=0, host="desk", recorder="r",
        codec="bytes/1", source={}, started=BEGIN,
    ))  # fmt: skip


def closed(made: MadeSession) -> SessionEvent:
    return event(made, SessionClosed(
        session=made.manifest.session, next_seq=made.manifest.next_seq, raw_bytes=1, reason="done",
    ))  # fmt: skip


async def store(keeper: SessionKeeper, made: MadeSession, *, but: int = -1) -> list[SessionEvent]:
    """Put a session into the catalog as storage does; its events."""
    session, found = made.manifest.session, []
    for chunk in made.chunks:
        header = chunk.header
        if header.index != but:
            await keeper.catalog.insert("chunks", {
                "_id": f"{session}:{header.index}", "session": session, "index": header.index,
                "leaf": chunk.leaf.hex(), "size": len(chunk.data), "records": header.records,
                "missing": header.missing, "first_seq": header.first_seq,
                "next_seq": header.next_seq, "raw_size": header.raw_size,
            })  # fmt: skip
        found.append(event(made, ChunkStored(
            session=session, index=header.index, leaf=chunk.leaf.hex(), size=len(chunk.data),
            records=header.records, missing=header.missing, last=header.last,
        )))  # fmt: skip
    await keeper.catalog.insert("manifests", {
        "_id": session, "manifest": made.manifest_bytes.decode(), "checkpoint": made.checkpoint,
        "hash": manifest_hash(made.manifest_bytes).hex(),
    })  # fmt: skip
    digest = manifest_hash(made.manifest_bytes).hex()
    return [*found, event(made, ManifestStored(session=session, manifest_hash=digest))]


async def read_all(keeper: SessionKeeper, topic: str, stack: Stack) -> list[object]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=stack.kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        batches = await consumer.getmany(timeout_ms=5000)
        return [raw for batch in batches.values() for raw in batch]
    finally:
        await consumer.stop()


async def test_a_session_is_completed_and_anchored_once_everything_is_counted(
    keeper: SessionKeeper, stack: Stack
) -> None:
    made = make_session()
    for one in [opened(made), *await store(keeper, made), closed(made)]:
        state = await keeper.handle(one)
    assert (state.state, state.shortcomings, state.root) == ("completed", [], made.manifest.root)
    assert await keeper.load(made.manifest.session) == state
    for one in (opened(made), closed(made)):
        assert await keeper.handle(one) == state
    anchors = await read_all(keeper, keeper.topics.anchors, stack)
    assert len(anchors) == 1


async def test_a_session_with_a_hole_is_incomplete_and_says_where(keeper: SessionKeeper) -> None:
    made = make_session(drop=[3, 4], seed=2)
    for one in [opened(made), closed(made), *await store(keeper, made)]:
        state = await keeper.handle(one)
    assert state.state == "incomplete"
    assert any("3" in line for line in state.shortcomings)


@pytest.mark.parametrize(
    ("trusted", "found"),
    [
        ([PROCESSOR.verifier], ""),
        ([RECORDER.verifier, PROCESSOR.verifier], ""),
        ([RECORDER.verifier], ""),
        ([], ""),
        ([FOREIGN.verifier, RECORDER.verifier], "trusted.txt"),
        ([Signer(PROCESSOR.name, FOREIGN.seed).verifier], "trusted.txt"),
    ],
)
def test_a_checkpoint_of_an_unknown_processor_is_a_shortcoming(
    trusted: list[Verifier], found: str
) -> None:
    made = make_session()
    state = SessionState(session=made.manifest.session)
    chunks = [
        StoredChunk(
            one.header.index, one.leaf, len(one.data), one.header.first_seq, one.header.next_seq,
            one.header.records, one.header.missing, one.header.raw_size,
        )
        for one in made.chunks
    ]  # fmt: skip
    sentences = reconcile(
        state, made.manifest, made.manifest_bytes, made.checkpoint, chunks, trusted
    )
    assert len(sentences) == (1 if found else 0)
    assert found in "".join(sentences)


async def test_an_entry_that_is_not_there_yet_is_waited_for(keeper: SessionKeeper) -> None:
    made = make_session(seed=3)
    *events, manifest = await store(keeper, made, but=1)
    for one in [opened(made), closed(made), *events]:
        await keeper.handle(one)
    with pytest.raises(NotYet):
        await keeper.handle(manifest)
    assert (await keeper.load(made.manifest.session)).state == "processing"


async def test_two_pipelines_do_not_overwrite_each_other(keeper: SessionKeeper) -> None:
    made = make_session(seed=4)
    state = await keeper.handle(opened(made))
    stale = state.model_copy(update={"version": 0})
    with pytest.raises(NotYet):
        await keeper._write(stale)


async def test_only_a_silent_session_is_abandoned_and_only_once(
    keeper: SessionKeeper, stack: Stack
) -> None:
    made = make_session(seed=5)
    await keeper.handle(opened(made))
    session = made.manifest.session
    later = replace(keeper, clock=lambda: BEGIN + 60 * SECOND)
    assert await later.abandon_silent(61 * SECOND, 0) == []
    assert await later.abandon_silent(60 * SECOND, BEGIN + SECOND) == []
    assert await later.abandon_silent(60 * SECOND, 0) == [session]
    raws = await read_all(keeper, keeper.topics.frames, stack)
    (raw,) = raws
    record = from_kafka(raw.key, raw.headers, raw.value)  # type: ignore[attr-defined]
    assert (record.kind, str(record.session)) == (Kind.ABANDON, session)
    assert raw.partition == 2  # type: ignore[attr-defined]


async def test_a_closed_session_whose_close_record_was_lost_is_ended_after_more_patience(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=6)
    for one in (opened(made), closed(made)):
        await keeper.handle(one)
    soon = replace(keeper, clock=lambda: BEGIN + 90 * SECOND)
    late = replace(keeper, clock=lambda: BEGIN + 100 * SECOND)
    assert await soon.abandon_silent(10 * SECOND, 0) == []
    assert await late.abandon_silent(10 * SECOND, 0) == [made.manifest.session]


async def test_a_finding_makes_no_session_of_a_stray_folder(keeper: SessionKeeper) -> None:
    made = make_session()
    finding = event(made, ScrubFinding(
        session=made.manifest.session, name="00000000.chunk", index=0, verdict="CatalogMissing",
        expected="an entry", found="none",
    ))  # fmt: skip
    await keeper.handle(finding)
    assert await keeper.catalog.get("sessions", made.manifest.session) is None
    await keeper.handle(opened(made))
    await keeper.handle(finding)
    assert (await keeper.load(made.manifest.session)).damaged == ["00000000.chunk"]
