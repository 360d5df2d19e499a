"""One load from its order to its report, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from agents.load.content import Content, load_content
from agents.load.counting import Stored, Verdict, count
from agents.load.driver import Driver
from agents.load.report import LATE_SECONDS, Counts, Outcome, Report, counted, shortcomings, slopes
from agents.load.schedule import Plan
from agents.load.session import Identity
from agents.load.watching import Watch, complaints
from agents.platform.catalog import Catalog
from agents.platform.contract import ensure_contract
from agents.platform.keys import load_recipients, load_signer
from agents.platform.listening import listening
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.errors import LucidError
from schemas.manifests import read_manifest
from schemas.topics import Contract

SETTLE_LOOK = 0.1
Begun = Callable[[Driver, Watch], None]


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What is wanted. noise, record_bytes: as in `load_content`. project: of all sessions.

    patience: seconds without any confirmation after which the broker is given up. settle:
    seconds for what was sent to be stored. objective: seconds from a chunk's last record to
    stored, of 99 in 100; None for none.
    """

    plan: Plan
    content: str = "office"
    noise: float = 0.0
    record_bytes: int = 0
    project: str = "lucid-load"
    patience: float = 15.0
    settle: float = 60.0
    objective: float | None = None

    def prepared(self) -> Content:
        """The content, long enough for a session; raises ContentError."""
        need = round(self.plan.rate * self.plan.duration)
        return load_content(
            self.content, noise=self.noise, record_bytes=self.record_bytes, need=need,
            seed=self.plan.seed,
        )  # fmt: skip


async def run_load(
    settings: Settings, order: LoadOrder, content: Content, on_begun: Begun | None = None
) -> Report:
    """Send it, wait until it is stored, count. Trouble of the servers is in the report."""
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{order.plan.seed}"
    try:
        contract = await ensure_contract(settings)
        identity = Identity(
            load_signer(settings, "recorder"), load_recipients(settings), settings.host,
            order.project, run, content.name,
        )  # fmt: skip
        producer = _producer(settings, contract)
        await producer.start()
    except LucidError as error:
        return Report(run, Outcome.REFUSED, [str(error)], Counts(), asdict(order))
    try:
        return await _begun(settings, order, content, identity, contract, producer, on_begun)
    finally:
        await producer.stop()


def _producer(settings: Settings, contract: Contract) -> Producer:
    """One for all sessions, where every host has its own: so its batches are as large as may be.

    While a partition's batch is full, whoever has the next record for it waits.
    """
    names = (contract.topic(name).full_name for name in ("session.frames", "session.events"))
    limits = {name: contract.limits[name] for name in names}
    return Producer(settings, limits, batch_bytes=max(limits.values()))


async def _begun(
    settings: Settings, order: LoadOrder, content: Content, identity: Identity,
    contract: Contract, producer: Producer, on_begun: Begun | None,
) -> Report:  # fmt: skip
    driver = Driver(contract, order.plan, content, identity, patience=order.patience)
    watch = Watch(settings, driver)
    if on_begun is not None:
        on_begun(driver, watch)
    began = time.monotonic()
    try:
        frames = contract.topic("session.frames").full_name
        partitions = len(await producer.kafka.partitions_for(frames))
        async with listening(settings, contract, "session.events") as poll:
            beside = [asyncio.create_task(work) for work in (driver.hear(poll), watch.run())]
            try:
                await driver.run(producer, partitions)
                sending = time.monotonic() - began
                await _settle(driver, order.settle)
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
    except LucidError as error:
        driver.problem(str(error))
        driver.broken = True
        sending = time.monotonic() - began
    return await _report(settings, order, content, identity.owner, driver, watch, sending)


async def _settle(driver: Driver, seconds: float) -> None:
    """Wait until storage has every session's manifest; not for what the broker never got."""
    if driver.broken:
        return
    deadline = time.monotonic() + seconds
    while len(driver.settled) < len(driver.sessions) and time.monotonic() < deadline:
        await asyncio.sleep(SETTLE_LOOK)


async def verdicts(settings: Settings, driver: Driver) -> list[Verdict]:
    """Each session's records against the catalog; raises CatalogUnreachable."""
    found = []
    async with Catalog(settings) as catalog:
        differing = [one["session"] for one in await catalog.find("conflicts")]
        for session in driver.sessions.values():
            chunks = [one async for one in catalog.chunks(session.name)]
            document = await catalog.get("manifests", session.name)
            manifest = None
            if document is not None:
                manifest = read_manifest(str(document["manifest"]).encode())
            stored = Stored.of(chunks, manifest, differing.count(session.name))
            found.append(count(session.name, session.sent, stored))
    return found


async def _report(
    settings: Settings, order: LoadOrder, content: Content, run: str, driver: Driver,
    watch: Watch, sending: float,
) -> Report:  # fmt: skip
    tally = {"sent": driver.sent, "confirmed": driver.acknowledged, "refused": driver.failed}
    problems: list[str] = []
    found: list[Verdict] = []
    counted_well = True
    try:
        found = await verdicts(settings, driver)
        counts = counted(found, **tally)
        problems += shortcomings(counts)
    except LucidError as error:
        counted_well = False
        counts = Counts(len(driver.sessions), **tally, unconfirmed=driver.outstanding)
        problems.append(f"nobody knows what was stored: {error}")
    problems += driver.problems
    problems += [f"{name} ended during the run" for name in watch.gone]
    if counts.lost and watch.samples:
        problems += [
            f"no {name} has ever committed anything on this broker: does one run?"
            for name, lag in watch.samples[-1].lag.items() if lag is None
        ]  # fmt: skip
    if problems:
        with contextlib.suppress(OSError):
            problems += await complaints(settings)
    bad = [one for one in found if not one.good]
    outcome = _outcome(driver, counted_well, bool(bad or counts.refused or counts.unconfirmed))
    late, stored = driver.late.summary(), driver.stored.summary()
    if outcome is Outcome.STOPPED:
        problems.append("it was stopped before its plan was over")
    if late is not None and late.p99 > LATE_SECONDS:
        problems.append(
            f"the generator itself was {late.p99:.1f} s behind its plan (p99): what is measured "
            "is its limit, or that of the broker's buffers, as well"
        )
    missed = _missed(order.objective, stored.p99 if stored is not None else None)
    if missed:
        problems.append(missed)
        outcome = Outcome.MISSED if outcome is Outcome.GOOD else outcome
    return Report(
        run, outcome, problems, counts, asdict(order), sending,
        driver.acknowledged_bytes / max(sending, 1e-3), content.compressed,
        driver.confirmed.summary(), stored, late, slopes(watch.samples), bad,
        tuple(watch.samples),
    )  # fmt: skip


def _outcome(driver: Driver, counted_well: bool, lossy: bool) -> Outcome:
    if driver.broken:
        return Outcome.BROKEN
    if not counted_well:
        return Outcome.UNCOUNTED
    if lossy:
        return Outcome.LOST
    return Outcome.STOPPED if driver.stopped else Outcome.GOOD


def _missed(objective: float | None, found: float | None) -> str:
    if objective is None:
        return ""
    if found is None:
        return f"no chunk was seen to be stored, so the objective of {objective:g} s is missed"
    if found > objective:
        return f"a chunk was stored after {found:.2f} s (p99), the objective is {objective:g} s"
    return ""
