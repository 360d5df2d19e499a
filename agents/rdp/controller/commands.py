"""`lucid rdp-sessions list|show|suspend|resume|terminate`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from agents.platform.answers import Answers
from agents.platform.audit import Audit
from agents.platform.contract import ensure_contract, load_contract
from agents.platform.output import AsJson, print_json, print_wide, quiet
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.rdp.controller.errors import NoSuchSession
from agents.rdp.controller.listing import Listing, Story
from schemas.audit import RdpSessionOrdered
from schemas.canonical import encode
from schemas.errors import FormatError, LucidError
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
Session = Annotated[str, typer.Argument(help="The desktop session's id.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for the answer; 0 does not wait.")]
Why = Annotated[str, typer.Option(help="Goes into the events.")]


class Refused(LucidError):
    """The controller refused a command; the code is the answer's."""

    def __init__(self, answer: RdpCommandRefused) -> None:
        super().__init__(f"{answer.action} refused, {answer.code}: {answer.reason}")


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
    table = Table(box=None, pad_edge=False)
    for title in ("session", "state", "user", "display", "clients", "server", "recording", "since"):
        table.add_column(title)
    for one in shown:
        table.add_row(
            one.session.session, one.session.state, one.session.user, one.session.display,
            str(_clients(one)), one.session.server, one.session.recording or "none",
            _when(one.session.changed),
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
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _facts(story).items():
        if name != "connections":
            text = _when(value) if name in ("created", "changed") else str(value)
            table.add_row(name, text if value not in (None, "", []) else "-")
    print_wide(table, 100)
    table = Table(box=None, pad_edge=False, show_header=False)
    for event in _in_order(story):
        line = _line(event)
        table.add_row(line["time"], line["what"], line["state"], line["reason"])
    print_wide(table, 160)


@app.command()
def suspend(
    session: Session, reason: Why = "requested", wait: Wait = 60.0, as_json: AsJson = False
) -> None:
    """Stop a session's programs and cut its clients off; it is recorded all the same."""
    _order("suspend", session, reason, wait, as_json)


@app.command()
def resume(
    session: Session, reason: Why = "requested", wait: Wait = 60.0, as_json: AsJson = False
) -> None:
    """Let a suspended session go on."""
    _order("resume", session, reason, wait, as_json)


@app.command()
def terminate(
    session: Session, reason: Why = "requested", wait: Wait = 60.0, as_json: AsJson = False
) -> None:
    """End a session: its programs, its recording, its X server."""
    _order("terminate", session, reason, wait, as_json)


# -- underneath ------------------------------------------------------------------------------


def _order(action: SessionAction, session: str, reason: str, wait: float, as_json: bool) -> None:
    quiet()
    settings = Settings.load()
    story = _find(asyncio.run(read_listing(settings)), session)
    command = RdpSessionCommand.model_validate(
        {"id": str(new_session_id()), "host": story.session.host, "session": session,
         "action": action, "reason": reason}
    )  # fmt: skip
    answer = asyncio.run(_send(settings, command, wait))
    state = None if answer is None else answer.state
    if as_json:
        print_json({"command": command.id, "action": action, "session": session, "state": state})
    elif state is None:
        typer.echo(f"Sent {action} of session {session}, command {command.id}")
    else:
        typer.echo(f"Session {session} is {state}")


async def _send(
    settings: Settings, command: RdpSessionCommand, wait: float
) -> RdpCommandDone | None:
    """Send a command; the answer, None if nobody waits for it. Raises Refused, NoAnswer."""
    await ensure_contract(settings)
    contract = load_contract(settings)
    topic = contract.topic("rdp.session.commands").full_name
    async with (
        Producer(settings, contract.limits) as producer,
        Answers(settings, contract, "rdp.session.events", RdpSessionEvent) as answers,
    ):
        audit = Audit(producer, contract, host=settings.host)
        await audit.record(RdpSessionOrdered(command=command), command.session)
        await producer.send(topic, encode(command), key=command.session.encode())
        if not wait:
            return None
        event = await answers.wait(command.id, wait, types=(RdpCommandDone, RdpCommandRefused))
    if isinstance(event.data, RdpCommandRefused):
        raise Refused(event.data)
    assert isinstance(event.data, RdpCommandDone)
    return event.data


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


def _when(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
