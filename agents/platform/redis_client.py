"""Redis, behind this one module: short timeouts, one error, keys with the installation's prefix.

    async with RedisClient(settings) as client:
        await client.run(lambda redis: redis.get(client.key("live", session)))
        await client.ping()                     a check for health

Nothing in Redis is kept for ever or is the only copy of anything: whoever uses it says what
happens while it is away. A connection that broke is made anew by the next command; a command
is tried again once, at once, if its connection turns out to be broken.

Transient
└── Unreachable                (agents/platform/retry.py)
    └── RedisUnreachable       no answer in time, or an error for an answer
        └── RedisHandshakeFailed    it is there, and TLS fails
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from agents.platform.retry import Unreachable
from agents.platform.settings import NoEndpoint, Settings, SettingsError
from agents.platform.tls import handshake_advice, redis_options

ANSWER_SECONDS = 1.0
CONNECTIONS = 32
Result = TypeVar("Result")


class RedisUnreachable(Unreachable):
    """Redis does not answer, or not with what was asked for."""


class RedisHandshakeFailed(RedisUnreachable):
    """Redis is there, but one side does not trust the other."""


def redis_key(settings: Settings, *parts: str) -> str:
    """The name of a key: `lucid:`, the prefix of a shared installation, the parts."""
    return f"lucid:{settings.topic_prefix}{':'.join(parts)}"


def redis_if_set(settings: Settings) -> RedisClient | None:
    """A client, or None where neither a URL nor a running stack says where Redis is."""
    try:
        return RedisClient(settings)
    except NoEndpoint:
        return None


class RedisClient:
    """A pool of connections, made as they are needed. Raises NoEndpoint and SettingsError."""

    def __init__(self, settings: Settings, *, seconds: float = ANSWER_SECONDS) -> None:
        self._settings, self._seconds = settings, seconds
        url, options = settings.redis_url(), redis_options(settings)
        try:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=CONNECTIONS, timeout=seconds, socket_timeout=seconds,
                socket_connect_timeout=seconds, protocol=2, decode_responses=True,
                retry=Retry(NoBackoff(), 1, (RedisConnectionError,)), **options,
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            # The driver's own text may quote the URL, and so the password.
            raise SettingsError(
                "LUCID_REDIS is not a Redis URL", hint="Write redis://[USER:PASSWORD@]HOST:PORT/DB"
            ) from error
        self.redis: Redis = Redis(connection_pool=pool)
        self._pool = pool

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; a later command opens others."""
        await self._pool.disconnect()

    def key(self, *parts: str) -> str:
        return redis_key(self._settings, *parts)

    async def run(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """What `work` returns; raises RedisUnreachable, at the latest when its time is over."""
        try:
            async with asyncio.timeout(self._seconds):
                return await work(self.redis)
        except (AuthenticationError, NoPermissionError) as error:
            raise RedisUnreachable(
                f"Redis refuses us ({type(error).__name__})",
                hint="Look at user and password in LUCID_REDIS, and at the user's ACL",
            ) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> RedisUnreachable:
        advice = handshake_advice(str(error), "LUCID_REDIS")
        if advice is not None:
            return RedisHandshakeFailed(f"Redis: {advice[0]}", hint=advice[1])
        said = str(error)[:200] or "no answer"
        return RedisUnreachable(
            f"Redis does not answer ({said})",
            hint="Start one with `lucid stack up`, or set LUCID_REDIS to yours",
        )

    async def ping(self) -> None:
        """Raise RedisUnreachable unless Redis answers."""
        await self.run(lambda redis: redis.get(self.key("ping")))
