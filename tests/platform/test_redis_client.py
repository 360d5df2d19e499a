"""Redis as clients see it: killed, restarted, hung, with a password, full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.platform.redis_client import RedisClient, RedisUnreachable, redis_key
from agents.platform.retry import Unreachable
from agents.platform.settings import NoEndpoint, Settings, SettingsError
from tests.platform.redis_server import RedisServer, redis_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as found:
        yield found


def settings_for(home: Path, url: str, prefix: str = "") -> Settings:
    return Settings.load(home=home, redis=url, topic_prefix=prefix)


async def test_commands_go_through_and_come_back(server: RedisServer, tmp_path: Path) -> None:
    async with RedisClient(settings_for(tmp_path, server.url, "t.")) as client:
        await client.ping()
        key = client.key("live", "x")
        assert key == redis_key(settings_for(tmp_path, server.url, "t."), "live", "x")
        assert key == "lucid:t.live:x"
        await client.run(lambda redis: redis.set(key, "ä"))
        assert await client.run(lambda redis: redis.get(key)) == "ä"


async def test_a_restart_costs_no_command(server: RedisServer, tmp_path: Path) -> None:
    async with RedisClient(settings_for(tmp_path, server.url)) as client:
        await asyncio.gather(*(client.ping() for _ in range(10)))
        server.restart()
        for _ in range(20):
            await client.ping()


async def test_a_killed_server_is_told_at_once(server: RedisServer, tmp_path: Path) -> None:
    async with RedisClient(settings_for(tmp_path, server.url)) as client:
        await client.ping()
        server.kill()
        started = time.monotonic()
        with pytest.raises(RedisUnreachable, match="LUCID_REDIS") as caught:
            await client.ping()
        assert time.monotonic() - started < 1
        assert isinstance(caught.value, Unreachable)
        server.start()
        await client.ping()


async def test_a_hung_server_is_waited_for_as_long_as_was_said(
    server: RedisServer, tmp_path: Path
) -> None:
    async with RedisClient(settings_for(tmp_path, server.url), seconds=0.2) as client:
        await client.run(lambda redis: redis.set("a", "1"))
        with server.standing_still():
            started = time.monotonic()
            with pytest.raises(RedisUnreachable):
                await client.ping()
            assert time.monotonic() - started < 2
        # No answer to the command that was given up is taken for that of another.
        assert await client.run(lambda redis: redis.get("a")) == "1"
        assert await client.run(lambda redis: redis.get("b")) is None


async def test_many_callers_share_the_connections(server: RedisServer, tmp_path: Path) -> None:
    async with RedisClient(settings_for(tmp_path, server.url), seconds=5) as client:
        await asyncio.gather(*(client.ping() for _ in range(500)))


async def test_a_wrong_password_says_so_without_it(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", ["--requirepass", "right"]) as server:
        good = server.url.replace("//", "//:right@")
        async with RedisClient(settings_for(tmp_path, good)) as client:
            await client.ping()
        for url in (server.url, server.url.replace("//", "//:hunter2@")):
            async with RedisClient(settings_for(tmp_path, url)) as client:
                with pytest.raises(RedisUnreachable, match="password") as caught:
                    await client.ping()
                assert "hunter2" not in str(caught.value)


async def test_a_full_server_is_an_error_like_any_other(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", ["--maxmemory", "1"]) as server:
        async with RedisClient(settings_for(tmp_path, server.url)) as client:
            with pytest.raises(RedisUnreachable, match="memory"):
                await client.run(lambda redis: redis.set("a", "1"))


@pytest.mark.parametrize(
    "url", ["http://me:hunter2@host/", "redis://host:port/", "redis://h/?db=x"]
)
def test_what_is_no_url_is_a_wrong_setting(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="LUCID_REDIS") as caught:
        RedisClient(settings_for(tmp_path, url))
    assert "hunter2" not in str(caught.value)


def test_without_an_address_there_is_no_client(tmp_path: Path) -> None:
    with pytest.raises(NoEndpoint, match="LUCID_REDIS"):
        RedisClient(Settings.load(home=tmp_path))
