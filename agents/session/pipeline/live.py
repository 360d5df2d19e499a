"""Live state of running sessions, written to Redis beside everything else.

    live = LiveWriter(client)      a part of the service
    live.heard(event)              never waits, never raises

The last state of each session waits in memory until it is written; while Redis is away
newer ones take its place. A pipeline without Redis works the same and says so in its health.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import structlog
from redis.asyncio import Redis

from agents.platform.clock import wall_clock
from agents.platform.live import EXPIRES, check_live, live_key
from agents.platform.redis_client import RedisClient, RedisUnreachable
from agents.platform.retry import wait_stopped
from agents.platform.service import StopSignal
from schemas.canonical import encode
from schemas.events import SessionEvent
from schemas.live import LiveState, advanced

log = structlog.get_logger(__name__)

MAX_SESSIONS = 10_000
"""Sessions that are remembered; of more, those that were silent for longest are forgotten."""
BATCH = 500
AWAY_FOR = 5.0
"""Seconds for which Redis is left alone after it gave no answer."""


class LiveWriter:
    """Keeps `lucid:live:SESSION` up to date; a part of the pipeline."""

    name = "live"

    def __init__(
        self, client: RedisClient | None, *, clock: Callable[[], int] = wall_clock,
        away_for: float = AWAY_FOR,
    ) -> None:  # fmt: skip
        self._client, self._clock, self._away_for = client, clock, away_for
        self._states: OrderedDict[str, LiveState] = OrderedDict()
        self._waiting: dict[str, LiveState] = {}
        self._wake = asyncio.Event()
        self._away = False

    def heard(self, event: SessionEvent) -> None:
        """Note a sign of life, to be written soon."""
        if self._client is None:
            return
        state = advanced(self._states.get(event.subject), event, self._clock())
        if state is None:
            return
        self._states[state.session] = self._waiting[state.session] = state
        self._states.move_to_end(state.session)
        if len(self._states) > MAX_SESSIONS:
            oldest, _ = self._states.popitem(last=False)
            self._waiting.pop(oldest, None)
        self._wake.set()

    async def run(self, stop: StopSignal, /) -> None:
        """Write what waits, until the service stops; what waits then is let go."""
        stop.on_set.append(self._wake.set)
        while not stop.is_set():
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and not stop.is_set():
                if not await self._write():
                    await wait_stopped(stop, self._away_for)

    async def _write(self) -> bool:
        """Write a batch; whether Redis took it."""
        client = self._client
        assert client is not None
        batch = dict(list(self._waiting.items())[:BATCH])

        async def put(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                for session, state in batch.items():
                    pipe.set(live_key(client, session), encode(state), ex=EXPIRES)
                await pipe.execute()

        try:
            await client.run(put)
        except RedisUnreachable as error:
            if not self._away:
                log.warning("live state is missing", error=error)
            self._away = True
            return False
        if self._away:
            log.info("live state is written again")
        self._away = False
        for session, state in batch.items():
            if self._waiting.get(session) is state:
                del self._waiting[session]
        return True

    async def healthy(self) -> None:
        """Raise RedisUnreachable when live state is missing; for health, as advice."""
        await check_live(self._client)
