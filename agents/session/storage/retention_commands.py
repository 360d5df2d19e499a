"""`lucid retention plan|apply`.

LucidError
└── NotConfirmed      nobody said yes to deleting
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agents.platform.keys import load_signer
from agents.platform.output import (
    AsJson,
    Rows,
    Yes,
    clock,
    errors,
    mark,
    print_json,
    print_wide,
    quiet,
)
from agents.platform.settings import Settings
from agents.session.storage.retention import House, open_house, rows_to_do
from agents.session.storage.retention_erasing import Done
from agents.session.storage.retention_settings import RetentionSettings
from schemas.errors import LucidError
from schemas.retention import Plan, Row, days_text
from schemas.sessions import parse_session_id

app = typer.Typer(help="Delete what policies no longer keep.", no_args_is_help=True)

Only = Annotated[str | None, typer.Option("--session", help="Only this session.")]
Damaged = Annotated[
    bool, typer.Option("--damaged", help="Also sessions that a scrub or a look finds damaged.")
]
COLORS = {"erase": "red", "finish": "red", "held": "green", "blocked": "yellow", "wait": "cyan"}
UNDONE = ("failed", "damaged", "changed")


class NotConfirmed(LucidError):
    """Nobody said that what the plan shows may be deleted."""

    exit_status = 64  # EX_USAGE of sysexits.h


def _only(text: str | None) -> str | None:
    return None if text is None else str(parse_session_id(text))


@app.command()
def plan(session: Only = None, as_json: AsJson = False) -> None:
    """Show what is due, what is held, and what still waits for the broker; deletes nothing."""
    only = _only(session)
    quiet()
    found = asyncio.run(_plan(Settings.load(), RetentionSettings.load(), only))
    if as_json:
        print_json(plan_fields(found))
    else:
        show_plan(found)


async def _plan(settings: Settings, section: RetentionSettings, only: str | None) -> Plan:
    async with open_house(settings, section.policies) as house:
        return await house.plan(only)


@app.command()
def apply(
    session: Only = None,
    damaged: Damaged = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete what a plan made now says; exit status 1 if any of it was not done."""
    settings, section, only = Settings.load(), RetentionSettings.load(), _only(session)
    quiet()
    found, done, pages = asyncio.run(_apply(settings, section, only, damaged, yes, as_json))
    if as_json:
        fields = [done_fields(one) for one in done]
        print_json({**plan_fields(found), "done": fields, "audit_pages": pages})
    else:
        show_done(done)
    raise typer.Exit(1 if any(one.outcome in UNDONE for one in done) else 0)


async def _apply(
    settings: Settings, section: RetentionSettings, only: str | None, damaged: bool, yes: bool,
    as_json: bool,
) -> tuple[Plan, list[Done], int]:  # fmt: skip
    signer = load_signer(settings, "storage")
    async with open_house(settings, section.policies, signer=signer) as house:
        found = await house.plan(only)
        rows = rows_to_do(found, damaged=damaged)
        if not as_json:
            show_plan(found)
        _confirm(rows, yes)
        done = await _carry_out(house, found, len(rows), damaged, as_json) if rows else []
        return found, done, await house.expire_audit(found)


def _confirm(rows: Sequence[Row], yes: bool) -> None:
    deleting = [row for row in rows if row.action == "erase"]
    if yes or not deleting:
        return
    if not sys.stdin.isatty():
        raise NotConfirmed(
            f"{len(deleting)} erasures were not confirmed", hint="Give --yes, after a plan"
        )
    if not typer.confirm(f"Erase {len(deleting)} times, for ever?", err=True):
        raise NotConfirmed("nothing was deleted")


async def _carry_out(
    house: House, found: Plan, total: int, damaged: bool, as_json: bool
) -> list[Done]:
    done = []
    with Progress(console=errors, transient=True, disable=as_json or not errors.is_terminal) as bar:
        task = bar.add_task("Erasing", total=total)
        async for one in house.apply(found, damaged=damaged):
            done.append(one)
            bar.update(task, advance=1)
    return done


# Printing ---------------------------------------------------------------------------------------


def plan_fields(found: Plan) -> dict[str, Any]:
    """What `--json` prints of a plan; times in microseconds."""
    return {
        "now": found.now,
        "rows": [row.as_json() for row in found.rows],
        "totals": totals(found),
        "audit_before": found.audit_before,
    }


def totals(found: Plan) -> dict[str, int]:
    """How many rows of each action there are, and the bytes that would go."""
    return {
        **{action: len(found.of(action)) for action in ("erase", "finish", "wait", "held",
                                                        "blocked")},
        "bytes": sum(row.size for row in found.of("erase")),
    }  # fmt: skip


def done_fields(one: Done) -> dict[str, Any]:
    return {"session": one.session, "stage": one.stage, "outcome": one.outcome,
            "detail": one.detail, "bytes": one.size}  # fmt: skip


def show_plan(found: Plan) -> None:
    """A table and a line of totals."""
    table = Rows()
    for heading in ("session", "project", "ended (UTC)", "what", "policy", "action"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MB", justify="right")
    table.add_column("held by")
    table.add_column("why", overflow="fold")
    for row in found.rows:
        color = COLORS[row.action]
        table.add_row(
            row.session, row.project[:30], clock(row.ended, "minutes"), row.stage,
            f"{row.rule.scope} {days_text(row.rule.keep)}", mark(f"[{color}]{row.action}[/]"),
            f"{row.size / 1e6:.1f}", ", ".join(row.held_by), row.why,
        )  # fmt: skip
    if found.rows:
        print_wide(table, 200)
    counted = totals(found)
    Console(highlight=False).print(
        f"{counted['erase']} to erase ({counted['bytes'] / 1e6:.1f} MB), {counted['finish']} to "
        f"finish, {counted['wait']} wait for the broker, {counted['held']} held, "
        f"{counted['blocked']} blocked"
    )


def show_done(done: Sequence[Done]) -> None:
    """What came of each row."""
    if not done:
        Console(highlight=False).print("Nothing was deleted")
        return
    table = Rows()
    for heading in ("session", "what", "result"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MB", justify="right")
    table.add_column("detail", overflow="fold")
    for one in done:
        table.add_row(one.session, one.stage, one.outcome, f"{one.size / 1e6:.1f}", one.detail)
    print_wide(table, 160)
