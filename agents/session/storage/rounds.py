"""The scrub as a part of storage: round after round, at a limited rate, on where it was.

HOME/scrub.json holds the place: the file that was looked at last, and when the last round
ended. Of several storage services that share a folder of blobs, one scrubs at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import structlog
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, ValidationError

from agents.platform.blobs import Blobs, StoreFailed
from agents.platform.catalog import Catalog
from agents.platform.eventbus import EventBus
from agents.platform.retry import Backoff, Transient, wait_stopped
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.session.storage.findings import Ledger
from agents.session.storage.metrics import ScrubMetrics
from agents.session.storage.reading import Halted, Reader
from agents.session.storage.scrub import Scrubber
from agents.session.storage.settings import StorageSettings

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 1.0
SAVE_EVERY = 5.0  # seconds; what lies between is looked at again after a crash


class Place(BaseModel):
    """Where a scrub is. session, name: of the file that was looked at last.

    begun, ended: wall time in seconds of this round's begin, of the last round's end.
    """

    model_config = ConfigDict(extra="forbid")

    session: str = ""
    name: str = ""
    begun: float | None = None
    ended: float = 0.0


def load_place(path: Path) -> Place:
    """The saved place; the beginning if there is none that can be read."""
    try:
        return Place.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Place()
    except (OSError, ValidationError) as error:
        log.warning("the scrub begins anew: its place cannot be read", file=str(path),
                    error=str(error)[:200])  # fmt: skip
        return Place()


def save_place(path: Path, place: Place) -> None:
    """Save it for the next start; a disk that does not take it costs a second look at files."""
    part = path.with_name(f".{path.name}-{token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(place.model_dump_json().encode())
        part.replace(path)
    except OSError as error:
        log.warning("cannot save where the scrub is", file=str(path), error=str(error))
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else scrubs this folder meanwhile. Raises StoreFailed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreFailed(f"cannot open {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


class Rounds:
    """Scrubs until the service stops (a Part)."""

    name = "scrub"

    def __init__(
        self, scrubber: Scrubber, ledger: Ledger, metrics: ScrubMetrics, file: Path, pause: float
    ) -> None:
        self._scrubber = scrubber
        self._ledger = ledger
        self._metrics = metrics
        self._file = file
        self._pause = pause
        self._place = load_place(file)
        self._saved = 0.0

    async def run(self, stop: StopSignal, /) -> None:
        """Scrub until `stop` is set; then leave at once, also from a catalog that hangs."""
        stop.on_set.append(self._scrubber.reader.halt)
        work = asyncio.create_task(self._work(stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([work], timeout=LEAVE_SECONDS)
            if work.done():
                work.result()
        finally:
            for task in (work, stopped):
                task.cancel()
        save_place(self._file, self._place)

    async def _work(self, stop: StopSignal) -> None:
        """Wait for the next round, or go on with the one that was stopped; again and again."""
        backoff = Backoff(first=1.0)
        while not stop.is_set():
            try:
                await self._ledger.open_findings()
                if await wait_stopped(stop, self._due()):
                    return
                with alone(self._scrubber.blobs.root) as ours:
                    if ours:
                        await self.round()
                if not ours:
                    await wait_stopped(stop, self._pause)
                backoff.reset()
            except Halted:
                return
            except Transient as error:
                log.warning("cannot scrub now", error=error)
                await wait_stopped(stop, backoff.next())

    def _due(self) -> float:
        """Seconds until the next round begins; 0 in the middle of one."""
        if self._place.begun is not None:
            return 0.0
        # A clock that was set back must not hold the scrub up for longer than a pause.
        return min(self._pause, max(0.0, self._place.ended + self._pause - time.time()))

    async def round(self) -> None:
        """Look at everything behind the saved place."""
        place = self._place
        if place.begun is None:
            self._place = place = Place(begun=time.time(), ended=place.ended)
        wrong = {one.session for one in await self._ledger.open_findings()}
        everything = sorted({*await self._scrubber.sessions(), *wrong})
        for session in everything:
            if session >= place.session:
                await self._session(session, place.name if session == place.session else "")
        begun = place.begun or time.time()
        self._place = Place(ended=time.time())
        self._metrics.round_seconds.set(max(0.0, self._place.ended - begun))
        self._metrics.round_end.set(self._place.ended)
        save_place(self._file, self._place)
        log.info("scrub round ended", sessions=len(everything), findings=self._ledger.count)

    async def _session(self, session: str, after: str) -> None:
        wrong = {one.name for one in await self._ledger.open_findings(session)}
        async for look in self._scrubber.look(session, after, dict.fromkeys(wrong)):
            if look.finding is not None or look.name in wrong:
                await self._ledger.note(session, look.name, look.finding)
            self._metrics.files.inc(look.there)
            self._place = self._place.model_copy(update={"session": session, "name": look.name})
            if time.monotonic() - self._saved >= SAVE_EVERY:
                self._saved = time.monotonic()
                save_place(self._file, self._place)


class Off:
    """No scrub (a Part that only waits)."""

    name = "scrub"

    async def run(self, stop: StopSignal, /) -> None:
        """Wait until the service stops."""
        await stop.wait()


def make_scrub(
    settings: Settings, section: StorageSettings, catalog: Catalog, events: EventBus,
    registry: CollectorRegistry, pool: Executor,
) -> Rounds | Off:  # fmt: skip
    """Storage's scrub. pool: of one thread of its own, which it takes from no storing."""
    if not section.scrub_rate:
        return Off()
    metrics = ScrubMetrics(registry)
    reader = Reader(int(section.scrub_rate), metrics.bytes.inc)
    scrubber = Scrubber(Blobs(settings.blobs_dir), catalog, reader, pool, section.scrub_grace)
    ledger = Ledger(catalog, events, metrics)
    file = settings.home / "scrub.json"
    return Rounds(scrubber, ledger, metrics, file, section.scrub_pause)
