"""The keeper of sessions against the real broker and catalog."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agents.platform.broker import BrokerProbe
from agents.platform.clock import wall_clock
from agents.platform.settings import Settings
from agents.session.pipeline.agent import Watch
from agents.session.pipeline.keeper import NotYet, SessionKeeper
from agents.session.pipeline.reconciliation import StoredChunk, reconcile
from agents.session.pipeline.settings import PipelineSettings
from agents.session.pipeline.states import SessionState
from agents.session.pipeline.transitions import ImpossibleTransition
from schemas.events import (
    ScrubFinding,
    SessionClosed,
    SessionOpened,
)
from schemas.frames import Kind, from_kafka
from schemas.notes import Signer, Verifier
from tests.conftest import Stack
from tests.e2e.forwarder import Forwarder
from tests.factories import PROCESSOR, RECORDER, make_session
from tests.session.pipeline.keeper_scene import (
    BEGIN,
    FOREIGN,
    HOUR,
    SECOND,
    closed,
    event,
    opened,
    read_all,
    store,
)


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
