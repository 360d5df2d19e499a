"""Revoked tokens: a list in Redis, checked at each request through a copy in this process.

    revocations = open_revocations(settings, contract, client)
    await revocations.check(claims.jti)          raises TokenRevoked or RevocationsUnknown
    await revocations.revoke(jti, reason)        once audit.events has it
    await revocations.listing()

The copy is read again when it is a second old. While that fails it stays good for `grace`
seconds; after that nobody knows what was revoked, and every token is refused. What the copy
has it keeps until the token has ended, whatever happens to Redis.

Redis may be restarted empty, or with what an old snapshot held. So the list names the
server (`run_id`) for which it is complete; when another one answers, `past` gives the
revocations that audit.events has, and the list is filled again before it counts. The mark is
a member of the list itself, so that whatever removes the one removes the other.

TokenRefused                   (agents/platform/tokens.py)
└── TokenRevoked               the token is on the list
Transient
└── Unreachable
    └── RevocationsUnknown     the list cannot be read for longer than the grace
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import structlog
from redis.asyncio import Redis

from agents.platform.contract import Contract
from agents.platform.redis_client import RedisClient
from agents.platform.retry import Unreachable
from agents.platform.settings import Settings
from agents.platform.tokens import TokenRefused
from agents.platform.topic_reader import read_topic
from schemas import audit
from schemas.access import MAX_LIFETIME, TokenId
from schemas.canonical import Count, Strict, decode, encode
from schemas.controls import Reason
from schemas.errors import FormatError, LucidError

log = structlog.get_logger(__name__)

KEPT = 2 * MAX_LIFETIME
"""Seconds that a revocation is kept: longer than a token that was valid can live."""
REFRESH_EVERY = 1.0
PATIENCE = 2.0
"""Seconds that a request waits for the list to be read, at most."""
_RUN = "run:"
_TYPE = b"lucid.audit.token_revoked.v1"


class TokenRevoked(TokenRefused):
    """The token was revoked before its time."""


class RevocationsUnknown(Unreachable):
    """Nobody can say whether a token was revoked: none is taken."""


class Revocation(Strict):
    """An entry of the list. at, until: seconds since 1970; after `until` it is forgotten."""

    jti: TokenId
    at: Count
    until: Count
    reason: Reason


def revocation(jti: str, reason: str, at: float) -> Revocation:
    """The entry of a token that is revoked at a time."""
    return Revocation(jti=jti, at=int(at), until=int(at) + KEPT, reason=reason)


async def revoked_lately(settings: Settings, contract: Contract) -> list[Revocation]:
    """The revocations of audit.events that are not to be forgotten yet.

    Raises BrokerUnreachable and TopicMissing.
    """
    topic, since = contract.topic("audit.events").full_name, time.time() - KEPT
    found = []
    async for record in read_topic(settings, topic, since_ms=max(0, int(since * 1000))):
        if dict(record.headers).get("ce_type") != _TYPE:
            continue
        try:
            event = audit.AuditEvent.from_kafka(record.key, record.headers, record.value)
        except FormatError as error:
            log.warning("an audit event cannot be read", offset=record.offset, error=error)
            continue
        if isinstance(event.data, audit.TokenRevoked):
            found.append(revocation(event.data.jti, event.data.reason, event.time.timestamp()))
    return found


Past = Callable[[], Awaitable[Sequence[Revocation]]]


def open_revocations(settings: Settings, contract: Contract, client: RedisClient) -> Revocations:
    """The installation's list, with its grace, filled from its `audit.events`."""
    return Revocations(
        client, lambda: revoked_lately(settings, contract), grace=settings.revocation_grace
    )


@dataclass(frozen=True, slots=True)
class _Listed:
    """What Redis says. run: its server; complete: whether the list is known to be whole."""

    run: str
    complete: bool
    until: dict[str, float]


class Revocations:
    """The list, and this process's copy of it.

    grace: seconds for which the copy is good while the list cannot be read.
    """

    def __init__(
        self,
        client: RedisClient,
        past: Past,
        *,
        grace: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._past, self._grace = client, past, grace
        self._clock, self._wall = clock, wall
        self._list = client.key("revoked")
        self._known: dict[str, float] = {}
        self._as_of = self._tried = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._problem: LucidError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is being read."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    # -- checking ----------------------------------------------------------------------------

    async def check(self, jti: str) -> None:
        """Raise TokenRevoked if a token was revoked, RevocationsUnknown if nobody can say."""
        await self.healthy()
        if self._known.get(jti, 0.0) > self._wall():
            raise TokenRevoked("the token was revoked", hint="Ask for another one")

    async def healthy(self) -> None:
        """Raise RevocationsUnknown when every token is refused; reads the list if it is due."""
        await self._refresh()
        age = self._clock() - self._as_of
        if age > self._grace:
            raise RevocationsUnknown(
                f"which tokens were revoked is not known ({self._problem or 'not read yet'})",
                hint="Tokens are taken again once Redis and, if it is empty, Kafka answer",
                retry_after=REFRESH_EVERY,
            )

    async def reachable(self) -> None:
        """Raise why the list could not be read the last time; for health, as advice."""
        await self._refresh()
        if self._problem is not None:
            raise self._problem

    async def _refresh(self) -> None:
        """Have the copy read again if it is a second old, and wait for that, within reason."""
        now = self._clock()
        if now - self._as_of < REFRESH_EVERY:
            return
        if now - self._tried >= REFRESH_EVERY and (self._reading is None or self._reading.done()):
            self._tried = now
            self._reading = asyncio.create_task(self._read())
        # While Redis is away nobody waits for it as long as the copy is good.
        if self._problem is not None and now - self._as_of <= self._grace:
            return
        patience = self._tried + PATIENCE - now
        if self._reading is not None and patience > 0:
            await asyncio.wait([self._reading], timeout=patience)

    async def _read(self) -> None:
        started = self._clock()
        try:
            listed = await self._client.run(self._listed)
            self._learn(listed.until)
            if not listed.complete:
                await self._fill(listed.run)
        except LucidError as error:
            if self._problem is None:
                log.warning("the revocation list cannot be read", error=error)
            self._problem = error
            return
        if self._problem is not None:
            log.info("the revocation list can be read again")
        self._problem, self._as_of = None, started

    def _learn(self, until: dict[str, float]) -> None:
        now = self._wall()
        for jti, end in until.items():
            self._known[jti] = max(end, self._known.get(jti, 0.0))
        self._known = {jti: end for jti, end in self._known.items() if end > now}

    # -- the list ----------------------------------------------------------------------------

    async def _listed(self, redis: Redis) -> _Listed:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.info("server")
            pipe.zrangebyscore(self._list, self._wall(), "+inf", withscores=True)
            info, members = await pipe.execute()
        run = str(info.get("run_id", ""))
        until = {str(name): float(end) for name, end in members}
        complete = until.pop(_RUN + run, None) is not None
        return _Listed(
            run, complete, {jti: end for jti, end in until.items() if not jti.startswith(_RUN)}
        )

    async def _fill(self, run: str) -> None:
        """Put in what audit.events has, and this copy, then the mark."""
        past = list(await self._past())
        self._learn({one.jti: one.until for one in past})

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=True) as pipe:
                self._put(pipe, past)
                pipe.zremrangebyscore(self._list, "+inf", "+inf")
                pipe.zadd(self._list, {**self._known, _RUN + run: float("inf")})
                await pipe.execute()

        await self._client.run(write)
        log.info("the revocation list was filled again", entries=len(past))

    def _put(self, pipe: Any, entries: Sequence[Revocation]) -> None:
        pipe.zremrangebyscore(self._list, "-inf", self._wall())
        for one in entries:
            left = one.until - int(self._wall())
            if left > 0:
                pipe.zadd(self._list, {one.jti: one.until}, gt=True)
                pipe.set(f"{self._list}:{one.jti}", encode(one), ex=left)

    async def revoke(self, jti: str, reason: str) -> Revocation:
        """Put a token on the list; raises RedisUnreachable.

        Call it once audit.events has it: without that, a restart of Redis would undo it.
        """
        entry = revocation(jti, reason, self._wall())

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=True) as pipe:
                self._put(pipe, [entry])
                await pipe.execute()

        await self._client.run(write)
        self._learn({jti: entry.until})
        return entry

    async def listing(self) -> list[Revocation]:
        """The entries of the list, the last ones first; raises RedisUnreachable, FormatError."""

        async def read(redis: Redis) -> list[Revocation]:
            until = (await self._listed(redis)).until
            texts = await redis.mget([f"{self._list}:{jti}" for jti in until]) if until else []
            return [
                decode(Revocation, str(text).encode())
                if text
                else revocation(jti, "not known any more", end - KEPT)
                for (jti, end), text in zip(until.items(), texts, strict=True)
            ]

        found = await self._client.run(read)
        return sorted(found, key=lambda one: (-one.at, one.jti))
