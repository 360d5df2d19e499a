"""`lucid scrub`: the same look at stored files that storage takes, on demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.contract import load_contract
from agents.platform.eventbus import EventBus
from agents.platform.output import AsJson, Rows, errors, print_json, print_wide, quiet
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.session.storage.damage import Finding
from agents.session.storage.findings import Ledger
from agents.session.storage.reading import Reader
from agents.session.storage.scrub import NothingStored, Scrubber
from agents.session.storage.settings import StorageSettings
from schemas.sessions import parse_session_id

NAME = "scrub"


@dataclass
class Outcome:
    """What one scrub has seen. bytes: read, not the size of the files."""

    sessions: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "sessions": self.sessions, "files": self.files, "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "findings": [finding.as_json() for finding in self.findings],
        }  # fmt: skip


def scrub(
    session: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    show_open: Annotated[
        bool, typer.Option("--list", help="Read nothing: show the findings that are open.")
    ] = False,
    rate: Annotated[
        str, typer.Option(help="Bytes read a second, such as 8MiB; 0 is no limit.")
    ] = "0",
    record: Annotated[
        bool,
        typer.Option(
            "--record/--no-record", help="Keep findings in the catalog and send their events."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Compare stored files with the catalog; exit status 1 when any is wrong or missing."""
    settings = Settings.load()
    only = None if session is None else str(parse_session_id(session))
    quiet()
    if show_open:
        findings = asyncio.run(_open_findings(settings, only))
        if as_json:
            print_json({"findings": [one.as_json() for one in findings]})
        else:
            _show(findings)
            typer.echo(f"{len(findings)} findings are open")
        raise typer.Exit(1 if findings else 0)
    with Progress(
        SpinnerColumn(), *Progress.get_default_columns(), TextColumn("{task.fields[read]}"),
        console=errors, transient=True, disable=as_json or not errors.is_terminal,
    ) as bar:  # fmt: skip
        outcome = asyncio.run(_scrub(settings, only, _bytes(rate), record, bar))
    if as_json:
        print_json(outcome.as_json())
    else:
        _show(outcome.findings)
        Console(highlight=False).print(
            f"{outcome.files} files of {outcome.sessions} sessions, {outcome.bytes / 1e6:.1f} MB "
            f"read in {outcome.seconds:.1f} s: {len(outcome.findings)} findings"
        )
    raise typer.Exit(1 if outcome.findings else 0)


def _bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise typer.BadParameter(f"{text!r} is no number of bytes", param_hint="--rate") from error


def _show(findings: Sequence[Finding]) -> None:
    if not findings:
        return
    table = Rows()
    for heading in ("session", "file", "verdict"):
        table.add_column(heading, no_wrap=True)
    for heading in ("expected", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for one in findings:
        table.add_row(one.session, one.name, one.verdict, one.expected, one.found, one.advice)
    print_wide(table, 200)


async def _open_findings(settings: Settings, session: str | None) -> list[Finding]:
    async with Catalog(settings) as catalog:
        return await Ledger(catalog).open_findings(session)


@asynccontextmanager
async def _event_bus(settings: Settings, record: bool) -> AsyncIterator[EventBus | None]:
    if not record:
        yield None
        return
    contract = load_contract(settings)
    async with Producer(settings, contract.limits) as producer:
        yield EventBus(producer, contract, service=NAME, host=settings.host)


async def _scrub(
    settings: Settings, only: str | None, rate: int, record: bool, bar: Progress
) -> Outcome:
    outcome, begin = Outcome(), time.monotonic()

    def count(size: int) -> None:
        outcome.bytes += size

    reader = Reader(rate, count)
    task = bar.add_task("Scrubbing", total=None, read="")
    with ThreadPoolExecutor(1, thread_name_prefix="scrub") as pool:
        try:
            async with (
                Catalog(settings) as catalog,
                _event_bus(settings, record) as events,
            ):
                grace = StorageSettings.load().scrub_grace
                scrubber = Scrubber(Blobs(settings.blobs_dir), catalog, reader, pool, grace)
                ledger = Ledger(catalog, events)
                sessions = await _sessions(scrubber, ledger, only)
                bar.update(task, total=len(sessions))
                for session in sessions:
                    await _session(scrubber, ledger if record else None, session, outcome)
                    bar.update(task, advance=1, read=f"{outcome.bytes / 1e6:.1f} MB")
        finally:
            reader.halt()  # Ctrl-C: the thread must not hold up the end
    outcome.seconds = time.monotonic() - begin
    return outcome


async def _sessions(scrubber: Scrubber, ledger: Ledger, only: str | None) -> list[str]:
    wrong = {one.session for one in await ledger.open_findings()}
    everything = sorted({*await scrubber.sessions(), *wrong})
    if only is None:
        return everything
    if only not in everything:
        raise NothingStored(
            f"nothing is stored of session {only}", hint="`lucid sessions list` shows all sessions"
        )
    return [only]


async def _session(
    scrubber: Scrubber, ledger: Ledger | None, session: str, outcome: Outcome
) -> None:
    wrong = set() if ledger is None else {one.name for one in await ledger.open_findings(session)}
    async for look in scrubber.look(session, also=dict.fromkeys(wrong)):
        outcome.files += look.there
        if look.finding is not None:
            outcome.findings.append(look.finding)
        if ledger is not None and (look.finding is not None or look.name in wrong):
            await ledger.note(session, look.name, look.finding)
    outcome.sessions += bool(session)
