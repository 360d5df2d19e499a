"""`lucid recorder start|pause|resume|stop`: what the recorder service of a host is told."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from pydantic import ValidationError

from agents.platform.answers import NoAnswer
from agents.platform.command_topic import CommandTopic
from agents.platform.output import AsJson, Wait, print_json, quiet
from agents.platform.settings import Settings
from schemas.activity import CLIPBOARD_LEVELS, KEY_LEVELS, Policy
from schemas.commands import Action, RecorderCommand
from schemas.events import CommandDone, CommandRefused, SessionEvent
from schemas.sessions import new_session_id, parse_session_id

app = typer.Typer(help="Tell the recorder of a host what to do.", no_args_is_help=True)
COMMANDS = CommandTopic("session.commands", "session.events", SessionEvent,
                        CommandDone, CommandRefused)  # fmt: skip
WAIT = 30.0
RESULTS = {"start": "is being recorded", "pause": "is paused", "resume": "is recorded again",
           "stop": "has ended"}  # fmt: skip


async def send(settings: Settings, command: RecorderCommand, wait: float) -> CommandDone | None:
    """Send a command; the answer, None for 0 seconds. Raises Refused, NoAnswer, Transient."""
    try:
        return await COMMANDS.send(settings, command, None, command.host, seconds=wait)
    except NoAnswer as error:
        raise NoAnswer(
            f"no recorder of {command.host} answered command {command.id} within {wait:g} s",
            hint="See that `lucid run recorder` runs there; it carries out no command that is "
            "older than LUCID_RECORDER_STALE_AFTER",
        ) from error


def bad_value(error: ValidationError) -> typer.BadParameter:
    """What is wrong with the first of the values, in the terms of the command line."""
    first = error.errors()[0]
    name = "".join(str(part) for part in first["loc"][:1])
    return typer.BadParameter(f"{'' if name == 'display' else '--'}{name}: {first['msg']}")


def _order(
    action: Action, host: str | None, wait: float, as_json: bool, session: str | None = None,
    reason: str = "requested", activity: Policy | None = None, **more: str | None,
) -> None:  # fmt: skip
    settings = Settings.load()
    if session is not None:
        session = str(parse_session_id(session))
    try:
        command = RecorderCommand.model_validate(
            {"id": str(new_session_id()), "host": host or settings.host, "action": action,
             "session": session, "reason": reason, **more,
             **({} if activity is None else {"version": 2, "activity": activity})}
        )  # fmt: skip
    except ValidationError as error:
        raise bad_value(error) from error
    quiet()
    done = asyncio.run(send(settings, command, wait))
    if as_json:
        print_json({
            "command": command.id, "action": action, "host": command.host,
            "session": done.session if done else session,
        })  # fmt: skip
    elif done is None:
        typer.echo(f"Sent {action} to the recorder of {command.host}, command {command.id}")
    else:
        typer.echo(f"Session {done.session} {RESULTS[action]}")


Host = Annotated[str | None, typer.Option(help="Whose recorder; this host's by default.")]
Session = Annotated[str, typer.Argument(help="The session's id.")]
Why = Annotated[str, typer.Option(help="Goes into the recording.")]


@app.command()
def start(
    display: Annotated[str, typer.Argument(help="Such as :0.")],
    host: Host = None,
    xauthority: Annotated[str | None, typer.Option(help="Cookie file on that host.")] = None,
    owner: str = "",
    project: str = "",
    windows: Annotated[
        bool | None, typer.Option("--windows/--no-windows", help="Titles and programs.")
    ] = None,
    clipboard: Annotated[str | None, typer.Option(help=" | ".join(CLIPBOARD_LEVELS))] = None,
    files: Annotated[
        bool | None, typer.Option("--files/--no-files", help="Use of redirected drives.")
    ] = None,
    keys: Annotated[str | None, typer.Option(help=" | ".join(KEY_LEVELS))] = None,
    wait: Wait = WAIT,
    as_json: AsJson = False,
) -> None:
    """Start recording a display; what is not said of activity is as by default."""
    asked = {"windows": windows, "clipboard": clipboard, "files": files, "keys": keys}
    said = {name: value for name, value in asked.items() if value is not None}
    _order("start", host, wait, as_json, activity=_policy(said) if said else None, display=display,
           xauthority=xauthority, owner=owner, project=project)  # fmt: skip


def _policy(said: dict[str, bool | str]) -> Policy:
    try:
        return Policy.model_validate(said)
    except ValidationError as error:
        raise bad_value(error) from error


@app.command()
def pause(
    session: Session, host: Host = None, reason: Why = "requested", wait: Wait = WAIT,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Capture nothing for a while."""
    _order("pause", host, wait, as_json, session, reason)


@app.command()
def resume(
    session: Session, host: Host = None, reason: Why = "requested", wait: Wait = WAIT,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Go on after a pause."""
    _order("resume", host, wait, as_json, session, reason)


@app.command()
def stop(
    session: Session, host: Host = None, reason: Why = "requested", wait: Wait = WAIT,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """End a recording."""
    _order("stop", host, wait, as_json, session, reason)
