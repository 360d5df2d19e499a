"""Waiting for a condition, with a deadline: tests sleep for nothing else.

    found = wait_for(lambda: done(session), "settled session", 60)
    found = await until(lambda: done(session), "settled session", 60)      look may be async, too

Without a name for what is waited for, a failure shows the condition's own line.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import time
from collections.abc import Awaitable, Callable
from typing import Any

SECONDS = 30.0
EVERY = 0.02


def wait_for(
    look: Callable[[], Any], what: str = "", seconds: float = SECONDS, *, every: float = EVERY
) -> Any:
    """The first true answer of `look`, asked once at least; AssertionError after a deadline."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise _late(look, what, seconds)
        time.sleep(every)
    return found


async def until(
    look: Callable[[], Any] | Callable[[], Awaitable[Any]], what: str = "",
    seconds: float = SECONDS, *, every: float = EVERY,
) -> Any:  # fmt: skip
    """The same beside other tasks; an answer that does not come is given up at the deadline."""
    try:
        async with asyncio.timeout(seconds) as limit:
            while True:
                found = look()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(every)
    except TimeoutError:
        if not limit.expired():
            raise  # the condition's own
        raise _late(look, what, seconds) from None


def _late(look: Callable[[], Any], what: str, seconds: float) -> AssertionError:
    if not what:
        code = getattr(look, "__code__", None)
        line = "" if code is None else linecache.getline(code.co_filename, code.co_firstlineno)
        return AssertionError(f"not within {seconds:g} s: {line.strip() or look!r}")
    return AssertionError(f"no {what} within {seconds:g} s")
