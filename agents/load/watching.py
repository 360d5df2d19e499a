"""What the services and the broker do meanwhile: lag, processor time, memory. Once a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import psutil
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from agents.load.driver import Driver
from agents.load.latency import Summary
from agents.platform import stack
from agents.platform.settings import Settings
from agents.platform.stack import StackError
from agents.platform.tls import kafka_options

EVERY_SECONDS = 1.0
ANSWER_SECONDS = 2.0
GROUPS = ("processor", "storage")
SELF = "load"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Rates are bytes a second since the last one; times in seconds.

    lag: records that a group has not committed, None where the broker did not say. cpu: cores
    that a service takes; rss: bytes of its resident memory.
    """

    at: float
    sessions: int
    sent_rate: float
    confirmed_rate: float
    stored_rate: float
    outstanding: int
    confirmed: Summary | None
    stored: Summary | None
    lag: dict[str, int | None] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    rss: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Processes:
    """The services of this home folder, the stack's servers, and this very process."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "run"
        self._known: dict[int, tuple[str, psutil.Process]] = {}
        self._fixed = {psutil.Process().pid: SELF, **_servers(settings)}
        self.gone: set[str] = set()
        self.look()

    def look(self) -> tuple[dict[str, float], dict[str, int]]:
        """Cores and bytes of each service, its processes together."""
        cpu: dict[str, float] = {}
        rss: dict[str, int] = {}
        for pid, name in {**self._services(), **self._fixed}.items():
            if pid not in self._known:
                with contextlib.suppress(psutil.Error):
                    self._known[pid] = (name, psutil.Process(pid))
        for pid, (name, process) in list(self._known.items()):
            try:
                with process.oneshot():
                    cpu[name] = cpu.get(name, 0.0) + process.cpu_percent() / 100
                    rss[name] = rss.get(name, 0) + process.memory_info().rss
            except psutil.Error:
                del self._known[pid]
                self._fixed.pop(pid, None)
                self.gone.add(name)
        return cpu, rss

    def _services(self) -> dict[int, str]:
        found = {}
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                facts = json.loads(path.read_text())
                found[int(facts["pid"])] = str(facts["service"])
        return found


def _servers(settings: Settings) -> dict[int, str]:
    with contextlib.suppress(StackError):
        return {one.pid: one.server for one in stack.status(settings) if one.pid is not None}
    return {}


class Watch:
    """Takes samples until it is cancelled."""

    def __init__(self, settings: Settings, driver: Driver) -> None:
        self.samples: list[Sample] = []
        self._settings, self._driver = settings, driver
        self._processes = Processes(settings)
        self._before = (time.monotonic(), 0, 0, 0)

    @property
    def gone(self) -> list[str]:
        """Services that ended during the run."""
        return sorted(self._processes.gone)

    async def run(self) -> None:
        async with Lag(self._settings) as lag:
            while True:
                await asyncio.sleep(EVERY_SECONDS)
                self._take(await lag.look())

    def _take(self, lag: dict[str, int | None]) -> None:
        driver, now = self._driver, time.monotonic()
        cpu, rss = self._processes.look()
        counts = (now, driver.sent_bytes, driver.acknowledged_bytes, driver.stored_bytes)
        seconds = max(1e-3, now - self._before[0])
        sent, confirmed, stored = (
            (counts[place] - self._before[place]) / seconds for place in (1, 2, 3)
        )
        self._before = counts
        at = asyncio.get_running_loop().time() - driver.start if driver.start else 0.0
        self.samples.append(
            Sample(at, driver.running, sent, confirmed, stored, driver.outstanding,
                   driver.confirmed.slice(), driver.stored.slice(), lag, cpu, rss)
        )  # fmt: skip


class Lag:
    """How many records the groups of processor and storage have not committed."""

    def __init__(self, settings: Settings) -> None:
        milliseconds = int(ANSWER_SECONDS * 1000)
        self._admin = AIOKafkaAdminClient(
            **kafka_options(settings), request_timeout_ms=milliseconds
        )
        self._consumer = AIOKafkaConsumer(
            **kafka_options(settings), group_id=None, request_timeout_ms=milliseconds
        )
        self._groups = {name: f"{settings.topic_prefix}{name}" for name in GROUPS}

    async def __aenter__(self) -> Lag:
        with contextlib.suppress(KafkaError):
            await self._admin.start()
            await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(self._admin.close(), self._consumer.stop(), return_exceptions=True)

    async def look(self) -> dict[str, int | None]:
        """By group; None when the broker does not say, or nobody has committed anything."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return {name: await self._of(group) for name, group in self._groups.items()}
        except (KafkaError, TimeoutError, OSError, AttributeError):
            return dict.fromkeys(self._groups)

    async def _of(self, group: str) -> int | None:
        found = await self._admin.list_consumer_group_offsets(group)
        places = {place: at.offset for place, at in found.items() if at.offset >= 0}
        if not places:
            return None
        ends = await self._consumer.end_offsets(list(places))
        return sum(max(0, int(ends[place]) - int(at)) for place, at in places.items())


async def drained(settings: Settings, seconds: float) -> bool:
    """Whether nothing waits for processor and storage any more, within so many seconds."""
    deadline = time.monotonic() + seconds
    async with Lag(settings) as lag:
        while time.monotonic() < deadline:
            if not any((await lag.look()).values()):
                return True
            await asyncio.sleep(EVERY_SECONDS / 2)
    return False


async def complaints(settings: Settings) -> list[str]:
    """What the services of this machine say about why they are not ready."""
    found: list[str] = []
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS * 2)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        for path in sorted((settings.home / "run").glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TimeoutError,
                                     aiohttp.ClientError):  # fmt: skip
                facts = json.loads(path.read_text())
                url = f"http://{settings.bind}:{facts['port']}/health/ready"
                async with client.get(url) as answer:
                    checks = (await answer.json()).get("checks", {})
                found += [
                    f"{facts['service']} is not ready: {name}: {check.get('error', '')}"
                    for name, check in checks.items()
                    if not check.get("ok", True) and not check.get("advisory")
                ]
    return found
