"""What never arrives: a session ends all the same, and says what is not there."""

from __future__ import annotations

import pytest

from agents.platform.catalog import Catalog
from agents.session.pipeline.keeper import SessionKeeper
from schemas.events import (
    SessionAbandoned,
    SessionHeartbeat,
    SessionUnsealed,
)
from tests.conftest import Stack
from tests.factories import make_session
from tests.session.pipeline.keeper_scene import (
    HOUR,
    SECOND,
    at,
    closed,
    event,
    expired,
    opened,
    read_all,
    store,
)


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
