"""`lucid rdp-sessions list|show|suspend|resume|terminate`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from agents.platform.command_topic import CommandTopic
from agents.platform.contract import load_contract
from agents.platform.output import (
    AsJson,
    Rows,
    Wait,
    Why,
    clock_utc,
    print_json,
    print_wide,
    quiet,
)
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.controller.errors import NoSuchSession
from agents.rdp.controller.listing import Listing, Story
from schemas.audit import RdpSessionOrdered
from schemas.errors import FormatError
from schemas.rdp_session_commands import RdpSessionCommand, SessionAction
from schemas.rdp_session_events import (
    RdpCommandDone,
    RdpCommandRefused,
    RdpConnectionChanged,
    RdpRecordingChanged,
    RdpSessionChanged,
    RdpSessionEvent,
)
from schemas.rdp_sessions import OVER
from schemas.sessions import new_session_id, parse_session_id

app = typer.Typer(help="Desktop sessions: who is on which server.", no_args_is_help=True)
COMMANDS = CommandTopic("rdp.session.commands", "rdp.session.events", RdpSessionEvent,
                        RdpCommandDone, RdpCommandRefused)  # fmt: skip
Session = Annotated[str, typer.Argument(help="The desktop session's id.")]


@app.command("list")
def list_sessions(
    ended: Annotated[bool, typer.Option("--ended", help="Those, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """All desktop sessions, newest first."""
    found = asyncio.run(read_listing(Settings.load())).stories.values()
    shown = [one for one in found if ended or one.session.state not in OVER]
    shown.sort(key=lambda one: one.session.created, reverse=True)
    if as_json:
        print_json({"sessions": [_facts(one) for one in shown]})
        return
    table = Rows()
    for title in ("session", "state", "user", "display", "clients", "server", "recording", "since"):
        table.add_column(title)
    for one in shown:
        table.add_row(
            one.session.session, one.session.state, one.session.user, one.session.display,
            str(_clients(one)), one.session.server, one.session.recording or "none",
            clock_utc(one.session.changed),
        )  # fmt: skip
    print_wide(table, 190)


@app.command()
def show(session: Session, as_json: AsJson = False) -> None:
    """One desktop session: what it is, and what happened to it."""
    story = _find(asyncio.run(read_listing(Settings.load())), session)
    if as_json:
        happened = [_line(event) for event in _in_order(story)]
        print_json({**_facts(story), "events": happened})
        return
    table = Rows(header=False)
    for name, value in _facts(story).items():
        if name != "connections":
            text = clock_utc(value) if name in ("created", "changed") else str(value)
            table.add_row(name, text if value not in (None, "", []) else "-")
    print_wide(table, 100)
    table = Rows(header=False)
    for event in _in_order(story):
        line = _line(event)
        table.add_row(line["time"], line["what"], line["state"], line["reason"])
    print_wide(table, 160)


def _add(action: SessionAction, about: str) -> None:
    @app.command(action, help=about)
    def run(
        session: Session, reason: Why = "requested", wait: Wait = 60.0, as_json: AsJson = False
    ) -> None:
        _order(action, session, reason, wait, as_json)


_add("suspend", "Stop a session's programs and cut its clients off; it is recorded all the same.")
_add("resume", "Let a suspended session go on.")
_add("terminate", "End a session: its programs, its recording, its X server.")


# -- underneath ------------------------------------------------------------------------------


def _order(action: SessionAction, session: str, reason: str, wait: float, as_json: bool) -> None:
    quiet()
    settings = Settings.load()
    story = _find(asyncio.run(read_listing(settings)), session)
    command = RdpSessionCommand.model_validate(
        {"id": str(new_session_id()), "host": story.session.host, "session": session,
         "action": action, "reason": reason}
    )  # fmt: skip
    act = RdpSessionOrdered(command=command)
    answer = asyncio.run(COMMANDS.send(settings, command, act, command.session, seconds=wait))
    state = None if answer is None else answer.state
    if as_json:
        print_json({"command": command.id, "action": action, "session": session, "state": state})
    elif state is None:
        typer.echo(f"Sent {action} of session {session}, command {command.id}")
    else:
        typer.echo(f"Session {session} is {state}")


async def read_listing(settings: Settings) -> Listing:
    """Everything that the topic still has."""
    listing = Listing()
    topic = load_contract(settings).topic("rdp.session.events").full_name
    async for record in read_topic(settings, topic):
        try:
            listing.take(
                RdpSessionEvent.from_kafka(record.key, tuple(record.headers), record.value)
            )
        except FormatError:
            continue  # whoever consumes it refuses it
    return listing


def _find(listing: Listing, session: str) -> Story:
    story = listing.stories.get(str(parse_session_id(session)))
    if story is None:
        raise NoSuchSession(
            f"there is no desktop session {session}",
            hint="`lucid rdp-sessions list --ended` shows all",
        )
    return story


def _clients(story: Story) -> int:
    return sum(one.state == "connected" for one in story.connections.values())


def _facts(story: Story) -> dict[str, Any]:
    facts = story.session.model_dump(mode="json")
    connections = [one.model_dump(mode="json") for one in story.connections.values()]
    return {**facts, "clients": _clients(story), "connections": connections}


def _in_order(story: Story) -> list[RdpSessionEvent]:
    return sorted(story.events.values(), key=lambda event: event.time)


def _line(event: RdpSessionEvent) -> dict[str, str]:
    data = event.data
    state, reason = getattr(data, "state", ""), getattr(data, "reason", "")
    if isinstance(data, RdpSessionChanged):
        what = "session"
    elif isinstance(data, RdpConnectionChanged):
        what = f"connection from {data.address}"
    elif isinstance(data, RdpRecordingChanged):
        what, state = "recording", data.what
    else:
        what, state = "notice", getattr(data, "answer", "")
    return {"time": f"{event.time:%Y-%m-%d %H:%M:%S.%f}", "what": what, "state": str(state),
            "reason": str(reason)}  # fmt: skip
