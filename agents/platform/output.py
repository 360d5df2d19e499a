"""What all commands share: options, and what they print with.

There is one console each for results and for people, JSON, and one way to write a time.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Wait = Annotated[
    float, typer.Option(help="Seconds to wait for the answer; 0 does not wait.", min=0)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]
Why = Annotated[str, typer.Option(help="Goes into the events.")]

errors = Console(stderr=True, highlight=False)


def quiet() -> None:
    """Log nothing: in the foreground errors are told once, by the command itself."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def shown(text: str) -> str:
    """Text of anybody as a terminal can show it: what would steer the terminal is escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        one if one.isprintable() or one in "\n\t" else f"\\x{ord(one):02x}" for one in text
    )


def plain(text: str) -> str:
    """The same inside of a text with markup: nothing of it is taken for markup."""
    return escape(shown(text))


class Rows(Table):
    """A table without lines. Texts stand as they are; what has a style is a `Text`, see `mark`.

    Owners, reasons, titles and file names are written by those who are recorded: a name such as
    `[red]` or one with an escape sequence must neither vanish nor change what stands around it.
    """

    def __init__(self, *, header: bool = True) -> None:
        super().__init__(box=None, pad_edge=False, show_header=header)

    def add_row(
        self, *cells: RenderableType | None, style: StyleType | None = None,
        end_section: bool = False,
    ) -> None:  # fmt: skip
        """One row, a cell for each column."""
        safe = [Text(shown(one)) if isinstance(one, str) else one for one in cells]
        super().add_row(*safe, style=style, end_section=end_section)


def mark(markup: str) -> Text:
    """A cell of our own words with style, such as `[red]FAILED[/]`."""
    return Text.from_markup(markup)


def say(text: str) -> None:
    """One line for people on standard error, however long: a wrapped one cannot be searched."""
    errors.print(shown(text), soft_wrap=True, markup=False)


def print_wide(table: Table, least: int) -> None:
    """Print a table over `least` columns or more: wrapped lines can be read and copied from."""
    console = Console(highlight=False)
    console.width = max(console.width, least)
    console.print(table)


def print_json(value: Any) -> None:
    """One JSON document on standard output, keys in the order given."""
    typer.echo(json.dumps(value, indent=2, default=str))


def clock(micros: int | None, parts: str = "seconds") -> str:
    """Microseconds since 1970 as people read them, in UTC; cut, not rounded, after `parts`.

    None and 0 stand for never, which is an empty text.
    """
    if not micros:
        return ""
    time = datetime.fromtimestamp(micros / 1e6, UTC).replace(tzinfo=None)
    return time.isoformat(" ", timespec=parts)


def clock_utc(micros: int) -> str:
    """The same to the second, and says that it is UTC."""
    return f"{clock(micros)} UTC"
