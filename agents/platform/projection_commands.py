"""`lucid projections list|rebuild`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agents.platform.audit import Audit
from agents.platform.catalog import Catalog
from agents.platform.clock import wall_clock
from agents.platform.contract import ensure_contract
from agents.platform.output import (
    AsJson,
    Rows,
    errors,
    plain,
    print_json,
    print_wide,
    quiet,
)
from agents.platform.producer import Producer
from agents.platform.projections import REGISTRY, find_projection, read_alias
from agents.platform.reader import open_reader
from agents.platform.rebuild import Rebuild, Rebuilt, Step
from agents.platform.settings import Settings
from schemas.audit import ProjectionRebuilt

app = typer.Typer(help="Views of the catalog that are built from events.", no_args_is_help=True)
FETCH_BYTES = 4 * 1024**2
SHOWN = 20


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List all projections, and where each is."""
    found = asyncio.run(list_projections(Settings.load()))
    if as_json:
        print_json({"projections": found})
        return
    table = Rows()
    for heading in ("projection", "built from", "collection", "documents", "state"):
        table.add_column(heading, justify="right" if heading == "documents" else "left")
    for one in found:
        table.add_row(
            one["projection"], one["topic"], one["collection"], str(one["documents"]),
            one["state"],
        )  # fmt: skip
    print_wide(table, 120)


async def list_projections(settings: Settings) -> list[dict[str, Any]]:
    """Name, topic, collection, number of documents and state of each projection."""
    found = []
    async with Catalog(settings) as catalog:
        for name in sorted(REGISTRY):
            alias = await read_alias(catalog, name)
            frozen = alias.frozen_until is not None and wall_clock() < alias.frozen_until
            found.append({
                "projection": name,
                "topic": find_projection(name).topic,
                "collection": alias.collection,
                "documents": await catalog.count(name),
                "state": "being swapped" if frozen else "live",
            })  # fmt: skip
    return found


@app.command("rebuild")
def rebuild_command(
    name: Annotated[str, typer.Argument(help="The projection, such as sessions.")],
    as_json: AsJson = False,
) -> None:
    """Build a projection anew from its events, beside the live one, then swap."""
    quiet()
    find_projection(name)
    started = time.monotonic()
    with Progress(console=errors, transient=True, disable=as_json or not errors.is_terminal) as bar:
        task = bar.add_task("Rebuilding", total=None)
        result = asyncio.run(
            rebuild(
                Settings.load(), name,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        )  # fmt: skip
    seconds = time.monotonic() - started
    if as_json:
        print_json({**asdict(result), "seconds": round(seconds, 3)})
        return
    _show(result, seconds)


async def rebuild(settings: Settings, name: str, step: Step = lambda *_: None) -> Rebuilt:
    """Rebuild a projection and leave an audit event."""
    projection = find_projection(name)
    contract = await ensure_contract(settings)
    async with (
        Catalog(settings) as catalog,
        Producer(settings, contract.limits) as producer,
        open_reader(settings, contract, projection.topic, FETCH_BYTES) as reader,
    ):
        result = await Rebuild(catalog, reader, projection.under(contract), step).run()
        audit = Audit(producer, contract, host=settings.host)
        await audit.record(ProjectionRebuilt(projection=name, events=result.events), name)
    return result


def _show(result: Rebuilt, seconds: float) -> None:
    console = Console(highlight=False)
    console.print(
        f"{result.projection}: {result.documents} documents from {result.events} events in "
        f"{seconds:.1f} s, now in {result.collection}"
    )
    console.print(
        f"{result.equal} as before, {len(result.corrected)} corrected, "
        f"{len(result.carried)} carried over, {result.refused} records are no events"
    )
    for what, keys in (("Corrected", result.corrected), ("Carried over", result.carried)):
        for key in keys[:SHOWN]:
            console.print(f"[yellow]{what}[/] {plain(key)}")
        if len(keys) > SHOWN:
            console.print(f"[yellow]{what}[/] {len(keys) - SHOWN} more; --json has all")
