"""`lucid keys init|show`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from agents.platform.keys import ROLES, KeyFile, init_keys, show_keys
from agents.platform.output import AsJson, Rows, print_json, print_wide
from agents.platform.settings import Settings

app = typer.Typer(help="Make and show identities.", no_args_is_help=True)


class Who(StrEnum):
    """Whose keys to make."""

    ALL = "all"
    RECORDER = "recorder"
    PROCESSOR = "processor"
    AUDITOR = "auditor"
    STORAGE = "storage"
    NODE = "node"


def _show(settings: Settings, keys: Sequence[KeyFile], as_json: bool) -> None:
    if as_json:
        fields = ("name", "role", "kind", "public", "path", "mode")
        print_json({"keys": [{name: str(getattr(key, name)) for name in fields} for key in keys]})
        return
    table = Rows()
    for heading in ("file", "mode", "what it does", "public part"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for key in keys:
        table.add_row(key.name, key.mode, key.kind, key.public)
    print_wide(table, 140)
    typer.echo(f"Folder: {settings.keys_dir}")


@app.command()
def init(who: Annotated[Who, typer.Argument()] = Who.ALL, as_json: AsJson = False) -> None:
    """Make the keys that do not exist yet; an existing one is never replaced."""
    settings = Settings.load()
    roles = [role for role in ROLES if who in (Who.ALL, role)]
    _show(settings, init_keys(settings, roles), as_json)


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show all keys, their public parts only."""
    settings = Settings.load()
    _show(settings, show_keys(settings), as_json)
