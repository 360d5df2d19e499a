"""`lucid audit verify|list`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agents.auditor.trail import (
    Wanted,
    check_trail,
    list_trail,
    load_heads,
    type_word,
    write_heads,
)
from agents.platform.output import (
    AsJson,
    Rows,
    errors,
    mark,
    plain,
    print_json,
    print_wide,
    quiet,
)
from agents.platform.settings import Settings
from schemas.audit import AUDIT_TYPES, AuditEvent
from schemas.audit_chain import Finding
from schemas.audit_trail import ChainReport, TrailReport
from schemas.sessions import parse_session_id

app = typer.Typer(help="Who did what with records and recordings.", no_args_is_help=True)
KNOWN_TYPES = {*AUDIT_TYPES, *map(type_word, AUDIT_TYPES)}
SHOWN = 20  # findings of a chain; --json has all


def _bar(as_json: bool) -> Progress:
    return Progress(console=errors, transient=True, disable=as_json or not errors.is_terminal)


# Verifying ------------------------------------------------------------------------------------


@app.command()
def verify(
    head: Annotated[
        list[Path] | None, typer.Option(help="Signed heads that the chains have to contain.")
    ] = None,
    trust: Annotated[
        list[str] | None, typer.Option(help="Whose heads: a verifier key, or a file of them.")
    ] = None,
    write_head: Annotated[
        Path | None, typer.Option(help="Sign how far the chains here are, into this file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the chains of all audit entries; exit status 1 when anything is wrong."""
    quiet()
    settings = Settings.load()
    heads = load_heads(head or [], trust or [], settings)
    with _bar(as_json) as bar:
        task = bar.add_task("Checking", total=None)
        report, states = asyncio.run(
            check_trail(
                settings, heads, lambda done, of: bar.update(task, completed=done, total=of)
            )
        )
    signed = 0
    if write_head is not None and report.ok:
        signed = write_heads(settings, states, write_head, force=force)
    if as_json:
        print_json({**report_fields(report), "heads_signed": signed})
    else:
        _show(report)
        if signed:
            typer.echo(f"{write_head}: the heads of {signed} chains of this installation")
        elif write_head is not None:
            typer.echo(f"{write_head} is not written: a head is signed only of what is in order")
    raise typer.Exit(0 if report.ok else 1)


def report_fields(report: TrailReport) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "ok": report.ok,
        "records": report.records,
        "unchained": report.unchained,
        "chains": [{**asdict(chain), "ok": chain.ok} for chain in report.chains],
        "findings": [asdict(one) for one in report.findings],
    }


def _show(report: TrailReport) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if report.chains:
        table = Rows()
        for heading in ("writer", "chain", "entries", "from", "to", "result"):
            table.add_column(heading, no_wrap=True, justify=_justify(heading))
        for chain in report.chains:
            table.add_row(
                chain.source, chain.chain, str(chain.entries),
                _end(chain.first, chain.from_time), _end(chain.last, chain.to_time),
                mark(_result(chain)),
            )  # fmt: skip
        print_wide(table, 170)
    for chain in report.chains:
        _show_findings(console, f"{chain.chain}: ", chain.findings)
    _show_findings(console, "", report.findings)
    console.print(
        f"{report.records} records, {len(report.chains)} chains, {report.unchained} entries in none"
        f": {'[green]in order[/]' if report.ok else '[red]NOT IN ORDER[/]'}"
    )
    if report.ok and not all(chain.confirmed for chain in report.chains):
        console.print(
            "[yellow]Not checked[/]: whether the newest entries of chains of other installations "
            "are there; --head compares with their signed heads"
        )


def _show_findings(console: Console, where: str, findings: Sequence[Finding]) -> None:
    for one in findings[:SHOWN]:
        console.print(f"[red]{one.fault.value}[/] {plain(where + one.detail)}")
    if len(findings) > SHOWN:
        console.print(f"[red]and {len(findings) - SHOWN} more[/], --json has all")


def _justify(heading: str) -> Any:
    return "right" if heading == "entries" else "left"


def _end(number: int | None, moment: str) -> str:
    return "" if number is None else f"{number} {moment[:19]}"


def _result(chain: ChainReport) -> str:
    parts = [] if chain.ok else ["[red]FAILED[/]"]
    if chain.ok:
        parts += ["[green]in order[/]", "confirmed" if chain.confirmed else "unconfirmed"]
    if chain.expired:
        parts.append(f"{chain.expired} expired")
    return ", ".join(parts)


# Listing --------------------------------------------------------------------------------------


@app.command("list")
def list_command(
    session: Annotated[str, typer.Option(help="Only entries about this session.")] = "",
    user: Annotated[str, typer.Option(help="Only of this user.")] = "",
    kind: Annotated[
        str, typer.Option("--type", help="Only of this type, such as session_verified.")
    ] = "",
    since: Annotated[
        datetime | None, typer.Option(help="Only from this time (UTC) on.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, the newest.", min=1)] = 100,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """List who did what, when and from where, the oldest first."""
    quiet()
    moment = since.replace(tzinfo=UTC) if since and since.tzinfo is None else since
    if session:
        session = str(parse_session_id(session))
    if kind and kind not in KNOWN_TYPES:
        raise typer.BadParameter(f"--type is one of {', '.join(sorted(KNOWN_TYPES))}")
    wanted = Wanted(session, user, kind, moment)
    with _bar(as_json) as bar:
        task = bar.add_task("Reading", total=None)
        listing = asyncio.run(
            list_trail(
                Settings.load(), wanted, limit,
                lambda done, of: bar.update(task, completed=done, total=of),
            )
        )  # fmt: skip
    if as_json:
        print_json({
            "entries": [_fields(offset, event) for offset, event in listing.events],
            "found": listing.found, "unreadable": listing.unreadable,
        })  # fmt: skip
        return
    table = Rows()
    for heading in ("time (UTC)", "who", "from", "what", "about", "details"):
        table.add_column(heading, no_wrap=heading != "details")
    for _, event in listing.events:
        table.add_row(
            f"{event.time.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            event.user or "anonymous", event.address or event.source.rpartition("/")[2],
            _word(event), event.subject, _details(event),
        )  # fmt: skip
    print_wide(table, 170)
    typer.echo(f"{len(listing.events)} of {listing.found} entries")
    if listing.unreadable:
        errors.print(f"{listing.unreadable} records cannot be read here; see `lucid audit verify`")


def _word(event: AuditEvent) -> str:
    return type_word(event.type)


def _details(event: AuditEvent) -> str:
    data = event.data.model_dump(mode="json")
    untold: tuple[object, ...] = (None, "", [], {}, event.subject)
    told = {name: value for name, value in data.items() if value not in untold}
    return ", ".join(f"{name} {_value(value)}" for name, value in told.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(_value, value))
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_value(one)}' for name, one in value.items())})"
    return str(value)


def _fields(offset: int, event: AuditEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "time": event.time.isoformat(),
        "type": event.type,
        "subject": event.subject,
        "user": event.user,
        "user_type": event.user_type,
        "roles": list(event.roles),
        "address": event.address,
        "source": event.source,
        "chain": event.chain or None,
        "number": event.place.number if event.place else None,
        "offset": offset,
        "data": event.data.model_dump(mode="json"),
    }
