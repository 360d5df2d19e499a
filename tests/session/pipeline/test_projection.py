"""Rebuilding the view `sessions` beside a live pipeline: equal, whole, and never half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agents.platform.clock import wall_clock
from agents.platform.projection_commands import FETCH_BYTES, rebuild
from agents.platform.projections import (
    Alias,
    SwapLost,
    Swapping,
    UnknownProjection,
    View,
    change_alias,
    find_projection,
    read_alias,
)
from agents.platform.reader import open_reader
from agents.platform.rebuild import Rebuild
from agents.platform.settings import Settings
from schemas.events import (
    RecordsExpired,
    SessionAbandoned,
    SessionOpened,
    SessionPaused,
    SessionResumed,
    subject_of,
)
from tests.conftest import Stack
from tests.factories import make_session
from tests.platform.topics import expire
from tests.session.pipeline.projection_house import (
    SEEDS,
    STATES,
    House,
    closed,
    conflict,
    installation,
    listed,
    nothing,
    open_house,
    opened,
    sessions_of_all_states,
    stored,
)


@pytest.fixture(scope="module")
def shared(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return installation(stack, tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def alone(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return installation(stack, tmp_path_factory.mktemp("alone"))


@pytest.fixture
async def house(shared: Settings) -> AsyncIterator[House]:
    """The tests of this file add sessions to one view."""
    async with open_house(shared) as found:
        yield found


async def test_a_rebuilt_view_is_equal_to_the_live_one_and_takes_its_place(house: House) -> None:
    sessions = await sessions_of_all_states(house)
    before = await house.view()
    states = {name: before[key]["state"] for name, key in sessions.items()}
    assert states == {**{name: name for name in STATES}, "abandoned": "incomplete"}
    right = await house.trusted_view()
    old = (await read_alias(house.catalog, "sessions")).collection
    for cache_bytes in (1 << 20, 1):
        result = await house.rebuild(cache_bytes=cache_bytes)
        assert (result.equal, result.corrected, result.carried) == (len(before), [], [])
        assert result.documents == len(before)
        assert await house.trusted_view() == right
    alias = await read_alias(house.catalog, "sessions")
    assert (alias.collection, alias.frozen_until, alias.rebuild) == (result.collection, None, None)
    assert await house.catalog.collections("sessions.") == [result.collection]
    assert old != result.collection
    session = sessions["paused"]
    await house.live(SessionResumed(session=session, reason="back"), session)
    assert (await house.keeper.load(session)).state == "recording"


async def test_what_expired_stays_noted_with_a_settled_session(house: House) -> None:
    made = make_session(seed=next(SEEDS), end="abandon")
    session = made.manifest.session
    await house.live(opened(session), session)
    gone = RecordsExpired(session=None, topic="session.frames", partition=2, first_offset=0,
                          next_offset=5, next_seq=None)  # fmt: skip
    await house.live(gone, subject_of(gone))
    end = SessionAbandoned(session=session, partition=2, offset=9, reason="silence")
    for data in [end, *await stored(house, made)]:
        await house.live(data, session)
    right = (await house.trusted_view())[session]
    assert (right["state"], len(right["losses"]), right["abandoned"]) == ("incomplete", 1, True)
    result = await house.rebuild()
    assert session not in result.corrected
    assert (await house.trusted_view())[session] == right


async def test_a_view_that_has_drifted_is_corrected(house: House) -> None:
    sessions = await sessions_of_all_states(house)
    right = await house.trusted_view()
    place = await house.catalog.where("sessions")
    wrong = await house.catalog.get("sessions", sessions["incomplete"])
    assert wrong is not None
    await house.catalog.put(place, {**wrong, "shortcomings": [], "state": "completed"})
    result = await house.rebuild()
    assert result.corrected == [sessions["incomplete"]]
    assert await house.trusted_view() == right


async def test_no_event_is_lost_or_counted_twice_while_views_are_swapped(house: House) -> None:
    """Conflicts are counted, so a double or a lost event shows."""
    sessions = [make_session(seed=next(SEEDS)).manifest.session for _ in range(3)]
    stop = asyncio.Event()
    counts = dict.fromkeys(sessions, 0)

    async def writer(session: str) -> None:
        await house.live(opened(session), session)
        while not stop.is_set():
            await house.live(conflict(session), session)
            counts[session] += 1

    writers = [asyncio.create_task(writer(session)) for session in sessions]
    try:
        for _ in range(4):
            await house.rebuild()
    finally:
        stop.set()
        await asyncio.gather(*writers)
    assert all(count > 0 for count in counts.values())
    view = await house.view()
    assert {session: view[session]["conflicts"] for session in sessions} == counts
    result = await house.rebuild()
    view = await house.view()
    assert result.equal == len(view)
    assert {session: view[session]["conflicts"] for session in sessions} == counts


async def test_a_writer_that_slept_through_the_swap_handles_its_event_again(house: House) -> None:
    session = make_session(seed=next(SEEDS)).manifest.session
    await house.live(opened(session), session)
    event, place = await house.send(conflict(session), session)
    view = View(house.catalog, "sessions")
    alias = await view.open()
    await house.rebuild()
    await house.keeper._apply(event, place, alias.collection)
    with pytest.raises(Swapping):
        await view.check(alias)
    assert (await house.keeper.handle(event, place)).conflicts == 1
    assert (await house.keeper.handle(event, place)).conflicts == 1
    fresh = make_session(seed=next(SEEDS)).manifest.session
    event, place = await house.send(opened(fresh), fresh)
    await house.keeper._apply(event, place, alias.collection)
    with pytest.raises(Swapping):
        await view.check(alias)
    assert fresh not in await house.view()
    assert (await house.keeper.handle(event, place)).opened is not None


async def test_what_the_live_pipeline_had_not_handled_is_settled_by_it_afterwards(
    house: House,
) -> None:
    made = make_session(seed=next(SEEDS))
    session = made.manifest.session
    for data in [opened(session), closed(made)]:
        await house.live(data, session)
    waiting = [await house.send(data, session) for data in await stored(house, made)]
    await house.rebuild()
    assert (await house.keeper.load(session)).ready
    for event, place in waiting:
        state = await house.keeper.handle(event, place)
    assert (state.state, state.stored_bytes) == ("completed", made.manifest.tally.sealed_bytes)


async def test_a_frozen_view_is_written_by_nobody_until_it_thaws(house: House) -> None:
    session = make_session(seed=next(SEEDS)).manifest.session
    await house.live(opened(session), session)
    seen = []

    async def look() -> None:
        event, place = await house.send(SessionPaused(session=session, reason="x"), session)
        with pytest.raises(Swapping):
            await house.keeper.handle(event, place)
        assert (await listed(house))["state"] == "being swapped"
        seen.append((event, place))

    house.when_frozen = look
    await house.rebuild()
    assert (await house.keeper.handle(*seen[0])).state == "paused"


async def test_a_writer_that_waited_too_long_thaws_the_view_and_the_swap_is_lost(
    house: House,
) -> None:
    session = make_session(seed=next(SEEDS)).manifest.session
    await house.live(opened(session), session)
    before = await read_alias(house.catalog, "sessions")
    late = replace(house.keeper, clock=lambda: wall_clock() + 3_600_000_000)

    async def thaw() -> None:
        event, place = await house.send(SessionPaused(session=session, reason="x"), session)
        assert (await late.handle(event, place)).state == "paused"

    house.when_frozen = thaw
    with pytest.raises(SwapLost):
        await house.rebuild()
    alias = await read_alias(house.catalog, "sessions")
    assert alias.collection == before.collection
    assert await house.catalog.collections("sessions.") == [before.collection]
    assert (await house.keeper.load(session)).state == "paused"


async def test_two_rebuilds_at_once_leave_one_view(house: House) -> None:
    session = make_session(seed=next(SEEDS)).manifest.session
    await house.live(opened(session), session)

    async def other() -> None:
        house.when_frozen = nothing
        await house.rebuild()

    house.when_frozen = other
    with pytest.raises(SwapLost):
        await house.rebuild()
    assert (await house.keeper.load(session)).opened is not None
    assert len(await house.catalog.collections("sessions.")) == 1
    taken = await read_alias(house.catalog, "sessions")
    stale = Alias("sessions", taken.collection, taken.version - 1)
    assert await change_alias(house.catalog, stale) is None


@pytest.mark.parametrize("moment", ["folding", "frozen"])
async def test_a_rebuild_that_is_killed_leaves_the_live_view_and_the_next_cleans_up(
    house: House, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = await sessions_of_all_states(house)
    before = await house.view()
    alias = await read_alias(house.catalog, "sessions")

    class Killed(BaseException):
        pass

    async def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Rebuild, "_give_up", nothing_but)  # nobody is left to do it
        if moment == "frozen":
            house.when_frozen = kill
        else:
            patched.setattr(Rebuild, "_keep_all", kill)
        with pytest.raises(Killed):
            await house.rebuild(cache_bytes=1)
    house.when_frozen = nothing
    assert await house.view() == before
    assert len(await house.catalog.collections("sessions.")) == 2
    session = sessions["paused"]
    event, place = await house.send(SessionResumed(session=session, reason="back"), session)
    late = replace(house.keeper, clock=lambda: wall_clock() + 61_000_000)
    assert (await late.handle(event, place)).state == "recording"
    assert (await read_alias(house.catalog, "sessions")).collection == alias.collection
    result = await house.rebuild()
    assert result.equal == len(before)
    assert await house.catalog.collections("sessions.") == [result.collection]


async def nothing_but(self: Rebuild, collection: str) -> None:
    pass


async def test_a_rebuild_that_fails_tidies_up_by_itself(house: House) -> None:
    session = make_session(seed=next(SEEDS)).manifest.session
    await house.live(opened(session), session)
    before = await read_alias(house.catalog, "sessions")

    async def fail() -> None:
        raise RuntimeError("a bug")

    house.when_frozen = fail
    with pytest.raises(RuntimeError):
        await house.rebuild()
    after = await read_alias(house.catalog, "sessions")
    assert (after.collection, after.frozen_until, after.rebuild) == (before.collection, None, None)
    assert await house.catalog.collections("sessions.") == [before.collection]


async def test_sessions_whose_beginning_has_expired_are_carried_over(alone: Settings) -> None:
    async with open_house(alone) as house:
        await carried_over(house)


async def carried_over(house: House) -> None:
    sessions = await sessions_of_all_states(house)
    await house.producer.send(house.contract.topic("session.events").full_name, b"junk", key=b"x")
    before = await house.trusted_view()
    topic = house.contract.topic("session.events").full_name
    cut: dict[int, int] = {}
    for session in ("completed", "recording"):
        places = [place for event, place in house.sent if event.subject == sessions[session]]
        partition, offset = places[1 if session == "recording" else -1]
        cut[partition] = max(cut.get(partition, 0), offset + 1)
    for partition, end in cut.items():
        await expire(house.settings, topic, partition, end)
    result = await house.rebuild()
    assert {sessions["completed"], sessions["recording"]} <= set(result.carried)
    assert result.refused == 1
    assert await house.trusted_view() == before
    session = sessions["recording"]
    await house.live(conflict(session), session)
    again = await house.rebuild()
    assert session in again.carried
    assert (await house.keeper.load(session)).conflicts == 1


async def test_commands_say_what_there_is_and_leave_an_audit_event(house: House) -> None:
    sessions = await sessions_of_all_states(house)
    documents = (await listed(house))["documents"]
    assert documents == len(await house.view())
    result = await rebuild(house.settings, "sessions")
    assert result.equal == documents >= len(sessions)
    async with open_reader(house.settings, house.contract, "audit.events", FETCH_BYTES) as reader:
        starts = {part: first for part, (first, _) in reader.bounds.items()}
        kinds = [dict(one.headers)["ce_type"] async for one in reader.records(starts)]
    assert kinds == [b"lucid.audit.chain_started.v1", b"lucid.audit.projection_rebuilt.v1"]
    with pytest.raises(UnknownProjection, match="sessions"):
        find_projection("frames")


async def test_a_rebuild_refuses_what_the_pipeline_refused(house: House) -> None:
    made = make_session(seed=next(SEEDS))
    session = made.manifest.session
    opened = SessionOpened(
        session=session, partition=99, offset=0, host="h", recorder="r", codec="bytes/1",
        source={}, started=1,
    )  # fmt: skip
    await house.send(opened, session)
    result = await rebuild(house.settings, "sessions")
    assert result.refused == 1
    assert session not in await house.view()
