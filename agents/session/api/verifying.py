"""Verifications on behalf of readers: the checks of `lucid verify`, without any private key.

They read every stored byte of a session, so few run at a time, a reader who does not want to
wait is told to come again, and a report is kept until the session has changed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID

from agents.platform.keys import load_trusted
from agents.platform.settings import Settings
from agents.platform.stored_sessions import find_session
from agents.platform.verification import run_verification
from schemas.verdicts import Report
from schemas.verify_documents import Access

KEPT = 200
FRESH_SECONDS = 300.0
WAITING = 32
"""Verifications that wait for their turn, beyond which a reader is told to come later."""


class TooMany(Exception):
    """More sessions wait to be verified than may."""


@dataclass(slots=True)
class Progress:
    """How many chunks are done, and of how many."""

    done: int = 0
    total: int = 0

    def step(self, done: int, total: int) -> None:
        self.done, self.total = done, total


@dataclass(frozen=True, slots=True)
class Verification:
    """One that runs or has ended. version: of the session it was begun for."""

    version: str
    task: asyncio.Task[Report]
    progress: Progress
    begun: float = field(default_factory=time.monotonic)


class Verifications:
    """At most `at_once` run; results are kept for a while."""

    def __init__(self, settings: Settings, at_once: int) -> None:
        self._settings = settings
        self._turn = asyncio.Semaphore(at_once)
        self._known: OrderedDict[str, Verification] = OrderedDict()

    def of(self, session: str, version: str) -> Verification:
        """The verification of a session as it is now; begins one; raises TooMany."""
        known = self._known.get(session)
        if known is not None and not self._stale(known, version):
            self._known.move_to_end(session)
            return known
        running = sum(not one.task.done() for one in self._known.values())
        if running >= WAITING:
            raise TooMany
        progress = Progress()
        found = Verification(version, asyncio.create_task(self._run(session, progress)), progress)
        self._known[session] = found
        self._forget()
        return found

    def _stale(self, known: Verification, version: str) -> bool:
        if not known.task.done():
            return False
        failed = known.task.cancelled() or known.task.exception() is not None
        old = time.monotonic() - known.begun > FRESH_SECONDS
        return failed or old or known.version != version

    def _forget(self) -> None:
        for session, known in list(self._known.items()):
            if len(self._known) <= KEPT:
                return
            if known.task.done():
                del self._known[session]

    async def _run(self, session: str, progress: Progress) -> Report:
        async with self._turn:
            trusted = load_trusted(self._settings)
            source = await find_session(self._settings, UUID(session), trusted)
            access = Access(tuple(trusted), ())
            return await asyncio.to_thread(
                run_verification, source, access, progress.step, workers=1
            )

    async def close(self) -> None:
        """End what waits; what runs in a thread ends with its chunk."""
        for known in self._known.values():
            known.task.cancel()
        await asyncio.gather(*(one.task for one in self._known.values()), return_exceptions=True)
