"""`lucid record`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.live import Live

from agents.platform.contract import ensure_contract
from agents.platform.output import AsJson, Rows, errors, print_json, quiet, say
from agents.platform.settings import Settings
from agents.session.recorder.order import Ended, Order
from agents.session.recorder.recording import Recording
from agents.session.recorder.remote_commands import bad_value
from agents.session.recorder.settings import RecorderSettings
from agents.session.recorder.sources.capture import Capture, display_capture, source_of
from agents.session.recorder.spool_folder import leftovers, unattended
from agents.session.recorder.wiring import follow_progress, make_order, open_outlet
from agents.session.recorder.wiring import resume as resume_spool
from schemas.canonical import Strict
from schemas.controls import Text
from schemas.errors import LucidError
from schemas.progress import SessionProgress
from schemas.sessions import parse_session_id


class NothingLeft(LucidError):
    """There is no spool to go on with."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class Belonging(Strict):
    """What a recording's `open` record takes as owner and project."""

    owner: Text
    project: Text


def record(
    display: Annotated[str | None, typer.Option(help="X11 display, such as :0.")] = None,
    file: Annotated[str | None, typer.Option(help="A file, or - for standard input.")] = None,
    synthetic: Annotated[int | None, typer.Option(help="Make up this many frames.", min=1)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sessions that were left here.")
    ] = False,
    session: Annotated[str | None, typer.Option(help="With --resume: this one only.")] = None,
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
    if sum((display is not None, file is not None, synthetic is not None, resume)) != 1:
        raise typer.BadParameter("give one of --display, --file, --synthetic and --resume")
    if session is not None and not resume:
        raise typer.BadParameter("--session goes with --resume")
    try:
        Belonging(owner=owner, project=project)
    except ValidationError as error:
        raise bad_value(error) from error
    settings = Settings.load()
    quiet()
    if resume:
        places = _left(make_order(settings, section).spool.folder, session)
        results = asyncio.run(_resume(settings, section, places, duration, quiet=as_json))
    else:
        capture = _capture(section, display, file, synthetic, size, rate, seed)
        order = make_order(settings, section, owner=owner, project=project)
        work = _record(settings, section, order, capture, duration, quiet=as_json)
        results = [asyncio.run(work)]
    _report(results, as_json, alone=not resume)
    failed = [ended.error for _, ended in results if ended.error is not None]
    if failed:
        raise failed[0]


def _capture(
    section: RecorderSettings, display: str | None, file: str | None, synthetic: int | None,
    size: int, rate: float, seed: int,
) -> Capture:  # fmt: skip
    if display is not None:
        return display_capture(section, display, os.environ.get("XAUTHORITY"), None)
    if file is not None:
        return Capture(kind="file", name=file if file == "-" else str(Path(file).absolute()))
    return Capture(kind="synthetic", frames=synthetic or 1, size=size, rate=rate, seed=seed)


async def _record(
    settings: Settings, section: RecorderSettings, order: Order, capture: Capture,
    duration: float | None, *, quiet: bool,
) -> tuple[Recording, Ended]:  # fmt: skip
    await ensure_contract(settings)
    async with open_outlet(settings, asyncio.Event()) as outlet:
        recording = Recording(source_of(capture, section), order, outlet, capture)
        await recording.open()
        if left := unattended(order.spool.folder):
            say(f"Sessions left on this host: {len(left)}; `lucid record --resume` goes on with "
                "them")  # fmt: skip
        return (await _run(settings, [recording], duration, quiet=quiet))[0]


def _left(folder: Path, session: str | None) -> list[Path]:
    """The spools to go on with, without those that a recorder has now unless it is named.

    Raises NothingLeft.
    """
    if session is None:
        found = unattended(folder)
        if taken := len(leftovers(folder)) - len(found):
            say(f"Sessions that are being recorded on this host, and left alone: {taken}")
        return found
    name = str(parse_session_id(session))
    found = [place for place in leftovers(folder) if place.name == name]
    if not found:
        raise NothingLeft(
            f"no spool of session {session} is in {folder}",
            hint="It was delivered whole, or recorded on another host",
        )
    return found


async def _resume(
    settings: Settings, section: RecorderSettings, places: list[Path], duration: float | None,
    *, quiet: bool,
) -> list[tuple[Recording, Ended]]:  # fmt: skip
    """Go on with every session that can be; what keeps one from it is raised after the others."""
    await ensure_contract(settings)
    order = make_order(settings, section)
    recordings: list[Recording] = []
    problems: list[LucidError] = []
    async with open_outlet(settings, asyncio.Event()) as outlet:
        for place in places:
            try:
                found = await resume_spool(place, order, outlet, section)
            except LucidError as error:
                problems.append(error)
                continue
            recordings += [found] if found is not None else []
        results = await _run(settings, recordings, duration, quiet=quiet) if recordings else []
    for problem in problems[1:]:
        say(f"error: {problem}")
    if problems:
        if results or quiet:
            _report(results, quiet, alone=False)
        raise problems[0]
    return results


async def _run(
    settings: Settings, recordings: Sequence[Recording], duration: float | None, *, quiet: bool
) -> list[tuple[Recording, Ended]]:
    """Until every recording has ended; a second signal leaves what is not delivered."""
    loop = asyncio.get_running_loop()
    stopping: list[str] = []

    def stop(reason: str) -> None:
        for recording in recordings:
            if stopping:
                recording.leave()
            recording.stop(reason)
        if not stopping and any(one.trouble is not None for one in recordings):
            say("No broker answers: waiting until it has everything. Ctrl-C again leaves the rest "
                "on disk, for `lucid record --resume`")  # fmt: skip
        stopping.append(reason)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, f"stopped by {number.name}")
    if duration is not None:
        loop.call_later(duration, stop, f"stopped after {duration:g} s")
    view = Progress(recordings)
    watching = [asyncio.create_task(follow_progress(settings, view.take))]
    if not quiet:
        watching.append(asyncio.create_task(view.show()))
    try:
        ended = await asyncio.gather(*(recording.run() for recording in recordings))
        return list(zip(recordings, ended, strict=True))
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


class Progress:
    """What is shown while sessions are recorded; also ends those that others have ended."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._recordings = {str(one.session): one for one in recordings}
        self._chunks = dict.fromkeys(self._recordings, 0)
        self._sealed_seq = dict.fromkeys(self._recordings, 0)

    def take(self, progress: SessionProgress) -> None:
        """A progress record of any session."""
        name = progress.opened.session
        recording = self._recordings.get(name)
        if recording is None:
            return
        self._chunks[name] = max(self._chunks[name], progress.next_index)
        self._sealed_seq[name] = max(self._sealed_seq[name], progress.next_seq)
        if progress.ended and recording.state != "closed":
            recording.ended_elsewhere()

    def table(self) -> Rows:
        """Time, frames, megabytes, chunks, and how many records are not sealed yet."""
        table = Rows(header=False)
        for name, one in self._recordings.items():
            seconds = int(time.monotonic() - one.started)
            behind = f"{one.next_seq - self._sealed_seq[name]} records to seal"
            if one.trouble is not None:
                behind = f"no broker, {one.waiting} on disk"
            table.add_row(
                f"{one.state} {seconds // 60}:{seconds % 60:02d}",
                f"{one.frames} frames",
                f"{one.raw_bytes / 1e6:.1f} MB",
                f"{self._chunks[name]} chunks sealed",
                behind,
            )
        return table

    async def show(self) -> None:
        """Show it on standard error, four times a second, until cancelled.

        Where that is no terminal, only that a broker is away, and that it is back.
        """
        for name in self._recordings:
            say(f"Recording session {name}; Ctrl-C ends it")
        if not errors.is_terminal:
            await self._tell()
            return
        with Live(self.table(), console=errors, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(0.25)
                live.update(self.table(), refresh=True)

    async def _tell(self) -> None:
        away: set[str] = set()
        while True:
            await asyncio.sleep(0.25)
            for name, one in self._recordings.items():
                if one.trouble is not None and name not in away:
                    away.add(name)
                    say(f"Session {name}: no broker answers ({one.trouble.what}); what is "
                        "captured waits on disk")  # fmt: skip
                elif one.trouble is None and name in away:
                    away.remove(name)
                    say(f"Session {name}: the broker is back")


def _report(results: Sequence[tuple[Recording, Ended]], as_json: bool, *, alone: bool) -> None:
    if as_json:
        found = [_facts(recording, ended) for recording, ended in results]
        print_json(found[0] if alone else {"sessions": found})
        return
    if not results and not alone:
        typer.echo("Nothing was left to go on with")
    for recording, ended in results:
        typer.echo(
            f"Session {recording.session}: {ended.reason}; {ended.frames} frames, "
            f"{ended.raw_bytes / 1e6:.1f} MB"
        )
        if not ended.waiting:
            typer.echo(f"`lucid verify {recording.session}` checks it")


def _facts(recording: Recording, ended: Ended) -> dict[str, Any]:
    fields: dict[str, Any] = {"session": str(recording.session), **asdict(ended)}
    return {**fields, "error": ended.error.code if ended.error else None}
