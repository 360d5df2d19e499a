"""The rounds: measure, compare with the limits, tell of alerts, send the samples.

Alerts come first and are never left out: what no broker takes waits, in order, and so does
the next evaluation once MOST_WAITING of them do. A sample that no broker takes is counted and
let go, for the next one says more. What is open is on `rdp.alerts` alone: a monitor that
starts reads it there, so that a crash between two steps raises nothing twice (an alert that
was not sent was not raised) and leaves nothing open (one that was sent is resumed).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from agents.platform.clock import wall_clock
from agents.platform.contract import Contract
from agents.platform.producer import Producer
from agents.platform.retry import Transient, retry, unless_stopped, wait_stopped
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.monitor.disk import Disk
from agents.rdp.monitor.metrics import MonitorMetrics
from agents.rdp.monitor.sampler import Sampler, folders_of
from agents.rdp.monitor.settings import MonitorSettings
from agents.rdp.monitor.targets import ServerTarget
from schemas.errors import FormatError
from schemas.rdp_metrics import (
    Alert,
    AlertEvent,
    AlertRaised,
    MetricsEvent,
    ServerMetrics,
    Subject,
    Tracked,
    alert_event,
    evaluate,
    resume,
    still_open,
)

log = structlog.get_logger(__name__)

MOST_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where samples and alerts go."""

    producer: Producer
    metrics_topic: str
    alerts_topic: str
    source: str

    @classmethod
    def of(cls, producer: Producer, contract: Contract, host: str) -> Outlet:
        return cls(
            producer, contract.topic("rdp.metrics").full_name,
            contract.topic("rdp.alerts").full_name, f"lucid/rdp-monitor/{host}",
        )  # fmt: skip

    async def tell(self, alert: Alert) -> None:
        """Send an alert; returns once the broker holds it. Raises Transient."""
        await self.producer.send_event(self.alerts_topic, alert_event(alert, self.source))

    async def samples(self, samples: Sequence[ServerMetrics]) -> None:
        """Send a round's samples; raises the first Transient."""
        await asyncio.gather(*(
            self.producer.send_event(
                self.metrics_topic, MetricsEvent(one, self.source, one.server)
            )
            for one in samples
        ))  # fmt: skip


async def open_alerts(settings: Settings, topic: str, host: str) -> list[AlertRaised]:
    """The alerts of a host that are raised and not resolved, as the topic has them."""
    found: list[Alert] = []
    async for record in read_topic(settings, topic):
        try:
            data = AlertEvent.from_kafka(record.key, record.headers, record.value).data
        except FormatError as error:
            log.warning("an alert cannot be read", offset=record.offset, error=error)
            continue
        assert isinstance(data, Alert)
        if data.host == host:
            found.append(data)
    return still_open(found)


class Rounds:
    """A part of the service: a round every now and then."""

    name = "rounds"

    def __init__(
        self, section: MonitorSettings, sampler: Sampler, disk: Disk, outlet: Outlet,
        targets: Callable[[], Sequence[ServerTarget]], metrics: MonitorMetrics, *,
        ready: asyncio.Event, settings: Settings, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._section, self._sampler, self._disk, self._outlet = section, sampler, disk, outlet
        self._targets, self._metrics, self._ready = targets, metrics, ready
        self._settings, self._clock = settings, clock
        self._rules = section.rules()
        self._watch: dict[Subject, Tracked] = {}
        self._waiting: deque[Alert] = deque()
        self._walking: asyncio.Task[int] | None = None
        self._last: float | None = None

    async def healthy(self) -> None:
        """Raise Transient when no round was done for three times as long as one takes to come."""
        if self._last is None:
            raise Transient("no round is done yet")
        late = self._clock() - self._last
        if late > 3 * self._section.every + 5:
            raise Transient(f"the last round was {late:.0f} s ago")

    async def run(self, stop: StopSignal, /) -> None:
        """Measure until `stop` is set."""
        try:
            await self._begin(stop)
            while not stop.is_set():
                started = self._clock()
                await unless_stopped(stop, self.round())
                await wait_stopped(stop, max(0.0, started + self._section.every - self._clock()))
        finally:
            if self._walking is not None:
                await asyncio.gather(self._walking, return_exceptions=True)
            self._disk.close()

    async def _begin(self, stop: StopSignal) -> None:
        """Wait until the servers are known, then take up the alerts that are open."""
        waits = [asyncio.create_task(one.wait()) for one in (self._ready, stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if stop.is_set():
            return
        topic, host = self._outlet.alerts_topic, self._settings.host
        try:
            alerts = await retry(lambda: open_alerts(self._settings, topic, host), stop=stop)
        except Transient:
            return  # only when the service stops
        self._watch, extra = resume(alerts, clock=self._clock())
        self._waiting.extend(extra)
        log.info("alerts taken up", open=len(self._watch), superseded=len(extra))

    async def round(self) -> list[ServerMetrics]:
        """One round; its samples."""
        started, used = self._clock(), time.process_time()
        targets = list(self._targets())
        samples = await asyncio.to_thread(self._sampler.sample, targets)
        self._walk(targets)
        if len(self._waiting) < MOST_WAITING:
            self._watch, alerts = evaluate(
                self._watch, samples, self._rules, clock=started, now=wall_clock()
            )
            self._waiting.extend(alerts)
        self._metrics.show(samples)
        self._metrics.standing(one.alert for one in self._watch.values() if one.alert is not None)
        if await self._tell():
            await self._send(samples)
        self._last = self._clock()
        self._metrics.seconds.observe(self._last - started)
        self._metrics.cpu.inc(time.process_time() - used)
        return samples

    def _walk(self, targets: Sequence[ServerTarget]) -> None:
        """Let the folders' sizes be found out beside the rounds, which do not wait for them."""
        if self._walking is not None and not self._walking.done():
            return
        if self._walking is not None:
            self._walking.result()
        # Only while no walk runs, for it goes over the same folders.
        self._disk.want(path for server in targets for path in folders_of(server))
        self._walking = asyncio.create_task(
            asyncio.to_thread(self._disk.step, self._section.disk_entries, self._clock())
        )

    async def _tell(self) -> bool:
        """Send the alerts that wait; whether the broker has all of them."""
        while self._waiting:
            alert = self._waiting[0]
            try:
                await self._outlet.tell(alert)
            except Transient as error:
                log.warning("alerts wait for the broker", waiting=len(self._waiting), error=error)
                return False
            self._waiting.popleft()
            self._metrics.told([alert])
            log.info("alert", change=type(alert).__name__, server=alert.server,
                     session=alert.session, metric=alert.metric,
                     percent=alert.percent)  # fmt: skip
        return True

    async def _send(self, samples: Sequence[ServerMetrics]) -> None:
        try:
            await self._outlet.samples(samples)
        except Transient as error:
            self._metrics.unsent.inc(len(samples))
            log.warning("samples are let go", samples=len(samples), error=error)
