"""Limits of requests, for each subject and route: a sliding window counter on Redis.

    limiter = Limiter(client)
    allowance = await limiter.hit(claims.subject, "chunks", rate=1000)     requests a minute
    response.headers.update(allowance.headers())
    if not allowance.allowed: …                                            429

The counter is that of the `limits` library: the requests of this minute, and those of the
minute before in proportion to how much of it still counts. A subject that asks often has a
few requests counted ahead (a lease), so that not each waits for Redis; what is not used within
a second is lost to it, and the limit is never passed. While Redis is away each process
counts by itself, from zero, to the same limits: an API of n processes then allows up to n
times as much, never everything. `healthy` says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from agents.platform.redis_client import RedisClient, RedisUnreachable

log = structlog.get_logger(__name__)

WINDOW = 60
"""Seconds of a window."""
AWAY_FOR = 2.0
"""Seconds for which Redis is not asked again after it gave no answer."""
LOOK_EVERY = 1.0
"""Seconds after which the count of the other processes is asked for again."""
MAX_REMEMBERED = 10_000
LEASE_SHARE, LEASE_MOST, LEASE_SECONDS = 200, 100, 1.0
"""Of each that many requests of a limit one is counted ahead, at most so many, for so long."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a request was told. limit, remaining: requests a minute.

    reset_seconds: until the window ends; of a refused request, until another one is allowed.
    """

    limit: int
    remaining: int
    reset_seconds: int
    allowed: bool

    def headers(self, policy: str = "default") -> dict[str, str]:
        """RateLimit fields as draft-ietf-httpapi-ratelimit-headers-10 has them.

        With Retry-After (RFC 9110, 10.2.3) when the request was refused.
        """
        fields = {
            "RateLimit-Policy": f'"{policy}";q={self.limit};w={WINDOW}',
            "RateLimit": f'"{policy}";r={self.remaining};t={self.reset_seconds}',
        }
        return fields if self.allowed else {**fields, "Retry-After": str(self.reset_seconds)}

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The same as ASGI has headers."""
        return [(name.lower().encode(), text.encode()) for name, text in self.headers().items()]


@dataclass(frozen=True, slots=True)
class Window:
    """Where a counter is. before, now: requests of the last and of this window.

    before_left, left: seconds for which each still counts, and goes on.
    """

    before: int
    before_left: float
    now: int
    left: float

    @property
    def count(self) -> int:
        return math.floor(self.before * self.before_left / WINDOW) + self.now

    def wait(self, limit: int) -> float:
        """Seconds until one more request is under the limit, if none comes meanwhile."""
        room = limit - self.now
        if room > 0:
            # The share of the window before has to shrink below `room`.
            return max(0.0, self.before_left - room * WINDOW / self.before) if self.before else 0.0
        # This window becomes the one before, and then shrinks.
        return self.left + max(0.0, WINDOW - limit * WINDOW / self.now)


@dataclass(slots=True)
class _Seen:
    """What Redis said of a counter the last time, and how many requests were counted since.

    leased: requests that are counted and were not made yet; until: when they are lost.
    """

    at: float
    window: Window
    since: int = 0
    leased: int = 0
    until: float = 0.0


class Limiter:
    """Counts requests. Made once for a process; `client` may be shared. None: no Redis."""

    def __init__(
        self, client: RedisClient | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._clock = client, clock
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = None if client is None else _on_redis(client)
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Lock] = {}
        self._away_until = float("-inf")
        self._alone = client is None

    async def hit(self, subject: str, route: str, rate: int) -> Allowance:
        """Count a request; never raises, and never lets more than `rate` a minute pass."""
        who = hashlib.sha256(subject.encode()).hexdigest()[:32]
        key = (who, route)
        if (leased := self._take_leased(key, rate)) is not None:
            return leased
        # One asks for all that wait: they take from what it leased.
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                return self._take_leased(key, rate) or await self._ask(key, rate)
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    def _take_leased(self, key: tuple[str, str], rate: int) -> Allowance | None:
        seen = self._seen.get(key)
        if seen is None or not seen.leased or self._clock() >= seen.until:
            return None
        seen.leased -= 1
        return self._allowance(rate, seen, True)

    async def _ask(self, key: tuple[str, str], rate: int) -> Allowance:
        item = RateLimitItemPerMinute(rate)
        shared = self._shared
        if shared is not None and self._client is not None and self._clock() >= self._away_until:
            try:
                found = await self._client.run(lambda _: self._count(shared, item, key))
            except RedisUnreachable as error:
                self._is_away(error)
            else:
                self._is_there()
                return found
        return await self._count(self._own, item, key)

    async def _count(
        self, limiter: SlidingWindowCounterRateLimiter, item: RateLimitItemPerMinute,
        key: tuple[str, str],
    ) -> Allowance:  # fmt: skip
        cost = max(1, min(item.amount // LEASE_SHARE, LEASE_MOST))
        allowed = await limiter.hit(item, *key, cost=cost)
        if not allowed and cost > 1:
            cost = 1
            allowed = await limiter.hit(item, *key)
        seen, now = self._seen.get(key), self._clock()
        if seen is None or not allowed or now - seen.at >= LOOK_EVERY:
            found = await limiter.storage.get_sliding_window(item.key_for(*key), WINDOW)  # type: ignore[attr-defined]
            before, before_left, count, left = found
            seen = _Seen(now, Window(before, before_left, count, max(0.0, left - WINDOW)))
            self._remember(key, seen)
        else:
            seen.since += cost
        if allowed:
            seen.leased, seen.until = cost - 1, now + LEASE_SECONDS
        return self._allowance(item.amount, seen, allowed)

    def _allowance(self, limit: int, seen: _Seen, allowed: bool) -> Allowance:
        window = seen.window
        free = limit - window.count - seen.since + seen.leased
        remaining = max(0, free) if allowed else 0
        seconds = window.left - (self._clock() - seen.at) if allowed else window.wait(limit)
        return Allowance(limit, remaining, max(1, math.ceil(seconds)), allowed)

    def _remember(self, key: tuple[str, str], seen: _Seen) -> None:
        self._seen[key] = seen
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def _is_away(self, error: RedisUnreachable) -> None:
        self._away_until = self._clock() + AWAY_FOR
        if not self._alone:
            log.warning("limits are counted by each process alone", error=error)
            self._seen.clear()
        self._alone = True

    def _is_there(self) -> None:
        if self._alone:
            log.info("limits are counted on Redis again")
            self._seen.clear()
        self._alone = False

    async def healthy(self) -> None:
        """Raise RedisUnreachable while each process counts alone; for health, as advice."""
        try:
            if self._client is None:
                raise RedisUnreachable("none is set")
            await self._client.ping()
        except RedisUnreachable as error:
            raise RedisUnreachable(
                f"redis: away, each process counts requests alone ({error.what})"
            ) from error


def _on_redis(client: RedisClient) -> SlidingWindowCounterRateLimiter:
    options: dict[str, Any] = {"connection_pool": client.redis.connection_pool}
    return SlidingWindowCounterRateLimiter(
        RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=client.key("limits"), **options
        )
    )
