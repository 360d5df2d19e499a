"""Sessions in the real catalog: settled when all is counted, given up when silent, written once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer

from agents.platform.broker import BrokerProbe
from agents.platform.catalog import Catalog
from agents.platform.contract import apply_contract, load_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.projections import wall_clock
from agents.platform.settings import Settings
from agents.session.pipeline.agent import Watch
from agents.session.pipeline.keeper import NotYet, SessionKeeper, Topics
from agents.session.pipeline.reconciliation import StoredChunk, reconcile
from agents.session.pipeline.settings import PipelineSettings
from agents.session.pipeline.states import SessionState
from agents.session.pipeline.transitions import ImpossibleTransition
from schemas.canonical import Strict
from schemas.events import (
    ManifestStored,
    RecordsExpired,
    ScrubFinding,
    SessionAbandoned,
    SessionClosed,
    SessionEvent,
    SessionHeartbeat,
    SessionOpened,
    SessionUnsealed,
    chunk_stored,
)
from schemas.frames import Kind, from_kafka
from schemas.manifests import manifest_hash
from schemas.notes import Signer, Verifier
from tests.conftest import Stack
from tests.e2e.forwarder import Forwarder
from tests.factories import PROCESSOR, RECORDER, MadeSession, make_session

FOREIGN = Signer("foreign.example/one", b"\x07" * 32)

SECOND = 1_000_000
HOUR = 3600 * SECOND
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
                "next_seq": header.next_seq, "raw_size": header.raw_size, "last": header.last,
            })  # fmt: skip
        found.append(event(made, chunk_stored(header, chunk.leaf, len(chunk.data))))
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
    assert await later.look_after(61 * SECOND, HOUR, 0) == []
    assert await later.look_after(60 * SECOND, HOUR, BEGIN + SECOND) == []
    assert await later.look_after(60 * SECOND, HOUR, 0) == [session]
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
    assert await soon.look_after(10 * SECOND, HOUR, 0) == []
    assert await late.look_after(10 * SECOND, HOUR, 0) == [made.manifest.session]


# -- what never arrives ----------------------------------------------------------------------


def expired(
    topic: str, *, partition: int = 2, first: int = 0, session: str | None = None
) -> SessionEvent:
    return SessionEvent(
        RecordsExpired(
            session=session, topic=topic, partition=partition, first_offset=first,
            next_offset=first + 5, next_seq=7 if session else None,
        ),
        "lucid/test/h", session or f"{topic}/{partition}",
    )  # fmt: skip


def at(keeper: SessionKeeper, seconds: int) -> SessionKeeper:
    return replace(keeper, clock=lambda: BEGIN + seconds * SECOND)


async def test_a_chunk_that_never_reached_storage_is_named_and_may_still_come(
    keeper: SessionKeeper, stack: Stack
) -> None:
    made = make_session(seed=10)
    session = made.manifest.session
    stored = await store(keeper, made, but=1)
    for one in [opened(made), closed(made), *stored[:1], *stored[2:]]:
        await keeper.handle(one)
    assert await keeper.handle(expired("session.chunks", partition=1)) is None
    assert await at(keeper, 99).look_after(60 * SECOND, HOUR, 0) == []
    assert await keeper.handle(expired("session.chunks")) is None
    assert await at(keeper, 59).look_after(60 * SECOND, HOUR, 0) == []
    assert await at(keeper, 60).look_after(60 * SECOND, HOUR, 0) == [session]
    state = await keeper.load(session)
    assert state.state == "incomplete"
    assert state.shortcomings == [
        "offsets 0 to 4 of partition 2 of session.chunks expired before they were read",
        f"chunk 1 of {made.manifest.chunks} is not stored",
    ]
    assert await at(keeper, 999).look_after(60 * SECOND, HOUR, 0) == []
    header = made.chunks[1].header
    await keeper.catalog.insert("chunks", {
        "_id": f"{session}:1", "session": session, "index": 1, "leaf": made.chunks[1].leaf.hex(),
        "size": len(made.chunks[1].data), "records": header.records, "missing": header.missing,
        "first_seq": header.first_seq, "next_seq": header.next_seq, "raw_size": header.raw_size,
        "last": header.last,
    })  # fmt: skip
    after = await keeper.handle(stored[1])
    assert after is not None
    assert (after.state, after.shortcomings) == ("completed", [])
    assert await keeper.handle(stored[1]) == after
    assert len(await read_all(keeper, keeper.topics.anchors, stack)) == 1


async def test_without_any_loss_told_the_last_patience_ends_a_session(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=11)
    stored = await store(keeper, made, but=1)
    for one in [opened(made), closed(made), *stored[:1], *stored[2:]]:
        await keeper.handle(one)
    assert await at(keeper, 3599).look_after(60 * SECOND, HOUR, 0) == []
    assert await at(keeper, 3600).look_after(60 * SECOND, HOUR, 0) == [made.manifest.session]
    state = await keeper.load(made.manifest.session)
    assert state.shortcomings == [f"chunk 1 of {made.manifest.chunks} is not stored"]


async def test_a_manifest_that_never_reached_storage_ends_incomplete(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=12)
    session = made.manifest.session
    *chunks, manifest = await store(keeper, made, but=0)
    entry = await keeper.catalog.get("manifests", session)
    await keeper.catalog._database["manifests"].delete_one({"_id": session})
    for one in [opened(made), closed(made), *chunks[1:], expired("session.manifests")]:
        await keeper.handle(one)
    assert await at(keeper, 60).look_after(60 * SECOND, HOUR, 0) == [session]
    state = await keeper.load(session)
    last = made.chunks[-1].header
    assert state.shortcomings == [
        "its manifest is not stored",
        "chunk 0 is not stored",
        f"{len(chunks) - 1} chunks are stored, up to record {last.next_seq - 1}",
        f"the recorder counted {made.manifest.next_seq} records",
        "offsets 0 to 4 of partition 2 of session.manifests expired before they were read",
    ]
    assert entry is not None
    await keeper.catalog.insert("manifests", entry)
    after = await keeper.handle(manifest)
    assert after is not None
    assert after.state == "processing"
    assert await at(keeper, 999).look_after(60 * SECOND, HOUR, 0) == [session]
    assert (await keeper.load(session)).shortcomings[-1].startswith("chunk 0 of")


async def test_a_session_whose_open_record_expired_ends_and_says_so(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=13)
    session = made.manifest.session
    for one in [opened(made), expired("session.frames", first=1), closed(made)]:
        await keeper.handle(one)
    assert (await keeper.load(session)).losses == []
    await keeper.handle(expired("session.frames"))
    assert len((await keeper.load(session)).losses) == 1
    assert await at(keeper, 60).look_after(60 * SECOND, HOUR, 0) == [session]
    await keeper.handle(event(made, SessionAbandoned(
        session=session, partition=2, offset=9, reason="silence",
    )))  # fmt: skip
    assert await at(keeper, 999).look_after(60 * SECOND, HOUR, 0) == []
    await keeper.handle(event(made, SessionUnsealed(session=session, partition=2, offset=9)))
    assert await at(keeper, 60).look_after(60 * SECOND, HOUR, 0) == [session]
    state = await keeper.load(session)
    assert state.shortcomings == [
        "nothing was sealed: the processor never met the session's open record at offset 0 of "
        "partition 2",
        f"the recorder counted {made.manifest.next_seq} records",
        "offsets 0 to 4 of partition 2 of session.frames expired before they were read",
    ]


async def test_an_abandoned_session_names_the_records_that_expired(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=14, end="abandon")
    session, counted = made.manifest.session, made.manifest.next_seq + 3
    heartbeat = SessionHeartbeat(session=session, next_seq=counted, raw_bytes=1)
    abandoned = SessionAbandoned(session=session, partition=2, offset=9, reason="silence")
    for one in [
        opened(made), event(made, heartbeat), expired("session.frames", session=session),
        event(made, abandoned), *await store(keeper, made),
    ]:  # fmt: skip
        state = await keeper.handle(one)
    assert state is not None
    assert state.shortcomings[1:] == [
        "offsets 0 to 4 of partition 2 of session.frames expired before they were read; records "
        "of this session from 7 on",
        f"the recorder counted {counted} records before it vanished, "
        f"{made.manifest.next_seq} were sealed",
    ]


async def test_what_expired_at_the_expense_of_others_is_no_shortcoming(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=15)
    topics = ("session.frames", "session.chunks", "session.manifests")
    losses = [expired(topic) for topic in topics]
    for one in [opened(made), *losses, closed(made), *await store(keeper, made)]:
        state = await keeper.handle(one)
    assert state is not None
    assert (state.state, len(state.losses)) == ("completed", 3)


async def test_a_session_of_which_nobody_knows_where_it_is_may_have_lost_something(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=18)
    session = made.manifest.session
    events = await store(keeper, made)
    for one in [closed(made), expired("session.frames"), expired("session.chunks"), *events[1:]]:
        await keeper.handle(one)
    assert [one.topic for one in (await keeper.load(session)).losses] == ["session.chunks"]
    await keeper.catalog._database.chunks.delete_one({"_id": f"{session}:0"})
    assert await at(keeper, 60).look_after(60 * SECOND, HOUR, 0) == [session]
    found = (await keeper.load(session)).shortcomings
    assert found[0].startswith("offsets 0 to 4 of partition 2 of session.chunks expired")
    assert found[1].startswith("chunk 0 of")


async def test_events_that_expired_are_made_up_for_from_the_catalog(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=16)
    stored = await store(keeper, made)
    for one in [opened(made), closed(made), stored[0]]:
        await keeper.handle(one)
    await keeper.handle(expired("session.events", partition=0))
    assert await at(keeper, 60).look_after(60 * SECOND, HOUR, 0) == [made.manifest.session]
    assert (await keeper.load(made.manifest.session)).state == "completed"


async def test_a_pipeline_that_dies_between_saying_and_writing_says_it_again(
    keeper: SessionKeeper, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_session(seed=17)
    *events, manifest = await store(keeper, made)
    for one in [opened(made), closed(made), *events]:
        await keeper.handle(one)

    async def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "put_version", killed)
        with pytest.raises(KeyboardInterrupt):
            await keeper.handle(manifest)
    state = await keeper.handle(manifest)
    assert state is not None
    assert state.state == "completed"
    raws = await read_all(keeper, keeper.topics.anchors, stack)
    values = [raw.value for raw in raws]  # type: ignore[attr-defined]
    assert len(values) == 2
    assert values[0] == values[1]


# -- the watch -------------------------------------------------------------------------------


async def test_silence_counts_anew_after_a_broker_was_away(
    keeper: SessionKeeper, stack: Stack, tmp_path: Path
) -> None:
    host, _, port = stack.kafka.partition(":")
    forwarder = Forwarder((host, int(port)))
    settings = Settings.load(home=tmp_path, kafka=f"127.0.0.1:{forwarder.port}")
    section = PipelineSettings(abandon_after=2, watch_every=0.1)
    live = replace(keeper, clock=wall_clock)
    made = make_session(seed=18)
    await live.handle(opened(made))
    async with BrokerProbe(settings) as probe:

        async def hears() -> bool:
            await probe.check()
            return True

        watch = Watch(live, section, hears)
        watch._since = 0
        # Once it has answered, a client knows the broker's own address.
        forwarder.down()
        state = await live.load(made.manifest.session)
        while wall_clock() - state.last_sign < 2.5 * SECOND:
            assert await watch.look() == []
            await asyncio.sleep(0.05)
        away = wall_clock()
        forwarder.up()
        while not (ended := await watch.look()):
            assert wall_clock() - away < 20 * SECOND
            await asyncio.sleep(0.05)
    forwarder.down()
    assert ended == [made.manifest.session]
    assert wall_clock() - away >= 1.9 * SECOND
    asleep = Watch(live, section, hears)
    asleep._looked -= 60 * SECOND
    before = asleep._since
    await asleep.look()
    assert asleep._since > before


async def test_silence_does_not_count_while_the_pipeline_itself_hears_nothing(
    keeper: SessionKeeper,
) -> None:
    live = replace(keeper, clock=wall_clock)
    made, hearing = make_session(seed=19), [False]
    await live.handle(opened(made))

    async def hears() -> bool:
        return hearing[0]

    watch = Watch(live, PipelineSettings(abandon_after=1, watch_every=0.1), hears)
    watch._since = 0
    state = await live.load(made.manifest.session)
    while wall_clock() - state.last_sign < 1.5 * SECOND:
        assert await watch.look() == []
        await asyncio.sleep(0.05)
    hearing[0], heard = True, wall_clock()
    while not (ended := await watch.look()):
        assert wall_clock() - heard < 20 * SECOND
        await asyncio.sleep(0.05)
    assert ended == [made.manifest.session]
    assert wall_clock() - heard >= 0.9 * SECOND
    # Although the pipeline has not handled its own event yet.
    assert (await live.load(made.manifest.session)).abandoned
    assert await watch.look() == []


async def test_an_event_that_contradicts_its_session_is_refused_and_changes_nothing(
    keeper: SessionKeeper,
) -> None:
    made = make_session(seed=21)
    session = made.manifest.session
    await keeper.handle(opened(made), (0, 1))
    closed = SessionClosed(session=session, next_seq=9, raw_bytes=1, reason="done")
    await keeper.handle(event(made, closed), (0, 2))
    before = await keeper.load(session)
    second = closed.model_copy(update={"next_seq": 12})
    with pytest.raises(ImpossibleTransition, match="closed with 9 records"):
        await keeper.handle(event(made, second), (0, 3))
    assert await keeper.load(session) == before


async def test_a_session_that_cannot_be_ended_keeps_nobody_from_looking_after_others(
    keeper: SessionKeeper,
) -> None:
    lost, silent = make_session(seed=22), make_session(seed=23)
    for made, partition in ((lost, 99), (silent, 0)):
        data = opened(made).data
        assert isinstance(data, SessionOpened)
        await keeper.handle(event(made, data.model_copy(update={"partition": partition})))
    later = replace(keeper, clock=lambda: keeper.clock() + HOUR)
    done = await later.look_after(60 * SECOND, 10 * HOUR, 0)
    assert done == [silent.manifest.session]


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
