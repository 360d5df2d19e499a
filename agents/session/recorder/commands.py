"""`lucid record`, and `lucid recorder start|pause|resume|stop` for recorders of other hosts."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from dataclasses import asdict
from typing import Annotated, Any

import structlog
import typer
from rich.live import Live
from rich.table import Table

from agents.platform.contract import ensure_contract, load_contract
from agents.platform.output import AsJson, errors, print_json
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.session.recorder.displays import display_source
from agents.session.recorder.recording import Ended, Recording
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.base import Source
from agents.session.recorder.sources.file import FileSource
from agents.session.recorder.sources.synthetic import SyntheticSource
from agents.session.recorder.wiring import follow_progress, make_order, open_outlet
from schemas.canonical import encode
from schemas.commands import Action, RecorderCommand
from schemas.progress import SessionProgress
from schemas.sessions import new_session_id, parse_session_id

app = typer.Typer(help="Tell the recorder of a host what to do.", no_args_is_help=True)


def record(
    display: Annotated[str | None, typer.Option(help="X11 display, such as :0.")] = None,
    file: Annotated[str | None, typer.Option(help="A file, or - for standard input.")] = None,
    synthetic: Annotated[int | None, typer.Option(help="Make up this many frames.", min=1)] = None,
    size: Annotated[int, typer.Option(help="Bytes of a made-up frame.", min=1, max=1_000_000)] = (
        64 * 1024
    ),
    rate: Annotated[float, typer.Option(help="Made-up frames a second; 0: no limit.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the made-up frames.")] = 0,
    duration: Annotated[
        float | None, typer.Option(help="Stop after so many seconds.", min=0.1)
    ] = None,
    owner: Annotated[str, typer.Option(help="Whose session it is.")] = "",
    project: Annotated[str, typer.Option(help="What it belongs to.")] = "",
    as_json: AsJson = False,
) -> None:
    """Record a display, a file or made-up frames until it ends, or Ctrl-C."""
    section = RecorderSettings.load()
    if sum(choice is not None for choice in (display, file, synthetic)) != 1:
        raise typer.BadParameter("give one of --display, --file and --synthetic")
    source: Source
    if display is not None:
        source = display_source(display, section)
    elif file is not None:
        source = FileSource(file)
    else:
        source = SyntheticSource(frames=synthetic or 1, size=size, rate=rate, seed=seed)
    _quiet()
    recording, ended = asyncio.run(
        _record(Settings.load(), section, source, duration, owner, project, quiet=as_json)
    )
    _report(recording, ended, as_json)
    if ended.error is not None:
        raise ended.error


def _quiet() -> None:
    """In the foreground errors are told once, by the command itself."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


async def _record(
    settings: Settings, section: RecorderSettings, source: Source, duration: float | None,
    owner: str, project: str, *, quiet: bool,
) -> tuple[Recording, Ended]:  # fmt: skip
    order = make_order(settings, section, owner=owner, project=project)
    await ensure_contract(settings)
    async with open_outlet(settings, asyncio.Event()) as outlet:
        recording = Recording(source, order, outlet)
        await recording.open()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, recording.stop, f"stopped by {number.name}")
        if duration is not None:
            loop.call_later(duration, recording.stop, f"stopped after {duration:g} s")
        view = Progress(recording)
        watching = [asyncio.create_task(follow_progress(settings, view.take))]
        if not quiet:
            watching.append(asyncio.create_task(view.show()))
        try:
            return recording, await recording.run()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


class Progress:
    """What is shown while a session is recorded; also ends it when others have ended it."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._chunks = 0
        self._sealed_seq = 0

    def take(self, progress: SessionProgress) -> None:
        """A progress record of any session."""
        if progress.opened.session != str(self._recording.session):
            return
        self._chunks = max(self._chunks, progress.next_index)
        self._sealed_seq = max(self._sealed_seq, progress.next_seq)
        if progress.ended and self._recording.state != "closed":
            self._recording.ended_elsewhere()

    def line(self) -> Table:
        """Time, frames, megabytes, chunks, and how many records are not sealed yet."""
        now = self._recording
        seconds = int(time.monotonic() - now.started)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_row(
            f"{now.state} {seconds // 60}:{seconds % 60:02d}",
            f"{now.frames} frames",
            f"{now.raw_bytes / 1e6:.1f} MB",
            f"{self._chunks} chunks sealed",
            f"{now.next_seq - self._sealed_seq} records to seal",
        )
        return table

    async def show(self) -> None:
        """Show it on standard error, four times a second, until cancelled."""
        errors.print(f"Recording session {self._recording.session}; Ctrl-C ends it")
        if not errors.is_terminal:
            return
        with Live(self.line(), console=errors, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(0.25)
                live.update(self.line(), refresh=True)


def _report(recording: Recording, ended: Ended, as_json: bool) -> None:
    fields: dict[str, Any] = {"session": str(recording.session), **asdict(ended)}
    fields["error"] = ended.error.code if ended.error else None
    if as_json:
        print_json(fields)
        return
    typer.echo(
        f"Session {recording.session}: {ended.reason}; {ended.frames} frames, "
        f"{ended.raw_bytes / 1e6:.1f} MB"
    )
    typer.echo(f"`lucid verify {recording.session}` checks it")


# Commands to recorders of other hosts ----------------------------------------------------------


async def _send(settings: Settings, command: RecorderCommand) -> None:
    contract = load_contract(settings)
    topic = contract.topic("session.commands")
    async with Producer(settings, contract.limits) as producer:
        await producer.send(topic.full_name, encode(command), key=command.host.encode())


def _order(
    action: Action, host: str | None, as_json: bool, session: str | None = None,
    reason: str = "requested", **more: str | None,
) -> None:  # fmt: skip
    settings = Settings.load()
    if session is not None:
        session = str(parse_session_id(session))
    command = RecorderCommand.model_validate(
        {"id": str(new_session_id()), "host": host or settings.host, "action": action,
         "session": session, "reason": reason, **more}
    )  # fmt: skip
    asyncio.run(_send(settings, command))
    if as_json:
        print_json({"command": command.id, "action": action, "host": command.host})
    else:
        typer.echo(f"Sent {action} to the recorder of {command.host}, command {command.id}")


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
    as_json: AsJson = False,
) -> None:
    """Start recording a display."""
    _order("start", host, as_json, display=display, xauthority=xauthority, owner=owner,
           project=project)  # fmt: skip


@app.command()
def pause(
    session: Session, host: Host = None, reason: Why = "requested", as_json: AsJson = False
) -> None:
    """Capture nothing for a while."""
    _order("pause", host, as_json, session, reason)


@app.command()
def resume(
    session: Session, host: Host = None, reason: Why = "requested", as_json: AsJson = False
) -> None:
    """Go on after a pause."""
    _order("resume", host, as_json, session, reason)


@app.command()
def stop(
    session: Session, host: Host = None, reason: Why = "requested", as_json: AsJson = False
) -> None:
    """End a recording."""
    _order("stop", host, as_json, session, reason)
