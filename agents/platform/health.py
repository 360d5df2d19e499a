"""The HTTP side of a service: /health, /health/live, /health/ready and /metrics.

    health = Health("storage", version="0.1.0", metrics=metrics)
    health.add("catalog", catalog.ping, timeout=2)   await catalog.ping() raises when it is ill
    health.add("disk", free_disk([folder], least=500 << 20))
    health.add("redis", client.ping, advisory=True)  what the service can do without
    async with HealthServer(health, bind="127.0.0.1", port=0, folder=home / "run") as server:
        server.port

/health/ready runs every check, 503 when one fails that is not advisory; /health/live says
that the event loop turns and the main task lives; /health is the summary. Results are kept
for a second, and asking again meanwhile waits for the same run, so a storm of probes costs
one check.
The port in use stands in HOME/run/SERVICE-PID.json while the service runs.

LucidError
├── PortTaken         the health port is in use
├── HomeUnwritable    the folder of the setting LUCID_HOME cannot be written to
└── Transient
    └── DiskFull      less free space than `min_free`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import structlog
from aiohttp import web

from agents.platform.logging import hide
from agents.platform.metrics import Metrics
from agents.platform.retry import Transient
from schemas.errors import LucidError

log = structlog.get_logger(__name__)

CACHE_SECONDS = 1.0
CHECK_SECONDS = 2.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Check = Callable[[], Awaitable[object]]
Answer = tuple[int, dict[str, object]]
"""An HTTP status, and the members of a JSON object."""


class PortTaken(LucidError):
    """The health and metrics port cannot be listened on."""

    exit_status = 78


class HomeUnwritable(LucidError):
    """A service cannot write to its home folder."""

    exit_status = 73  # EX_CANTCREAT of sysexits.h


class DiskFull(Transient):
    """A folder has less free space than the settings ask for."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found. seconds: how long it took."""

    name: str
    ok: bool
    seconds: float
    error: str = ""
    code: str = ""
    advisory: bool = False

    @property
    def fails(self) -> bool:
        """Whether the service is not ready because of it."""
        return not self.ok and not self.advisory


def free_bytes(folder: Path) -> int:
    """Bytes that an ordinary user may still write where `folder` is, or will be."""
    path = folder.absolute()
    there = next(one for one in (path, *path.parents) if one.exists())
    return shutil.disk_usage(there).free


def free_disk(folders: Sequence[Path], least: int) -> Check:
    """A check that each folder's file system has at least `least` free bytes."""

    def look() -> None:
        for folder in folders:
            free = free_bytes(folder)
            if free < least:
                raise DiskFull(
                    f"{folder} has {free} free bytes, fewer than {least}",
                    hint="Free some space, or lower LUCID_MIN_FREE",
                )

    async def check() -> None:
        await asyncio.to_thread(look)

    return check


class Health:
    """The checks of one service."""

    def __init__(
        self,
        service: str,
        *,
        version: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service, self.version, self.metrics = service, version, metrics
        self._clock = clock
        self._since = clock()
        self._checks: dict[str, tuple[Check, float, bool]] = {}
        self._main: asyncio.Task[object] | None = None
        self._stopping = False
        self._last: tuple[float, list[Result]] | None = None
        self._lock = asyncio.Lock()

    def add(
        self, name: str, check: Check, timeout: float = CHECK_SECONDS, *, advisory: bool = False
    ) -> None:
        """Register a check: a coroutine function that raises when something is wrong.

        An advisory one shows what the service does without; it stays ready.
        """
        if name in self._checks:
            raise ValueError(f"a check named {name} is there already")
        self._checks[name] = (check, timeout, advisory)
        self._last = None

    def remove(self, name: str) -> None:
        """Forget a check, if it is there."""
        self._checks.pop(name, None)
        self._last = None

    def watch(self, main: asyncio.Task[object]) -> None:
        """The task without which the service is not alive."""
        self._main = main

    def stopping(self) -> None:
        """The service is not ready any more; it still lives."""
        self._stopping = True

    @property
    def alive(self) -> bool:
        return self._main is None or not self._main.done()

    @property
    def uptime(self) -> float:
        return self._clock() - self._since

    async def ready(self) -> list[Result]:
        """The result of every check, at most a second old."""
        async with self._lock:
            if self._last is None or self._clock() - self._last[0] >= CACHE_SECONDS:
                run = [self._run(name, *check) for name, check in self._checks.items()]
                self._last = (self._clock(), list(await asyncio.gather(*run)))
            results = list(self._last[1])
        if self._stopping:
            results.append(Result("service", False, 0.0, "the service is stopping", "Stopping"))
        return results

    # -- what is answered ---------------------------------------------------------------------

    def _answer(self, ok: bool, body: dict[str, object]) -> Answer:
        status = "ok" if ok else "failing"
        return 200 if ok else 503, {"status": status, "service": self.service, **body}

    async def live(self) -> Answer:
        """Whether the event loop turns and the main task lives."""
        return self._answer(self.alive, {})

    async def readiness(self) -> Answer:
        """Every check."""
        results = await self.ready()
        checks: dict[str, object] = {result.name: _without_name(result) for result in results}
        ok = self.alive and not any(result.fails for result in results)
        return self._answer(ok, {"checks": checks})

    async def summary(self) -> Answer:
        """What is running, and what fails."""
        results = await self.ready()
        return self._answer(self.alive and not any(result.fails for result in results), {
            "version": self.version,
            "uptime": round(self.uptime, 3),
            "alive": self.alive,
            "failing": [result.name for result in results if result.fails],
            "degraded": [r.name for r in results if r.advisory and not r.ok],
        })  # fmt: skip

    async def _run(self, name: str, check: Check, timeout: float, advisory: bool) -> Result:
        start = time.perf_counter()
        error = code = ""
        try:
            async with asyncio.timeout(timeout):
                await check()
        except TimeoutError:
            error, code = f"no answer within {timeout:g} s", "Timeout"
        except Exception as found:  # noqa: BLE001 - whatever a check raises is its result
            error = hide(str(found) or type(found).__name__)
            code = found.code if isinstance(found, LucidError) else type(found).__name__
        seconds = round(time.perf_counter() - start, 6)
        self.metrics.checked(name, not code)
        return Result(name, not code, seconds, error, code, advisory)


def make_app(health: Health) -> web.Application:
    """The four routes."""

    def responder(of: Callable[[], Awaitable[Answer]]) -> Callable[[web.Request], Any]:
        async def respond(_: web.Request) -> web.Response:
            status, body = await of()
            return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})

        return respond

    async def metrics(_: web.Request) -> web.Response:
        body = await asyncio.to_thread(health.metrics.exposition)
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})

    app = web.Application()
    app.router.add_get("/health", responder(health.summary))
    app.router.add_get("/health/live", responder(health.live))
    app.router.add_get("/health/ready", responder(health.readiness))
    app.router.add_get("/metrics", metrics)
    return app


def _without_name(result: Result) -> dict[str, object]:
    fields = asdict(result)
    del fields["name"]
    if not result.advisory:
        del fields["advisory"]
    if result.ok:
        del fields["error"], fields["code"]
    return fields


def _forget_killed(folder: Path, service: str) -> None:
    """Remove the files of this service's processes that are not there any more."""
    for path in folder.glob(f"{service}-*.json"):
        number = path.stem.removeprefix(f"{service}-")
        if number.isdigit() and not _runs(int(number)):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


@contextlib.contextmanager
def announced(folder: Path, service: str, port: int) -> Iterator[None]:
    """The port in use stands in a file of `folder` meanwhile; those of killed ones go."""
    _forget_killed(folder, service)
    path = folder / f"{service}-{os.getpid()}.json"
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"service": service, "pid": os.getpid(), "port": port}))
        part.replace(path)
    except OSError as error:
        raise HomeUnwritable(
            f"cannot write to {folder} ({error.strerror})",
            hint="Set LUCID_HOME to a folder, or a volume, that this user can write to",
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def port_variable(service: str) -> str:
    """The setting of a service's port; those of the RDP rooms leave the `rdp-` out."""
    return f"LUCID_{service.removeprefix('rdp-').replace('-', '_').upper()}_PORT"


def port_taken(service: str, bind: str, port: int, error: OSError) -> PortTaken:
    """The error of a port that cannot be listened on."""
    return PortTaken(
        f"cannot listen on {bind}:{port} ({error.strerror})",
        hint=f"Set {port_variable(service)} to another, or to 0 for any free one",
    )


class HealthServer:
    """Listens while it is entered; `port` is the one in use."""

    def __init__(self, health: Health, *, bind: str, port: int, folder: Path) -> None:
        self._health = health
        self._bind = bind
        self.port = port
        self._folder = folder
        self._announced = contextlib.ExitStack()
        self._runner = web.AppRunner(make_app(health), access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._bind, self.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise port_taken(self._health.service, self._bind, self.port, error) from error
        self.port = self._runner.addresses[0][1]
        self._announced.enter_context(announced(self._folder, self._health.service, self.port))
        log.info("listening", bind=self._bind, port=self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._announced.close()
        await self._runner.cleanup()
