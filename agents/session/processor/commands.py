"""`lucid replay`: frame records processed again, compared with what is stored, and repaired."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import Progress

from agents.platform.audit import Audit
from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, ensure_contract
from agents.platform.eventbus import EventBus
from agents.platform.keys import KeyProblem, load_identities, load_signer, load_trusted
from agents.platform.output import (
    AsJson,
    Rows,
    errors,
    mark,
    plain,
    print_json,
    print_wide,
    quiet,
)
from agents.platform.producer import Producer
from agents.platform.reader import TopicReader, open_reader
from agents.platform.settings import Settings
from agents.session.processor.comparing import Comparing, SessionResult
from agents.session.processor.holding import HoldingBudget
from agents.session.processor.metrics import ProcessorMetrics
from agents.session.processor.ranges import (
    FRAMES,
    BadRange,
    Stretch,
    offset_stretch,
    session_stretch,
    time_stretches,
)
from agents.session.processor.repair import Repair
from agents.session.processor.replay import Passed, Replay, Step
from agents.session.processor.settings import ProcessorSettings
from agents.session.processor.worker import Shared
from schemas.audit import ChunksRepaired, SessionReplayed
from schemas.errors import LucidError
from schemas.notes import Signer
from schemas.sessions import parse_session_id

SERVICE = "replay"
MOST_INDEXES = 10_000  # in one audit event


class OutputTaken(LucidError):
    """The folder for a replay's results has something in it."""

    exit_status = 73  # EX_CANTCREAT of sysexits.h


@dataclass(frozen=True)
class Order:
    """What is to be replayed, and how. out: None for a folder that goes when nothing differs."""

    session: UUID | None = None
    from_offset: str | None = None
    to_offset: str | None = None
    from_time: datetime | None = None
    to_time: datetime | None = None
    out: Path | None = None
    identity: Path | None = None
    repair: bool = False


@dataclass
class Report:
    """A whole replay. passed: sessions with records in the range that were not replayed."""

    results: list[SessionResult]
    passed: list[Passed]
    seconds: float
    out: Path | None
    repaired: dict[str, list[int]] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """0 when everything that was replayed is identical, or has been repaired."""
        good = all(one.outcome in ("identical", "repaired") for one in self.results)
        return 0 if good else 1


def replay(
    session: Annotated[str | None, typer.Option(help="A session id.")] = None,
    from_offset: Annotated[
        str | None, typer.Option(help="PARTITION:OFFSET; sessions that open there or later.")
    ] = None,
    to_offset: Annotated[
        str | None, typer.Option(help="PARTITION:OFFSET before which they open.")
    ] = None,
    from_time: Annotated[
        datetime | None, typer.Option(help="Sessions that open at this time (UTC) or later.")
    ] = None,
    to_time: Annotated[
        datetime | None, typer.Option(help="Time (UTC) before which they open.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="An empty folder that gets all that the log gives.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help="A file of age identities; the processor's if not given.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Restore stored files from the log.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Process frame records again, compare with what is stored; exit status 1 if it differs."""
    if sum(choice is not None for choice in (session, from_offset, from_time)) != 1:
        raise typer.BadParameter("give one of --session, --from-offset and --from-time")
    if (to_offset and not from_offset) or (to_time and not from_time):
        raise typer.BadParameter("--to-offset needs --from-offset, --to-time needs --from-time")
    order = Order(
        session=parse_session_id(session) if session else None,
        from_offset=from_offset, to_offset=to_offset,
        from_time=from_time and _utc(from_time), to_time=to_time and _utc(to_time),
        out=out, identity=identity, repair=repair,
    )  # fmt: skip
    quiet()
    with _steps(as_json) as step:
        report = asyncio.run(run_replay(Settings.load(), ProcessorSettings.load(), order, step))
    if as_json:
        print_json(report_fields(report))
    else:
        _show(report)
    raise typer.Exit(report.exit_status)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def _steps(quiet: bool) -> Iterator[Step]:
    with Progress(console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task("Replaying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# Running -----------------------------------------------------------------------------------------


async def run_replay(
    settings: Settings, section: ProcessorSettings, order: Order, step: Step = lambda *_: None
) -> Report:
    """Replay, compare, repair if asked to, and leave an audit event for each session."""
    identities = load_identities(
        order.identity or section.identity or settings.keys_dir / "processor.age"
    )
    contract = await ensure_contract(settings)
    folder = _folder(settings, order)
    try:
        report = await _replay(settings, section, order, step, contract, identities, Blobs(folder))
    except BaseException:
        if order.out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if order.out is None and all(one.outcome != "different" for one in report.results):
        shutil.rmtree(folder, ignore_errors=True)
        report.out = None
    return report


async def _replay(
    settings: Settings, section: ProcessorSettings, order: Order, step: Step, contract: Contract,
    identities: list[str], out: Blobs,
) -> Report:  # fmt: skip
    store = Blobs(settings.blobs_dir)
    async with (
        Catalog(settings) as catalog,
        open_reader(settings, contract, FRAMES, int(section.fetch_bytes)) as log,
        _writing(settings, contract) as (events, audit),
    ):
        stretches = await _stretches(log, catalog, store, order, identities)
        started = time.monotonic()
        holding = HoldingBudget(int(section.hold_limit), settings.scratch_dir)
        with ThreadPoolExecutor(section.threads, thread_name_prefix="replay") as pool:
            comparing = Comparing(
                store, out, catalog, pool, load_trusted(settings), _signer(settings),
                keep_all=order.out is not None,
            )  # fmt: skip
            metrics = ProcessorMetrics(CollectorRegistry(), holding)
            shared = Shared(comparing, identities, pool, holding, metrics)
            reading = Replay(log, comparing, shared, int(section.busy_limit), order.session)
            await reading.run(stretches, step)
            results = await comparing.finish()
        report = Report(
            results, list(reading.passed.values()), time.monotonic() - started, out.root
        )
        try:
            if order.repair:
                repair = Repair(store, out, catalog, events)
                for found in results:
                    if indexes := await repair.session(found):
                        report.repaired[found.session] = indexes
        finally:
            await _leave_audit(audit, report)
    return report


def _folder(settings: Settings, order: Order) -> Path:
    folder = order.out or settings.scratch_dir / f"replay-{uuid4().hex[:12]}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputTaken(f"{folder} is not an empty folder", hint="Name a new one with --out")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _signer(settings: Settings) -> Signer | None:
    """The processor's, if its key is here; without it no checkpoint is made."""
    try:
        return load_signer(settings, "processor")
    except KeyProblem:
        return None


@asynccontextmanager
async def _writing(settings: Settings, contract: Contract) -> AsyncIterator[tuple[EventBus, Audit]]:
    async with Producer(settings, contract.limits) as producer:
        stop = asyncio.Event()
        stop.set()  # a command does not wait for a broker as long as a service does
        events = EventBus(producer, contract, service=SERVICE, host=settings.host, stop=stop)
        yield events, Audit(producer, contract, host=settings.host)


async def _stretches(
    log: TopicReader, catalog: Catalog, store: Blobs, order: Order, identities: list[str]
) -> list[Stretch]:
    if order.session is not None:
        return [await session_stretch(log, catalog, store, order.session, identities)]
    if order.from_offset is not None:
        return offset_stretch(log, order.from_offset, order.to_offset)
    if order.from_time is None:
        raise BadRange("neither a session nor an offset nor a time was named")
    return await time_stretches(log, catalog, order.from_time, order.to_time)


async def _leave_audit(audit: Audit, report: Report) -> None:
    for found in report.results:
        await audit.record(
            SessionReplayed(
                session=found.session, outcome=found.outcome, chunks=found.chunks,
                differences=len(found.differences),
            ),
            found.session,
        )  # fmt: skip
        indexes = report.repaired.get(found.session, [])
        for start in range(0, len(indexes), MOST_INDEXES):
            part = indexes[start : start + MOST_INDEXES]
            await audit.record(ChunksRepaired(session=found.session, indexes=part), found.session)


# Printing -----------------------------------------------------------------------------------------


def report_fields(report: Report) -> dict[str, Any]:
    """What `--json` prints."""
    raw = sum(found.raw_bytes for found in report.results)
    return {
        "identical": report.exit_status == 0,
        "sessions": [_fields(found) for found in report.results],
        "not_covered": [asdict(one) for one in report.passed],
        "raw_bytes": raw,
        "seconds": round(report.seconds, 3),
        "out": report.out,
    }


def _fields(found: SessionResult) -> dict[str, Any]:
    signed = found.binding.checkpoint.root.hex() if found.binding else None
    return {
        "session": found.session,
        "outcome": found.outcome,
        "partition": found.partition,
        "offset": found.offset,
        "ended": found.manifest is not None,
        "chunks": found.chunks,
        "identical": found.identical,
        "root": found.root,
        "signed_root": signed,
        "bound_by": found.binding.by if found.binding else None,
        "problem": found.problem or found.unopened,
        "differences": [asdict(row) for row in found.differences],
        "refused": found.refused,
    }


MARKS = {"identical": "[green]identical[/]", "repaired": "[green]repaired[/]",
         "different": "[red]DIFFERENT[/]", "unopened": "[red]not opened[/]"}  # fmt: skip


def _show(report: Report) -> None:
    table = Rows()
    for heading in ("session", "result"):
        table.add_column(heading, no_wrap=True)
    for heading in ("chunks", "identical"):
        table.add_column(heading, justify="right")
    table.add_column("root", no_wrap=True)
    for found in report.results:
        table.add_row(
            found.session, mark(MARKS[found.outcome]), str(found.chunks), str(found.identical),
            found.root[:16] + ("" if found.manifest else " (not ended)"),
        )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    if report.results:
        print_wide(table, 100)
    else:
        console.print("No session opens there, nothing was compared")
    for found in report.results:
        for text in filter(None, (found.problem, found.unopened)):
            console.print(f"{found.session}: {plain(text)}")
        for code, count in found.refused.items():
            console.print(f"{found.session}: {count} records are refused ({code})")
    _show_differences(report)
    for one in report.passed:
        console.print(f"[yellow]Not replayed[/] {plain(one.session)}: {plain(one.reason)} "
                      f"({one.partition}:{one.offset})")  # fmt: skip
    raw = sum(found.raw_bytes for found in report.results)
    rate = raw / 1e6 / report.seconds if report.seconds else 0
    console.print(f"{raw / 1e6:.1f} MB of records in {report.seconds:.1f} s, {rate:.0f} MB/s")
    if report.out is not None:
        console.print(f"What the log gave is in {plain(str(report.out))}")


def _show_differences(report: Report) -> None:
    rows = [(found, row) for found in report.results for row in found.differences]
    if not rows:
        return
    table = Rows()
    for heading in ("session", "file", "difference", "log gives", "stored", "what came of it"):
        table.add_column(heading)
    for found, row in rows:
        table.add_row(
            found.session, row.name, row.difference.value, (row.replayed or "")[:16],
            (row.stored or "nothing")[:16], row.repair or row.detail,
        )  # fmt: skip
    print_wide(table, 160)
