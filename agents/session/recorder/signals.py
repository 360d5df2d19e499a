"""Waiting in the event loop until something is so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changed:
    """Wakes everybody who waits for a condition; for use inside one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Something has changed: whoever waits looks again."""
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, look: Callable[[], bool]) -> None:
        """Wait until `look` is true."""
        while not look():
            await self._event.wait()
