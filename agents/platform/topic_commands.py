"""`lucid topics plan|apply|check|asyncapi`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from agents.platform.contract import apply_contract, load_contract, read_broker
from agents.platform.output import AsJson, Rows, print_json, quiet
from agents.platform.settings import Settings
from schemas.asyncapi import asyncapi_document
from schemas.topics import Drift, diff

app = typer.Typer(help="Compare a broker with topics.yaml.", no_args_is_help=True)


def _drift(settings: Settings) -> list[Drift]:
    quiet()
    contract = load_contract(settings)
    contract.load_models()
    return diff(contract, asyncio.run(read_broker(settings, contract)))


def _show(drift: Sequence[Drift], as_json: bool, *, none: str, some: str) -> None:
    if as_json:
        print_json({"drift": [{**asdict(one), "fixable": one.fixable} for one in drift]})
        return
    if not drift:
        typer.echo(none)
        return
    table = Rows()
    for heading in ("topic", "setting", "broker has", "contract wants", ""):
        table.add_column(heading)
    for one in drift:
        note = "" if one.fixable else "cannot be changed in place"
        table.add_row(one.topic, one.field, one.found, one.wanted, note)
    Console().print(table)
    typer.echo(some)


@app.command()
def plan(as_json: AsJson = False) -> None:
    """Show what `apply` would change."""
    drift = _drift(Settings.load())
    _show(
        drift, as_json,
        none="Nothing to change: the broker keeps the contract.",
        some="`lucid topics apply` makes it so.",
    )  # fmt: skip


@app.command()
def apply(as_json: AsJson = False) -> None:
    """Create what is missing and set what differs; keeps an operator's further settings."""
    settings = Settings.load()
    quiet()
    changed = asyncio.run(apply_contract(settings, load_contract(settings)))
    topics = len({one.topic for one in changed})
    _show(
        changed, as_json,
        none="Nothing to change: the broker keeps the contract.",
        some=f"Changed {topics} topics.",
    )  # fmt: skip


@app.command()
def check(as_json: AsJson = False) -> None:
    """Exit status 1 when the broker differs from the contract."""
    drift = _drift(Settings.load())
    _show(
        drift, as_json,
        none="The broker keeps the contract.",
        some="The broker differs from the contract; see `lucid topics plan`.",
    )  # fmt: skip
    if drift:
        raise typer.Exit(1)


@app.command()
def asyncapi(
    server: Annotated[str, typer.Option(help="Host and port to name as the server.")] = "",
) -> None:
    """Print the AsyncAPI 3 document of all topics, as JSON."""
    print_json(asyncapi_document(load_contract(Settings.load()), server))
