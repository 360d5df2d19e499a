"""The revocation list on a real Redis that is killed, emptied, restored and hung."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from agents.platform.redis_client import RedisClient, RedisUnreachable
from agents.platform.retry import BrokerUnreachable, Unreachable
from agents.platform.revocation import (
    KEPT,
    PATIENCE,
    REFRESH_EVERY,
    Revocation,
    Revocations,
    RevocationsUnknown,
    TokenRevoked,
    revocation,
)
from agents.platform.settings import Settings
from agents.platform.tokens import TokenRefused
from tests.platform.redis_server import RedisServer, redis_server


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Past:
    """What audit.events would say."""

    def __init__(self) -> None:
        self.entries: list[Revocation] = []
        self.error: Exception | None = None
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> Sequence[Revocation]:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.entries


Make = Callable[..., Revocations]
ONE, TWO = str(uuid4()), str(uuid4())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
async def client(server: RedisServer, tmp_path: Path) -> AsyncIterator[RedisClient]:
    server.restart()
    async with RedisClient(Settings.load(home=tmp_path, redis=server.url), seconds=0.5) as found:
        yield found


@pytest.fixture
def past() -> Past:
    return Past()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(client: RedisClient, past: Past, clock: Clock) -> AsyncIterator[Make]:
    made: list[Revocations] = []

    def new(**options: object) -> Revocations:
        made.append(Revocations(client, past, clock=clock, **options))  # type: ignore[arg-type]
        return made[-1]

    yield new
    for one in made:
        await one.close()


async def settled(revocations: Revocations) -> None:
    """Until what is being read in the background is read."""
    async with asyncio.timeout(10):
        while revocations._reading is not None and not revocations._reading.done():
            await asyncio.sleep(0.01)


async def revoke(revocations: Revocations, past: Past, jti: str) -> None:
    """As the command does: durable first."""
    past.entries.append(revocation(jti, "lost", time.time()))
    await revocations.revoke(jti, "lost")


async def test_a_revoked_token_is_refused_everywhere_within_a_second(
    make: Make, past: Past, clock: Clock
) -> None:
    here, there = make(), make()
    for each in (here, there):
        await each.check(ONE)
    await revoke(here, past, ONE)
    with pytest.raises(TokenRevoked) as caught:
        await here.check(ONE)
    assert isinstance(caught.value, TokenRefused)
    assert ONE not in str(caught.value)
    clock.now += REFRESH_EVERY
    with pytest.raises(TokenRevoked):
        await there.check(ONE)
    await there.check(TWO)


async def test_the_list_says_what_and_until_when(
    make: Make, past: Past, client: RedisClient
) -> None:
    revocations = make()
    await revocations.check(ONE)
    await revoke(revocations, past, ONE)
    found = await revocations.listing()
    assert [(one.jti, one.reason, one.until - one.at) for one in found] == [(ONE, "lost", KEPT)]
    assert abs(found[0].at - time.time()) < 10
    left = await client.run(lambda redis: redis.ttl(client.key("revoked", ONE)))
    assert KEPT - 10 < left <= KEPT
    await client.run(lambda redis: redis.delete(client.key("revoked", ONE)))
    assert [(one.jti, one.reason) for one in await revocations.listing()] == [
        (ONE, "not known any more")
    ]


async def test_an_entry_is_forgotten_after_its_time(
    make: Make, past: Past, clock: Clock, client: RedisClient
) -> None:
    wall = Clock()
    wall.now = time.time() - KEPT + 60
    revocations = make(wall=wall)
    await revocations.check(ONE)
    await revocations.revoke(ONE, "lost")
    wall.now += KEPT + 1
    clock.now += REFRESH_EVERY
    await revocations.check(ONE)
    assert await revocations.listing() == []
    await revocations.revoke(TWO, "lost")
    assert await client.run(lambda redis: redis.zscore(client.key("revoked"), ONE)) is None


async def test_one_read_serves_all_requests_of_a_second(
    make: Make, client: RedisClient, clock: Clock
) -> None:
    revocations = make()

    async def commands() -> int:
        info = await client.run(lambda redis: redis.info("commandstats"))
        return int(info.get("cmdstat_zrangebyscore", {"calls": 0})["calls"])

    await asyncio.gather(*(revocations.check(ONE) for _ in range(50)))
    assert await commands() == 1
    clock.now += REFRESH_EVERY / 2
    await revocations.check(ONE)
    assert await commands() == 1


# Redis restarted, emptied, restored -----------------------------------------------------------


async def test_a_redis_restarted_empty_forgets_nothing(
    make: Make, past: Past, clock: Clock, server: RedisServer
) -> None:
    old = make()
    await old.check(ONE)
    await revoke(old, past, ONE)
    server.restart()
    clock.now += REFRESH_EVERY
    with pytest.raises(TokenRevoked):
        await old.check(ONE)
    with pytest.raises(TokenRevoked):
        await make().check(ONE)
    assert [one.reason for one in await old.listing()] == ["lost"]


async def test_a_new_process_on_an_empty_redis_asks_the_past_first(
    make: Make, past: Past, clock: Clock
) -> None:
    past.entries = [revocation(ONE, "lost", time.time()), revocation(TWO, "old", 1.0)]
    revocations = make()
    with pytest.raises(TokenRevoked):
        await revocations.check(ONE)
    await revocations.check(TWO)
    asked = past.asked
    clock.now += REFRESH_EVERY
    await revocations.check(TWO)
    with pytest.raises(TokenRevoked):
        await make().check(ONE)
    assert past.asked == asked == 1


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL lucid:revoked"])
async def test_an_emptied_redis_is_filled_again(
    make: Make, past: Past, client: RedisClient, clock: Clock, command: str
) -> None:
    revocations = make()
    await revocations.check(ONE)
    await revoke(revocations, past, ONE)
    await client.run(lambda redis: redis.execute_command(*command.split()))  # type: ignore[no-untyped-call]
    with pytest.raises(TokenRevoked):
        await make().check(ONE)
    assert past.asked == 2


async def test_a_snapshot_of_another_run_does_not_count_as_whole(
    make: Make, past: Past, client: RedisClient, server: RedisServer
) -> None:
    revocations = make()
    await revocations.check(ONE)
    snapshot = await client.run(
        lambda redis: redis.zrange(client.key("revoked"), 0, -1, withscores=True)
    )
    await revoke(revocations, past, ONE)
    server.restart()
    await client.run(lambda redis: redis.zadd(client.key("revoked"), dict(snapshot)))
    with pytest.raises(TokenRevoked):
        await make().check(ONE)
    marks = await client.run(lambda redis: redis.zrangebyscore(client.key("revoked"), "inf", "inf"))
    assert len(marks) == 1


async def test_an_empty_redis_without_its_past_opens_no_door(
    make: Make, past: Past, clock: Clock
) -> None:
    past.error = BrokerUnreachable("no Kafka broker answers")
    revocations = make()
    with pytest.raises(RevocationsUnknown, match="no Kafka broker") as caught:
        await revocations.check(ONE)
    assert isinstance(caught.value, Unreachable)
    assert caught.value.retry_after
    past.error = None
    clock.now += REFRESH_EVERY
    await revocations.check(ONE)


async def test_a_slow_past_is_waited_for_within_reason(make: Make, past: Past) -> None:
    past.gate = asyncio.Event()
    revocations = make()
    started = time.monotonic()
    with pytest.raises(RevocationsUnknown, match="not read yet"):
        await revocations.check(ONE)
    assert time.monotonic() - started < PATIENCE + 2
    past.gate.set()
    await settled(revocations)
    await revocations.check(ONE)
    assert past.asked == 1


# Redis away -----------------------------------------------------------------------------------


async def test_the_copy_is_good_for_its_grace_and_then_nothing_is_taken(
    make: Make, past: Past, clock: Clock, server: RedisServer
) -> None:
    revocations = make(grace=60.0)
    await revocations.check(ONE)
    await revoke(revocations, past, TWO)
    server.kill()
    clock.now += 30
    await revocations.check(ONE)
    with pytest.raises(TokenRevoked):
        await revocations.check(TWO)
    with pytest.raises(RedisUnreachable):
        await revocations.reachable()
    clock.now += 30
    await revocations.check(ONE)
    clock.now += 0.5
    for jti in (ONE, TWO):
        with pytest.raises(RevocationsUnknown, match="Redis does not answer"):
            await revocations.check(jti)
    server.start()
    clock.now += REFRESH_EVERY
    await revocations.check(ONE)
    await revocations.reachable()
    with pytest.raises(TokenRevoked):
        await revocations.check(TWO)


async def test_nobody_waits_for_a_hung_redis_while_the_copy_is_good(
    make: Make, clock: Clock, server: RedisServer
) -> None:
    revocations = make()
    await revocations.check(ONE)
    with server.standing_still():
        clock.now += REFRESH_EVERY
        await revocations.check(ONE)
        clock.now += REFRESH_EVERY
        started = time.monotonic()
        await asyncio.gather(*(revocations.check(ONE) for _ in range(100)))
        assert time.monotonic() - started < 0.3
        await settled(revocations)
    clock.now += REFRESH_EVERY
    await revocations.check(ONE)
    await settled(revocations)
    await revocations.reachable()


async def test_a_process_that_never_saw_the_list_takes_nothing(
    make: Make, server: RedisServer
) -> None:
    server.kill()
    with pytest.raises(RevocationsUnknown):
        await make().check(ONE)
    with pytest.raises(RedisUnreachable):
        await make().revoke(ONE, "lost")


async def test_closing_ends_what_is_read(make: Make, past: Past) -> None:
    past.gate = asyncio.Event()
    async with make() as revocations:
        checking = asyncio.create_task(revocations.check(ONE))
        async with asyncio.timeout(10):
            while not past.asked:
                await asyncio.sleep(0.01)
    with pytest.raises(RevocationsUnknown):
        await checking
