"""Limits of requests on a real Redis, shared by processes, and what counts while it is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.platform import limiting
from agents.platform.limiting import AWAY_FOR, WINDOW, Allowance, Limiter, Window
from agents.platform.redis_client import RedisClient, RedisUnreachable
from agents.platform.settings import Settings
from tests.platform.redis_server import RedisServer, redis_server


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
    async with RedisClient(Settings.load(home=tmp_path, redis=server.url)) as found:
        yield found


async def passed(limiter: Limiter, subject: str, route: str, rate: int, tries: int) -> int:
    results = [(await limiter.hit(subject, route, rate)).allowed for _ in range(tries)]
    return sum(results)


async def test_what_is_over_the_limit_is_refused_and_told_when_to_come_again(
    client: RedisClient,
) -> None:
    limiter = Limiter(client)
    told = [await limiter.hit("ada", "chunks", 5) for _ in range(7)]
    assert [one.allowed for one in told] == [True] * 5 + [False] * 2
    assert [one.remaining for one in told] == [4, 3, 2, 1, 0, 0, 0]
    assert all(one.limit == 5 for one in told)
    assert all(WINDOW - 5 <= one.reset_seconds <= WINDOW for one in told[:5])
    # This window has to end; then what it held counts less from moment to moment.
    assert WINDOW - 5 <= told[-1].reset_seconds <= WINDOW


async def test_subjects_and_routes_are_counted_apart(client: RedisClient) -> None:
    limiter = Limiter(client)
    for subject, route in (("ada", "a"), ("ada", "b"), ("bob", "a"), ("ada/a", "b"), ("", "a"),
                           ("ä" * 200, "a")):  # fmt: skip
        assert await passed(limiter, subject, route, 2, 3) == 2


async def test_processes_count_together(client: RedisClient, server: RedisServer) -> None:
    one, other = Limiter(client), Limiter(client)
    assert await passed(one, "ada", "chunks", 10, 6) == 6
    assert await passed(other, "ada", "chunks", 10, 6) == 4
    assert (await other.hit("ada", "chunks", 10)).remaining == 0


async def test_no_crowd_gets_more_than_the_limit(client: RedisClient) -> None:
    limiters = [Limiter(client) for _ in range(4)]
    told = await asyncio.gather(
        *(limiters[n % 4].hit("ada", "chunks", 100) for n in range(200))
    )  # fmt: skip
    assert sum(one.allowed for one in told) == 100


async def test_what_others_used_shows_within_a_second(client: RedisClient) -> None:
    clock = Clock()
    one, other = Limiter(client, clock=clock), Limiter(client, clock=clock)
    assert (await one.hit("ada", "chunks", 100)).remaining == 99
    await passed(other, "ada", "chunks", 100, 10)
    assert (await one.hit("ada", "chunks", 100)).remaining == 98
    clock.now += 1
    assert (await one.hit("ada", "chunks", 100)).remaining == 87


async def test_who_may_ask_often_does_not_wait_for_redis_each_time(
    client: RedisClient, server: RedisServer
) -> None:
    clock = Clock()
    limiter, other = Limiter(client, clock=clock), Limiter(client, clock=clock)

    async def counted() -> int:
        calls = await client.run(lambda redis: redis.info("commandstats"))
        return sum(
            calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")
        )

    assert [(await limiter.hit("ada", "chunks", 1000)).remaining for _ in range(5)] == [
        999, 998, 997, 996, 995,
    ]  # fmt: skip
    before = await counted()
    assert await passed(limiter, "ada", "chunks", 1000, 100) == 100
    assert await counted() - before == 20
    await limiter.hit("ada", "chunks", 1000)
    # What one has leased and not used is lost to the limit, and nothing of it comes back.
    clock.now += 1
    assert await passed(limiter, "ada", "chunks", 1000, 2000) + 106 + 4 == 1000
    assert await passed(other, "ada", "chunks", 1000, 10) == 0


async def test_the_last_requests_of_a_limit_are_not_lost_to_a_lease(client: RedisClient) -> None:
    one, other = Limiter(client), Limiter(client)
    assert await passed(other, "ada", "chunks", 199, 1) == 1
    assert await passed(one, "ada", "chunks", 1001, 2000) == 1001
    assert not one._asking


async def test_names_in_redis_carry_the_prefix_and_expire(
    client: RedisClient, server: RedisServer
) -> None:
    await Limiter(client).hit("ada", "chunks", 5)
    keys = await client.run(lambda redis: redis.keys("*"))
    assert keys
    for key in keys:
        assert key.startswith("lucid:limits")
        assert "ada" not in key
        assert 0 < await client.run(lambda redis, key=key: redis.ttl(key)) <= 2 * WINDOW  # type: ignore[misc]


# Redis away -----------------------------------------------------------------------------------


async def test_without_redis_each_process_keeps_the_limits_alone(
    client: RedisClient, server: RedisServer
) -> None:
    clock = Clock()
    limiter = Limiter(client, clock=clock)
    assert await passed(limiter, "ada", "chunks", 5, 3) == 3
    await limiter.healthy()
    server.kill()
    assert await passed(limiter, "ada", "chunks", 5, 20) == 5
    assert (await limiter.hit("ada", "chunks", 5)).reset_seconds >= 1
    with pytest.raises(RedisUnreachable, match="counts requests alone"):
        await limiter.healthy()
    server.start()
    clock.now += AWAY_FOR
    assert (await limiter.hit("ada", "chunks", 5)).remaining == 4
    await limiter.healthy()


async def test_a_hung_redis_is_waited_for_once(client: RedisClient, server: RedisServer) -> None:
    limiter = Limiter(client)
    await limiter.hit("ada", "chunks", 199)
    with server.standing_still():
        await limiter.hit("ada", "chunks", 199)
        started = time.monotonic()
        assert await passed(limiter, "ada", "chunks", 199, 150) == 150
        assert time.monotonic() - started < 0.5


async def test_an_installation_without_redis_has_limits_too() -> None:
    limiter = Limiter(None)
    assert await passed(limiter, "ada", "chunks", 3, 9) == 3
    with pytest.raises(RedisUnreachable, match="away"):
        await limiter.healthy()


async def test_memory_for_what_was_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "MAX_REMEMBERED", 3)
    limiter = Limiter(None)
    for number in range(9):
        await limiter.hit(str(number), "chunks", 3)
    assert len(limiter._seen) == 3


# Headers and arithmetic -------------------------------------------------------------------------


def test_the_headers_are_those_of_the_draft() -> None:
    assert Allowance(100, 42, 30, True).headers() == {
        "RateLimit-Policy": '"default";q=100;w=60', "RateLimit": '"default";r=42;t=30',
    }  # fmt: skip
    refused = Allowance(60, 0, 7, False).headers("statistics")
    assert refused["Retry-After"] == "7"
    assert refused["RateLimit"] == '"statistics";r=0;t=7'


def later(window: Window, seconds: float) -> Window:
    """The counter after some time without requests, as the library moves it on."""
    if seconds < window.left:
        return Window(
            window.before, max(0.0, window.before_left - seconds), window.now, window.left - seconds
        )
    since = seconds - window.left
    return Window(window.now, max(0.0, WINDOW - since), 0, max(0.0, WINDOW - since))


@given(
    st.integers(1, 1000), st.integers(0, 1000), st.floats(0, WINDOW), st.integers(0, 1000),
    st.floats(0, WINDOW),
)  # fmt: skip
def test_after_the_wait_one_more_request_is_under_the_limit(
    limit: int, before: int, before_left: float, now: int, left: float
) -> None:
    window = Window(before, min(before_left, left), min(now, limit), left)
    wait = window.wait(limit)
    assert later(window, wait + 0.001).count + 1 <= limit
    if window.count + 1 > limit and wait > 0.01:
        assert later(window, wait - 0.01).count + 1 >= limit
