"""`lucid hold set|release|list`: legal holds, which win over every policy."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from agents.platform.audit import acting_user
from agents.platform.clock import wall_clock
from agents.platform.output import AsJson, Rows, clock, print_json, print_wide, quiet, say, shown
from agents.platform.settings import Settings
from agents.session.storage.retention import House, open_house
from schemas.audit import LegalHoldReleased, LegalHoldSet
from schemas.controls import Reason
from schemas.events import HoldReleased, HoldSet, subject_of
from schemas.retention import Hold, Policies
from schemas.sessions import parse_session_id

app = typer.Typer(help="Forbid deleting, whatever the policies say.", no_args_is_help=True)

Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit.")]


@app.command("set")
def set_command(
    reason: Why,
    session: Annotated[str | None, typer.Option(help="This session.")] = None,
    project: Annotated[str | None, typer.Option(help="All sessions of this project.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All sessions.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set a hold; when this returns, nothing that it covers will be deleted."""
    if sum((session is not None, project is not None, everything)) != 1:
        raise typer.BadParameter("give one of --session, --project and --everything")
    hold = _hold(None if session is None else str(parse_session_id(session)), project, reason)
    quiet()
    late, known = asyncio.run(_set(Settings.load(), hold))
    if as_json:
        print_json({**hold_fields(hold), "too_late_for": late, "known": known})
        return
    typer.echo(f"{hold.id}: {shown(hold.scope)} is held")
    if not known:
        say(f"The catalog knows nothing of {hold.scope}: the hold stands, see that it is no typo")
    for one in late:
        say(f"Too late for session {one}: its erasure had begun. `lucid retention plan` tells")


def _hold(session: str | None, project: str | None, reason: str) -> Hold:
    try:
        return Hold(
            id=f"hold-{secrets.token_hex(6)}", session=session, project=project, reason=reason,
            set_by=acting_user(), set_at=wall_clock(),
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]}: {first['msg']}") from error


async def _set(settings: Settings, hold: Hold) -> tuple[list[str], bool]:
    """Sessions for which it is too late, and whether the catalog knows what is held."""
    async with open_house(settings, Policies()) as house:
        late = await house.register.set_hold(hold)
        data = LegalHoldSet(session=hold.session, project=hold.project, reason=hold.reason)
        await house.audit.record(data, hold.session or hold.scope)
        event = HoldSet(session=hold.session, project=hold.project, reason=hold.reason)
        await house.events.emit(event, subject_of(event))
        return await _covered(house, hold, late), await _known(house, hold)


async def _known(house: House, hold: Hold) -> bool:
    """A hold on everything is always of something; one on a name may be of a typo."""
    if hold.session is not None:
        return await house.catalog.get("sessions", hold.session) is not None
    if hold.project is None:
        return True
    async for state in house.catalog.scan("sessions"):
        if (state.get("opened") or {}).get("project") == hold.project:
            return True
    return False


async def _covered(house: House, hold: Hold, begun: list[str]) -> list[str]:
    """Those of the sessions whose erasure had begun that the hold would have covered."""
    if hold.project is None:
        return [one for one in begun if hold.covers(one, "")]
    found = []
    for session in begun:
        state = await house.catalog.get("sessions", session) or {}
        opened = state.get("opened") or {}
        if opened.get("project") == hold.project:
            found.append(session)
    return found


@app.command()
def release(
    hold: Annotated[str, typer.Argument(help="Its id, as `lucid hold list` has it.")],
    reason: Why,
    as_json: AsJson = False,
) -> None:
    """Lift a hold; policies decide again."""
    try:
        TypeAdapter(Reason).validate_python(reason)
    except ValidationError as error:
        raise typer.BadParameter(f"reason: {error.errors()[0]['msg']}") from error
    quiet()
    found = asyncio.run(_release(Settings.load(), hold, reason))
    if as_json:
        print_json({**hold_fields(found), "released_for": reason})
        return
    typer.echo(f"{found.id}: {found.scope} is no longer held by it")


async def _release(settings: Settings, identifier: str, reason: str) -> Hold:
    async with open_house(settings, Policies()) as house:
        data = LegalHoldReleased(
            session=None, project=None, reason=reason
        )  # refused before it acts
        found = await house.register.release(identifier)
        data = LegalHoldReleased(session=found.session, project=found.project, reason=reason)
        await house.audit.record(data, found.session or found.scope)
        event = HoldReleased(session=found.session, project=found.project, reason=reason)
        await house.events.emit(event, subject_of(event))
        return found


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List all holds in force."""
    quiet()
    found = asyncio.run(_list(Settings.load()))
    if as_json:
        print_json({"holds": [hold_fields(one) for one in found]})
        return
    table = Rows()
    for heading in ("hold", "on", "set at (UTC)", "by"):
        table.add_column(heading, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for one in found:
        when = clock(one.set_at, "minutes")
        table.add_row(one.id, one.scope[:60], when, one.set_by, one.reason)
    if found:
        print_wide(table, 140)
    typer.echo(f"{len(found)} holds")


async def _list(settings: Settings) -> list[Hold]:
    async with open_house(settings, Policies()) as house:
        return sorted((await house.register.sync()).holds, key=lambda one: (one.set_at, one.id))


def hold_fields(hold: Hold) -> dict[str, Any]:
    """What `--json` prints of a hold; set_at in microseconds."""
    return {"id": hold.id, "on": hold.scope, "session": hold.session, "project": hold.project,
            "reason": hold.reason, "set_by": hold.set_by, "set_at": hold.set_at}  # fmt: skip
