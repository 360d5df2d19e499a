"""What passes by itself: the error type, the pauses between tries, the shared deadline.

LucidError
├── Permanent             no other try will ever succeed: the record becomes a dead letter
└── Transient             worth another try, unchanged, in `retry_after` seconds
    └── Unreachable       a server does not answer
        ├── BrokerUnreachable
        └── CatalogUnreachable

    Transient(what, *, hint="", retry_after=None)
    Backoff(first=0.1, most=30, factor=2)      .next() -> seconds, .reset()
    Deadline(seconds)                          .remaining() -> seconds, .expired
    await within(seconds, work) -> whether it ended
    await unless_stopped(stop, work) -> whether it ended
    await retry(work, backoff=…, stop=…, deadline=…, on_retry=…)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from schemas.errors import LucidError

Result = TypeVar("Result")
GRACE = 3.0  # seconds that work under way gets once a service has to stop


class Permanent(LucidError):
    """What a record asks for cannot be done, now or later."""

    exit_status = 65  # EX_DATAERR of sysexits.h


class Transient(LucidError):
    """The trouble passes: the same try may succeed later. retry_after: seconds, if known."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h

    def __init__(self, what: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, hint=hint)
        self.retry_after = retry_after


class Unreachable(Transient):
    """A server that this process needs does not answer."""

    exit_status = 69  # EX_UNAVAILABLE of sysexits.h


class BrokerUnreachable(Unreachable):
    """No Kafka broker answers."""


class CatalogUnreachable(Unreachable):
    """The catalog (MongoDB) does not answer."""


class Deadline:
    """One point in time that several steps share, by the monotonic clock."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    @property
    def expired(self) -> bool:
        return self.remaining() == 0.0


class Backoff:
    """Pauses between tries: they double up to `most` seconds, each cut by up to a half.

    The random cut keeps members that failed together from trying again together.
    """

    def __init__(
        self,
        first: float = 0.1,
        most: float = 30.0,
        factor: float = 2.0,
        *,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        self._first, self._most, self._factor = first, most, factor
        self._random_share = random_share
        self._pause = first

    def next(self, at_least: float | None = None) -> float:
        """Seconds to wait before the next try; a server's own wish is a lower bound."""
        pause, self._pause = self._pause, min(self._pause * self._factor, self._most)
        return max(pause * (1 - self._random_share() / 2), at_least or 0.0)

    def reset(self) -> None:
        self._pause = self._first


async def wait_stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until `stop` is set or the seconds are over; whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True


async def within(seconds: float, work: Coroutine[Any, Any, object]) -> bool:
    """Wait for `work` but no longer, whatever it does when it is cancelled; whether it ended.

    `asyncio.timeout` waits on for work that swallows its cancellation.
    """
    working = asyncio.create_task(work)
    await asyncio.wait([working], timeout=seconds)
    if not working.done():
        working.cancel()
        return False
    if not working.cancelled():
        working.result()
    return True


async def unless_stopped(
    stop: asyncio.Event, work: Coroutine[Any, Any, object], *, grace: float = GRACE
) -> bool:
    """Do `work`, cancelling it `grace` seconds after `stop` is set; whether it ended.

    For what waits as long as a server is away, such as sending a record.
    """
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([working], timeout=grace)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        stopped.cancel()
        working.cancel()


async def retry(
    work: Callable[[], Awaitable[Result]],
    *,
    backoff: Backoff | None = None,
    stop: asyncio.Event | None = None,
    deadline: Deadline | None = None,
    on_retry: Callable[[Transient, float], None] | None = None,
) -> Result:
    """Call `work` until it raises no Transient; its last one when time is up or stop is set."""
    pauses, halt = backoff or Backoff(), stop or asyncio.Event()
    while True:
        try:
            return await work()
        except Transient as error:
            pause = pauses.next(error.retry_after)
            if halt.is_set() or (deadline is not None and pause > deadline.remaining()):
                raise
            if on_retry is not None:
                on_retry(error, pause)
            if await wait_stopped(halt, pause):
                raise
