"""What all commands print with: one console each for results and for people, and JSON."""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

errors = Console(stderr=True, highlight=False)


def quiet() -> None:
    """Log nothing: in the foreground errors are told once, by the command itself."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def say(text: str) -> None:
    """One line for people on standard error, however long: a wrapped one cannot be searched."""
    errors.print(text, soft_wrap=True, markup=False)


def print_wide(table: Table, least: int) -> None:
    """Print a table over `least` columns or more: wrapped lines can be read and copied from."""
    console = Console(highlight=False)
    console.width = max(console.width, least)
    console.print(table)


def print_json(value: Any) -> None:
    """One JSON document on standard output, keys in the order given."""
    typer.echo(json.dumps(value, indent=2, default=str))
