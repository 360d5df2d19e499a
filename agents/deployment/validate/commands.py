"""`lucid validate containers`."""

from __future__ import annotations

import hashlib

import typer
from rich.console import Console

from agents.deployment.services import SERVICES, present
from agents.deployment.validate.engine import docker
from agents.deployment.validate.findings import COLUMNS, Report
from agents.deployment.validate.validating import validate
from agents.platform.contract import contract_text
from agents.platform.output import AsJson, Rows, mark, plain, print_json, print_wide
from agents.platform.service import version
from agents.platform.settings import Settings
from agents.run import ROOMS

app = typer.Typer(help="Check what runs.", no_args_is_help=True)
_MARKS = {
    "ok": "[green]ok[/]",
    "failed": "[red]FAILED[/]",
    "absent": "[dim]absent[/]",
    "skipped": "[yellow]skipped[/]",
}

_LEGEND = """\
–: does not apply. xrdp has a shell, since desktops begin with one; Kafka, the catalog and Redis
are looked at from outside only. docs/containers.md says what each column means.
"""


@app.callback()
def _validate() -> None:
    """Check what runs."""


@app.command()
def containers(as_json: AsJson = False) -> None:
    """Check all containers, and send a session through them; exit status 1 when anything fails.

    Every check runs, whatever failed before it.
    """
    docker(["version", "--format", "{{.Server.Version}}"])
    here = present([str(name) for name in ROOMS])
    absent = [one for one in SERVICES if one not in here]
    text = contract_text(Settings.load())
    digest = hashlib.sha256(text.encode()).hexdigest()
    report = validate(here, absent, version(), digest)
    if as_json:
        print_json(report.document())
    else:
        show(report)
    if report.failures:
        raise typer.Exit(1)


def show(report: Report) -> None:
    """A line for each container, then what is wrong, one line each."""
    table = Rows()
    table.add_column("container", no_wrap=True)
    for check in COLUMNS:
        table.add_column(check)
    by_subject: dict[str, dict[str, str]] = {}
    for one in report.findings:
        by_subject.setdefault(one.subject, {})[one.check] = one.verdict
    for subject, verdicts in by_subject.items():
        if subject != "stack":
            cells = (mark(_MARKS.get(verdicts.get(check, ""), "–")) for check in COLUMNS)
            table.add_row(subject, *cells)
    print_wide(table, 150)
    console = Console(highlight=False)
    console.print(_LEGEND, soft_wrap=True)
    for one in report.findings:
        if one.subject == "stack":
            console.print(
                f"{one.check:<10}{_MARKS[one.verdict]}  {plain(one.detail)}", soft_wrap=True
            )
    for one in report.failures:
        console.print(f"[red]FAILED[/]  {one.subject}: {one.check}: ", end="")
        console.print(one.detail, markup=False, soft_wrap=True)
    healthy, count = report.healthy()
    left_out = sum(one.verdict == "skipped" for one in report.findings)
    typer.echo(
        f"{healthy} of {count} containers healthy; {len(report.findings)} checks, "
        f"{len(report.failures)} failed"
        + (f", {left_out} not tried for what failed before" if left_out else "")
    )
