"""`lucid load`: made-up sessions of recorded screen content, as many as are asked for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.live import Live

from agents.load.driver import Driver
from agents.load.limit import Search
from agents.load.plots import require_folder, require_plots, write_report
from agents.load.report import Outcome, Report, show
from agents.load.running import LoadOrder, run_load
from agents.load.schedule import Arrival, Plan
from agents.load.watching import Watch, drained
from agents.platform.output import AsJson, Rows, errors, print_json, quiet, say
from agents.platform.settings import Settings
from schemas.errors import LucidError

Result = TypeVar("Result")
OBJECTIVE = 2.0
SHOW_SECONDS = 0.5


class LoadFailed(LucidError):
    """A load lost something, broke off, or missed its objective; its report says what."""


def _bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise typer.BadParameter(f"{text!r} is no size, such as 50kB or 64KiB") from error


def load(
    sessions: Annotated[int, typer.Option(help="How many.", min=1, max=100_000)] = 10,
    rate: Annotated[str, typer.Option(help="Of each session, a second, such as 50kB.")] = "50kB",
    duration: Annotated[float, typer.Option(help="Seconds of each session.", min=1)] = 30.0,
    arrival: Annotated[Arrival, typer.Option(help="How they begin.")] = Arrival.EVEN,
    ramp: Annotated[float, typer.Option(help="Seconds in which they begin.", min=0)] = 5.0,
    content: Annotated[str, typer.Option(help="office, text, video, or a file.")] = "office",
    noise: Annotated[
        float, typer.Option(help="Share of bytes that does not compress.", min=0, max=0.95)
    ] = 0.0,
    record_size: Annotated[
        str, typer.Option(help="Updates go together up to that size; 0: as recorded.")
    ] = "0",
    seed: Annotated[int, typer.Option(help="The same seed, the same load.")] = 0,
    project: Annotated[str, typer.Option(help="Of all sessions.", max=1000)] = "lucid-load",
    objective: Annotated[
        float | None,
        typer.Option(help="Seconds from a chunk's last record to stored, p99.", min=0.01),
    ] = None,
    find_limit: Annotated[
        bool, typer.Option("--find-limit", help="More sessions until the objective breaks.")
    ] = False,
    most: Annotated[int, typer.Option(help="With --find-limit: no more than.", min=1)] = 10_000,
    patience: Annotated[
        float, typer.Option(help="Seconds of a silent broker to its being given up.", min=1)
    ] = 15.0,
    settle: Annotated[float, typer.Option(help="Seconds for the rest to be stored.", min=0)] = 60.0,
    report: Annotated[Path | None, typer.Option(help="Folder for JSON, PNG and HTML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what broker and services carry, with many recorded screens at once.

    Not 0 is returned when anything was lost or the objective was missed.
    """
    each = _bytes(rate)
    if each < 1:
        raise typer.BadParameter("--rate is at least a byte a second")
    if find_limit and objective is None:
        objective = OBJECTIVE
    plan = Plan(sessions, each, duration, arrival, ramp, seed)
    order = LoadOrder(plan, content, noise, _bytes(record_size), project, patience, settle,
                      objective)  # fmt: skip
    if report is not None:
        require_plots()
        require_folder(report)
    settings = Settings.load()
    quiet()
    if find_limit:
        _run(_limit(settings, order, most, report, as_json))
        return
    found = _run(_one(settings, order, live=not as_json))
    _tell(found, report, as_json)
    if not found.good:
        raise LoadFailed(f"{found.outcome}: {'; '.join(found.problems[:3])}")


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _tell(found: Report, folder: Path | None, as_json: bool) -> None:
    if folder is not None:
        for path in write_report(found, folder):
            say(f"Written to {path}")
    if as_json:
        print_json(found.as_dict())
    else:
        show(found, Console(highlight=False))


async def _one(settings: Settings, order: LoadOrder, *, live: bool) -> Report:
    """One load, shown while it runs; Ctrl-C ends its sessions and counts what there is."""
    loop = asyncio.get_running_loop()
    shown: list[asyncio.Task[None]] = []

    def begun(driver: Driver, watch: Watch) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, driver.stop)
        if live and errors.is_terminal:
            shown.append(asyncio.create_task(_show(driver, watch)))

    content = await asyncio.to_thread(order.prepared)
    try:
        return await run_load(settings, order, content, begun)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        for task in shown:
            task.cancel()
        await asyncio.gather(*shown, return_exceptions=True)


async def _show(driver: Driver, watch: Watch) -> None:
    with Live(_table(driver, watch), console=errors, auto_refresh=False) as view:
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            view.update(_table(driver, watch), refresh=True)


def _table(driver: Driver, watch: Watch) -> Rows:
    """Where a load is."""
    table = Rows(header=False)
    last = watch.samples[-1] if watch.samples else None
    seconds = max(0.0, last.at) if last is not None else 0.0
    table.add_row(f"{seconds:.0f} of {driver.plan.seconds:.0f} s", f"{driver.running} sessions",
                  f"{driver.sent} sent", f"{driver.outstanding} on their way",
                  f"{driver.failed} refused")  # fmt: skip
    if last is not None:
        p99 = f"{last.confirmed.p99:.3f} s" if last.confirmed is not None else "-"
        table.add_row(f"{last.confirmed_rate / 1e6:.2f} MB/s", f"confirmed p99 {p99}",
                      f"{driver.stored_chunks} chunks stored",
                      *(f"{name} lag {'-' if lag is None else lag}"
                        for name, lag in last.lag.items()))  # fmt: skip
    for problem in driver.problems:
        table.add_row(problem, style="red")
    return table


async def _limit(
    settings: Settings, order: LoadOrder, most: int, folder: Path | None, as_json: bool
) -> None:
    """Loads of more and more sessions; prints the most that kept the objective."""
    search = Search(min(order.plan.sessions, most), most)
    tries: list[dict[str, Any]] = []
    last: Report | None = None
    while (sessions := search.next()) is not None:
        mine = replace(order, plan=replace(order.plan, sessions=sessions))
        last = await _one(settings, mine, live=not as_json)
        search.tell(sessions, last.good)
        p99 = last.stored.p99 if last.stored is not None else None
        tries.append({"sessions": sessions, "outcome": str(last.outcome),
                      "problems": list(last.problems), "seconds_to_stored_p99": p99,
                      "confirmed_bytes_per_second": round(last.confirmed_rate)})  # fmt: skip
        say(f"{sessions} sessions: {last.title()}")
        if folder is not None:
            write_report(last, folder / f"{sessions}-sessions")
        if last.outcome in (Outcome.REFUSED, Outcome.BROKEN, Outcome.UNCOUNTED):
            break
        if not last.good and not await drained(settings, order.settle):
            say("What the last one left is still not done: the search ends here")
            break
    _tell_limit(search, tries, order, as_json)
    if search.passed == 0:
        raise LoadFailed(
            f"no load kept the objective: {'; '.join(last.problems[:3]) if last else ''}",
            hint="Begin with fewer sessions, or a lower rate",
        )


def _tell_limit(
    search: Search, tries: list[dict[str, Any]], order: LoadOrder, as_json: bool
) -> None:
    if as_json:
        print_json({"sessions": search.passed, "broke_at": search.broke,
                    "objective_seconds": order.objective, "tries": tries})  # fmt: skip
        return
    broke = f"{search.broke} did not" if search.broke else "none of more was tried"
    typer.echo(f"{search.passed} sessions of {order.plan.rate / 1e3:g} kB/s keep p99 to stored "
               f"under {order.objective:g} s; {broke}")  # fmt: skip
