"""Live state of sessions, as the pipeline keeps it in Redis: a state is gone after a minute.

live = LiveStates(client)
await live.get(session) -> LiveState | None         None, too, while Redis is away
await live.get_many(sessions) -> {session: state}

lucid:live:SESSION    canonical JSON of schemas.live.LiveState, with expiry
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from agents.platform.redis_client import RedisClient, RedisUnreachable
from schemas.canonical import decode
from schemas.errors import FormatError
from schemas.live import LiveState

log = structlog.get_logger(__name__)

EXPIRES = 60
"""Seconds after its last sign of life for which a state is kept; signs come every 5 s."""
AWAY_FOR = 2.0
"""Seconds for which Redis is not asked again after it gave no answer."""


def live_key(client: RedisClient, session: str) -> str:
    return client.key("live", session)


async def check_live(client: RedisClient | None) -> None:
    """Raise RedisUnreachable when live state is missing; for health, as advice."""
    try:
        if client is None:
            raise RedisUnreachable("none is set")
        await client.ping()
    except RedisUnreachable as error:
        raise RedisUnreachable(f"redis: away, live state is missing ({error.what})") from error


class LiveStates:
    """What is known of sessions now. Never raises: without Redis nothing is known."""

    def __init__(
        self, client: RedisClient | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._clock = client, clock
        self._away_until = float("-inf")

    async def get(self, session: str) -> LiveState | None:
        """The state of a session that showed a sign of life within the last minute."""
        return (await self.get_many([session])).get(session)

    async def get_many(self, sessions: Sequence[str]) -> dict[str, LiveState]:
        """The states of those sessions that have one."""
        client = self._client
        if client is None or not sessions or self._clock() < self._away_until:
            return {}
        keys = [live_key(client, session) for session in sessions]
        try:
            texts = await client.run(lambda redis: redis.mget(keys))
        except RedisUnreachable as error:
            log.warning("live state is missing", error=error)
            self._away_until = self._clock() + AWAY_FOR
            return {}
        found = {}
        for session, text in zip(sessions, texts, strict=True):
            try:
                if text is not None:
                    found[session] = decode(LiveState, str(text).encode())
            except FormatError as error:
                log.warning("a live state cannot be read", session=session, error=error)
        return found

    async def healthy(self) -> None:
        """Raise RedisUnreachable while nothing is known."""
        await check_live(self._client)
