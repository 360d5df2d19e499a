"""Live state on a real Redis, and a pipeline that works as well without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.platform import live as platform_live
from agents.platform.catalog import Catalog
from agents.platform.contract import apply_contract, load_contract
from agents.platform.eventbus import EventBus
from agents.platform.health import Result
from agents.platform.live import EXPIRES, LiveStates, live_key
from agents.platform.producer import Producer
from agents.platform.redis_client import RedisClient, RedisUnreachable, redis_if_set
from agents.platform.service import Service, StopSignal, make_service, serve
from agents.platform.settings import Settings
from agents.session.pipeline import live as pipeline_live
from agents.session.pipeline.agent import build
from agents.session.pipeline.live import LiveWriter
from agents.session.pipeline.settings import PipelineSettings
from schemas.canonical import Strict
from schemas.events import SessionClosed, SessionEvent, SessionHeartbeat, SessionOpened
from schemas.sessions import new_session_id
from tests.conftest import Stack
from tests.platform.redis_server import RedisServer, redis_server
from tests.waiting import until

NOW = datetime.now(UTC)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
async def client(server: RedisServer, tmp_path: Path) -> AsyncIterator[RedisClient]:
    server.restart()
    settings = Settings.load(home=tmp_path, redis=server.url)
    async with RedisClient(settings, seconds=0.5) as found:
        yield found


@pytest.fixture
async def writer(client: RedisClient) -> AsyncIterator[LiveWriter]:
    found, stop = LiveWriter(client, away_for=0.1), StopSignal()
    running = asyncio.create_task(found.run(stop))
    yield found
    stop.set()
    async with asyncio.timeout(5):
        await running


def beat(session: str, seq: int, after: float = 0.0) -> SessionEvent:
    data = SessionHeartbeat(session=session, next_seq=seq, raw_bytes=seq * 100)
    return SessionEvent(data, "lucid/recorder/h", session, time=NOW + timedelta(seconds=after))


def closed(session: str, seq: int, after: float) -> SessionEvent:
    data = SessionClosed(session=session, next_seq=seq, raw_bytes=seq * 100, reason="end")
    return SessionEvent(data, "lucid/recorder/h", session, time=NOW + timedelta(seconds=after))


def new() -> str:
    return str(new_session_id())


async def test_what_was_heard_is_read_and_expires(client: RedisClient, writer: LiveWriter) -> None:
    live, session = LiveStates(client), new()
    assert await live.get(session) is None
    writer.heard(beat(session, 10))
    writer.heard(beat(session, 60, 5))

    async def both() -> bool:
        found = await live.get(session)
        return found is not None and found.next_seq == 60

    await until(both)
    state = await live.get(session)
    assert state is not None
    assert (state.records_per_second, state.bytes_per_second) == (10.0, 1000.0)
    left = await client.run(lambda redis: redis.ttl(live_key(client, session)))
    assert EXPIRES - 5 < left <= EXPIRES
    assert await live.get_many([session, new()]) == {session: state}
    assert await live.get_many([]) == {}


async def test_an_ended_session_stays_ended_whatever_comes_late(
    client: RedisClient, writer: LiveWriter
) -> None:
    live, session = LiveStates(client), new()
    writer.heard(beat(session, 10))
    writer.heard(closed(session, 12, 1))

    async def ended() -> bool:
        found = await live.get(session)
        # The writer hears that Redis has it a moment after everybody else.
        return found is not None and found.ended and not writer._waiting

    await until(ended)
    for after in (0.5, 2):
        writer.heard(beat(session, 11, after))
    assert not writer._waiting


async def test_the_last_states_are_written_when_redis_is_back(
    client: RedisClient, writer: LiveWriter, server: RedisServer
) -> None:
    live, sessions = LiveStates(client), [new() for _ in range(3)]
    await writer.healthy()
    server.kill()
    started = time.monotonic()
    for number in range(1, 2000):
        writer.heard(beat(sessions[number % 3], number, number))
    assert time.monotonic() - started < 2
    with pytest.raises(RedisUnreachable, match="redis: away, live state is missing"):
        await writer.healthy()
    assert len(writer._waiting) == 3
    server.start()

    async def all_there() -> bool:
        return len(await live.get_many(sessions)) == 3

    await until(all_there)
    found = await live.get_many(sessions)
    assert sorted(state.next_seq for state in found.values()) == [1997, 1998, 1999]
    await writer.healthy()


async def test_a_hung_redis_does_not_hold_up_a_stop(
    client: RedisClient, server: RedisServer
) -> None:
    writer, stop = LiveWriter(client), StopSignal()
    running = asyncio.create_task(writer.run(stop))
    with server.standing_still():
        writer.heard(beat(new(), 1))
        await asyncio.sleep(0)
        stop.set()
        async with asyncio.timeout(3):
            await running


async def test_memory_is_bounded_and_batches_too(
    client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_live, "MAX_SESSIONS", 10)
    monkeypatch.setattr(pipeline_live, "BATCH", 4)
    writer, stop = LiveWriter(client), StopSignal()
    sessions = [new() for _ in range(25)]
    for session in sessions:
        writer.heard(beat(session, 1))
    assert len(writer._states) == len(writer._waiting) == 10
    running = asyncio.create_task(writer.run(stop))
    live = LiveStates(client)

    async def written() -> bool:
        return not writer._waiting

    await until(written)
    assert set(await live.get_many(sessions)) == set(sessions[-10:])
    stop.set()
    await running


async def test_a_state_that_cannot_be_read_is_left_out(client: RedisClient) -> None:
    live, session = LiveStates(client), new()
    for text in ("nonsense", "{}"):
        await client.run(lambda redis, text=text: redis.set(live_key(client, session), text))  # type: ignore[misc]
        assert await live.get(session) is None


async def test_readers_do_not_wait_for_a_redis_that_is_away(
    client: RedisClient, server: RedisServer
) -> None:
    clock = Clock()
    live, session = LiveStates(client, clock=clock), new()
    with server.standing_still():
        assert await live.get(session) is None
        started = time.monotonic()
        for _ in range(100):
            assert await live.get(session) is None
        assert time.monotonic() - started < 0.2
        with pytest.raises(RedisUnreachable, match="away"):
            await live.healthy()
    clock.now += platform_live.AWAY_FOR
    await client.run(lambda redis: redis.set(live_key(client, session), "x"))
    assert await live.get(session) is None
    await live.healthy()


async def test_without_redis_there_is_no_live_state(tmp_path: Path) -> None:
    assert redis_if_set(Settings.load(home=tmp_path)) is None
    writer, live = LiveWriter(None), LiveStates(None)
    writer.heard(beat(new(), 1))
    assert not writer._states
    assert await live.get(new()) is None
    for each in (writer, live):
        with pytest.raises(RedisUnreachable, match="none is set"):
            await each.healthy()


# The service ------------------------------------------------------------------------------------


async def checks(service: Service) -> dict[str, Result]:
    return {result.name: result for result in await service.health.ready()}


async def test_a_pipeline_goes_on_without_redis_and_says_so(
    stack: Stack, server: RedisServer, tmp_path: Path
) -> None:
    server.restart()
    mark = uuid4().hex[:8]
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, mongo=stack.mongo, redis=server.url, database=f"l{mark}",
        topic_prefix=f"l{mark}.",
    )  # fmt: skip
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    service = make_service("pipeline", settings, PipelineSettings.load(port=0))
    running = asyncio.create_task(serve(service, build))
    session, other = new(), new()
    try:
        async with (
            Producer(settings, contract.limits) as producer, Catalog(settings) as catalog,
            RedisClient(settings) as client,
        ):  # fmt: skip
            events = EventBus(producer, contract, service="recorder", host="h")

            async def tell(data: Strict) -> None:
                await events.emit(data, data.session)  # type: ignore[attr-defined]

            def opened(name: str) -> SessionOpened:
                return SessionOpened(
                    session=name, partition=0, offset=0, host="h", recorder="r",
                    codec="screen/1", source={}, started=1,
                )  # fmt: skip

            await tell(opened(session))
            await tell(SessionHeartbeat(session=session, next_seq=9, raw_bytes=900))
            live = LiveStates(client)

            async def alive() -> bool:
                found = await live.get(session)
                return found is not None and found.next_seq == 9

            await until(alive, seconds=40)
            found = await checks(service)
            assert all(result.ok for result in found.values())
            assert found["redis"].advisory

            server.kill()
            await tell(opened(other))

            async def in_catalog() -> Any:
                return await catalog.get("sessions", other)

            await until(in_catalog)

            async def told() -> bool:
                return not (await checks(service))["redis"].ok

            await until(told)
            found = await checks(service)
            assert "live state is missing" in found["redis"].error
            assert [result.name for result in found.values() if result.fails] == []
            assert not running.done()
    finally:
        service.stop.set()
        async with asyncio.timeout(20):
            assert await running == 0
