"""`lucid stack up|down|status|reset`."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from agents.platform.output import Rows, Yes, mark
from agents.platform.settings import Settings
from agents.platform.stack import supervisor
from agents.platform.stack.supervisor import ServerStatus

app = typer.Typer(
    help="The servers Lucid needs, as child processes on this machine.", no_args_is_help=True
)

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_STYLES = {"running": "green", "yours": "cyan", "stopped": "dim", "not answering": "red"}
_TITLES = {server.name: server.title for server in supervisor.SERVERS}


def _port(server: str) -> object:
    return typer.Option(
        min=1, max=65535, help=f"Port of {_TITLES[server]}; the last one or any free one if absent."
    )


class _Steps:
    """Shows on stderr what each server is at: live on a terminal, else a line for each step."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._begin = time.monotonic()
        self._guard = threading.Lock()

    def __enter__(self) -> _Steps:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, server: str, step: str) -> None:
        title = _TITLES.get(server, "stack")
        with self._guard:
            if not self._console.is_terminal:
                elapsed = time.monotonic() - self._begin
                self._console.print(f"{elapsed:6.1f} s  {title}: {step}", highlight=False)
                return
            if server not in self._tasks:
                self._tasks[server] = self._live.add_task("", total=1)
            done = int(step.startswith("is up"))
            self._live.update(
                self._tasks[server],
                description=f"[bold]{escape(title)}[/bold] {escape(step)}",
                completed=done,
            )


def _print_status(settings: Settings, rows: list[ServerStatus]) -> None:
    table = Rows()
    for heading in ("server", "state", "address", "pid", "version"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = [row.address, row.pid, row.version]
        state = mark(f"[{_STYLES[row.state]}]{row.state}[/]")
        table.add_row(row.title, state, *("–" if cell is None else str(cell) for cell in cells))
    console = Console()
    console.print(table)
    console.print(
        f"Logs: {settings.stack_dir / 'logs'}", highlight=False, markup=False, soft_wrap=True
    )


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


@app.command()
def up(
    as_json: _Json = False,
    kafka_port: Annotated[int | None, _port("kafka")] = None,
    mongo_port: Annotated[int | None, _port("mongo")] = None,
    redis_port: Annotated[int | None, _port("redis")] = None,
) -> None:
    """Start what does not run yet, and wait until every server answers.

    The first time downloads Kafka and builds FerretDB, which takes two or three minutes. A
    server whose address is in the settings is yours and is left alone.
    """
    settings = Settings.load()
    asked = {"kafka": kafka_port, "mongo": mongo_port, "redis": redis_port}
    begin = time.monotonic()
    with _Steps() as steps:
        endpoints = supervisor.up(
            settings, ports={k: v for k, v in asked.items() if v is not None}, report=steps
        )
    seconds = time.monotonic() - begin
    rows = supervisor.status(settings)
    if as_json:
        _print_json(
            {
                "servers": [asdict(row) for row in rows],
                "started": list(endpoints.started),
                "seconds": round(seconds, 2),
            }
        )
        return
    _print_status(settings, rows)
    what = f"Ready after {seconds:.1f} s." if endpoints.started else "All of it was up already."
    typer.echo(f"{what} `lucid stack down` ends it.")


@app.command()
def down(as_json: _Json = False) -> None:
    """End the servers this folder's stack started; data and logs stay."""
    with _Steps() as steps:
        stopped = supervisor.down(Settings.load(), report=steps)
    if as_json:
        _print_json({"stopped": stopped})
    else:
        names = ", ".join(_TITLES[name] for name in stopped)
        typer.echo(f"Stopped {names}." if stopped else "No server was running.")


@app.command()
def status(as_json: _Json = False) -> None:
    """Show each server; exit status 1 if one of the stack's own does not answer."""
    settings = Settings.load()
    rows = supervisor.status(settings)
    if as_json:
        _print_json({"servers": [asdict(row) for row in rows]})
    else:
        _print_status(settings, rows)
    if any(row.state not in ("running", "yours") for row in rows):
        raise typer.Exit(1)


@app.command()
def reset(as_json: _Json = False, yes: Yes = False) -> None:
    """End the servers and delete all their data: topics, catalog and logs."""
    settings = Settings.load()
    folder = settings.stack_dir.absolute()
    if not yes:
        typer.confirm(f"Delete all topics and the catalog in {folder}?", abort=True, err=True)
    with _Steps() as steps:
        deleted = supervisor.reset(settings, report=steps)
    if as_json:
        _print_json({"folder": str(folder), "deleted": deleted})
    else:
        typer.echo(f"Deleted the stack's data in {folder}." if deleted else "Nothing to delete.")
