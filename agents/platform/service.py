"""What every `lucid run ROOM` does around its room.

    def main() -> int:                                           the exit status
        return run_service("storage", Settings.load(), StorageSettings.load(), build)

    @asynccontextmanager
    async def build(service: Service) -> AsyncIterator[Sequence[Part]]:
        async with Producer(service.settings, …, metrics=service.metrics) as producer:
            runner = Runner(…)
            service.health.add("runner", runner.healthy)
            yield [runner]                                       anything with run(stop)

A part runs until `stop` is set and then has until `stop.deadline` to finish and leave; the
data plane's Runner and the control plane are parts. A part that raises, or ends unasked,
stops the service. Start-up waits a bounded time for the broker, compares its topics with
the contract, then enters `build`.

Exit status: 0 after SIGTERM or SIGINT, an error's own, 70 for a bug, 1 when stopping took
longer than 10 s or a second signal came.

LucidError
└── PartEnded     a part ended although nobody asked it to
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import inspect
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog
import uvloop

from agents.platform.broker import BrokerProbe, wait_for_broker
from agents.platform.health import Health, HealthServer, free_disk
from agents.platform.logging import configure
from agents.platform.metrics import Metrics
from agents.platform.retry import Backoff, Deadline, Transient, retry
from agents.platform.settings import Settings
from schemas.errors import LucidError

log = structlog.get_logger(__name__)

KILL_AFTER = 9.5  # seconds from the signal to the hard exit; promised are 10
STOP_WITHIN = 8.0  # seconds that parts get; the rest is for closing what they used
START_WITHIN = 20.0  # seconds to wait for servers that are not there yet
BUG_STATUS = 70  # EX_SOFTWARE of sysexits.h
COLLECT_AFTER = 20_000  # new objects after which the garbage collector looks through them


class PartEnded(LucidError):
    """A part of a service ended although nobody asked it to."""


class StopSignal(asyncio.Event):
    """Set once, when the service has to stop; from then on `deadline` runs."""

    def __init__(self, seconds: float = STOP_WITHIN) -> None:
        super().__init__()
        self._seconds = seconds
        self.deadline = Deadline(float("inf"))
        self.on_set: list[Callable[[], None]] = []

    def set(self) -> None:
        if self.is_set():
            return
        self.deadline = Deadline(self._seconds)
        super().set()
        for call in self.on_set:
            call()


class Part(Protocol):
    """Something that runs as long as the service does."""

    async def run(self, stop: StopSignal, /) -> None:
        """Work until `stop` is set, then leave before `stop.deadline`."""


class ListeningSection(Protocol):
    """A room's settings, as far as a service needs them."""

    @property
    def port(self) -> int: ...


@dataclass
class Service:
    """What `build` is given."""

    name: str
    settings: Settings
    section: ListeningSection
    metrics: Metrics
    health: Health
    stop: StopSignal = field(default_factory=StopSignal)
    port: int = 0
    """Where health and metrics listen, once they do."""
    started: bool = False
    """Whether `build` is done; the service is not ready before."""

    async def check_started(self) -> None:
        """Raise Transient until everything is in its place."""
        if not self.started:
            raise Transient("the service is starting")

    @property
    def run_folder(self) -> Path:
        """Where a service says which port it has."""
        return self.settings.home / "run"

    async def wait_until(
        self, check: Callable[[], Awaitable[object]], seconds: float = START_WITHIN
    ) -> None:
        """Call `check` until it raises no Transient; its last one when the time is over."""
        await retry(check, backoff=Backoff(0.1, 2.0), deadline=Deadline(seconds))


Build = Callable[[Service], AbstractAsyncContextManager[Sequence[Part]]]
Prepare = Callable[[Service], AbstractAsyncContextManager[None]]


class Listening(Protocol):
    """What answers on the service's port."""

    @property
    def port(self) -> int: ...


Front = Callable[[Service], AbstractAsyncContextManager[Listening]]


def health_front(service: Service) -> HealthServer:
    """The front of a service that has nothing to answer but how it is."""
    return HealthServer(
        service.health, bind=service.settings.bind, port=service.section.port,
        folder=service.run_folder,
    )  # fmt: skip


def spare_collector(collect_after: int = COLLECT_AFTER) -> None:
    """What is there now stays: the garbage collector need not look through it time and again.

    A full collection of the 165,000 objects of the modules alone holds up everything for some
    100 ms, and with Python's own threshold of 700 the collector took a sixth of a processor's
    CPU and a quarter of storage's interpreter. Call it at the end of a service's `build`.
    collect_after: new objects, fewer where cycles may hold records and memory has a budget.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(collect_after, 10, 10)


def version() -> str:
    """The installed version of Lucid; `unknown` in a checkout that is not installed."""
    try:
        return importlib.metadata.version("lucid-recorder")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def make_service(name: str, settings: Settings, section: ListeningSection) -> Service:
    """A service with the checks that all have."""
    metrics = Metrics(name, version=version())
    health = Health(name, version=version(), metrics=metrics)
    folders = [settings.home, settings.scratch_dir]
    health.add("disk", free_disk(folders, least=int(settings.min_free)))
    service = Service(name, settings, section, metrics, health)
    health.add("start", service.check_started)
    return service


@contextlib.asynccontextmanager
async def with_broker(service: Service) -> AsyncIterator[None]:
    """Wait for the broker, compare it with the contract, and check on it from then on.

    Raises BrokerUnreachable, or the contract's errors with the difference.
    """
    await wait_for_broker(service.settings, seconds=START_WITHIN)
    from agents.platform.contract import ensure_contract

    comparison = ensure_contract(service.settings)
    if inspect.isawaitable(comparison):
        await comparison
    async with BrokerProbe(service.settings) as probe:
        service.health.add("kafka", probe.check, timeout=5.0)
        yield


def run_service(
    name: str,
    settings: Settings,
    section: ListeningSection,
    build: Build,
    *,
    prepare: Prepare = with_broker,
    front: Front = health_front,
) -> int:
    """Run a room until a signal comes; returns the exit status. Call it once, in `main`."""
    configure(name, settings.log_level)
    service = make_service(name, settings, section)
    # Beyond the loop, too: a thread that hangs would hold up its closing.
    killer = threading.Timer(KILL_AFTER, _exit_hard, ["stopping took too long"])
    killer.daemon = True
    service.stop.on_set.append(killer.start)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(service, build, prepare, front))
    finally:
        killer.cancel()


async def serve(
    service: Service, build: Build, prepare: Prepare = with_broker, front: Front = health_front
) -> int:
    """Run a service inside a running loop; returns the exit status."""
    log.info("starting", version=version(), pid=os.getpid())
    work = asyncio.create_task(_work(service, build, prepare))
    service.health.watch(work)
    status = 0
    with _signals(service):
        try:
            async with front(service) as server:
                service.port = server.port
                await work
        except asyncio.CancelledError:
            if not service.stop.is_set():
                raise
        except LucidError as error:
            status = error.exit_status or 1
            # With a hint it says all there is to say: where it came from is for bugs.
            log.error("service failed", error=error, exc_info=not error.hint and error.__cause__)
        except Exception as error:
            status = BUG_STATUS
            log.exception("service failed", error=error)
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await work
    log.info("stopped", status=status)
    return status


async def _work(service: Service, build: Build, prepare: Prepare) -> None:
    starting = asyncio.create_task(service.stop.wait())
    main = asyncio.current_task()
    assert main is not None
    # A start-up that waits for a server has nothing to finish: the signal cancels it.
    starting.add_done_callback(lambda task: None if task.cancelled() else main.cancel())
    try:
        async with prepare(service), build(service) as parts:
            starting.cancel()
            service.started = True
            log.info("ready", port=service.port)
            await _run_parts(service, parts)
    finally:
        starting.cancel()


async def _run_parts(service: Service, parts: Sequence[Part]) -> None:
    """Run all parts until one fails or `stop` is set; raises the first error."""
    tasks = {asyncio.create_task(part.run(service.stop)): _name(part) for part in parts}
    stopped = asyncio.create_task(service.stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        done = [] if service.stop.is_set() else [task for task in tasks if task.done()]
        early = [tasks[task] for task in done]
        for task in done:
            # Now: a part that then does not stop may leave no time to say it at the end.
            if not task.cancelled():
                log.error("part ended, stopping", part=tasks[task], error=task.exception())
        service.health.stopping()
        service.stop.set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=service.stop.deadline.remaining())
            for task in late:
                log.warning("part does not stop, cancelling it", part=tasks[task])
    finally:
        stopped.cancel()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    _raise_first(list(zip(tasks.values(), results, strict=True)), early)


def _raise_first(results: list[tuple[str, object]], early: list[str]) -> None:
    errors = [
        (name, result) for name, result in results
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError)
    ]  # fmt: skip
    errors.sort(key=lambda found: found[0] not in early)
    for name, error in errors[1:]:
        log.error("part failed while stopping", part=name, error=error)
    if errors:
        raise errors[0][1]
    if early:
        raise PartEnded(f"part {early[0]} ended although the service was not asked to stop")


def _name(part: Part) -> str:
    return str(getattr(part, "name", "") or type(part).__name__)


@contextlib.contextmanager
def _signals(service: Service) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if service.stop.is_set():
            _exit_hard(f"stopped by a second {number.name}")
        log.info("stopping", signal=number.name)
        service.health.stopping()
        service.stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _exit_hard(why: str) -> None:
    log.critical("hard exit", reason=why)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(1)
