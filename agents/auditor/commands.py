"""`lucid verify`, `lucid bundle`, `lucid export` and `lucid sessions list|show`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agents.auditor.access import load_access
from agents.auditor.bundle import open_bundle, save_bundle
from agents.auditor.files import whole_file
from agents.auditor.reading import Newest, OpenedSession, frame_payloads, open_session
from agents.auditor.sessions import SessionSummary, list_sessions, show_session
from agents.auditor.traces import Export, Form, verified
from agents.auditor.vouching import Signatures, vouch
from agents.platform.output import (
    AsJson,
    Rows,
    clock,
    clock_utc,
    errors,
    mark,
    plain,
    print_json,
    print_wide,
)
from agents.platform.settings import Settings
from agents.platform.stored_sessions import find_session
from agents.platform.verification import Step, run_verification
from schemas.activity import SCREEN_CODECS, pictures_of
from schemas.errors import LucidError
from schemas.sessions import InvalidSessionId, parse_session_id
from schemas.verdicts import Report, Severity, Verdict
from schemas.verify_documents import Access
from schemas.verify_source import SessionSource

sessions_app = typer.Typer(help="List and show recorded sessions.", no_args_is_help=True)
MARKS = {"ok": "[green]ok[/]", "unchecked": "[yellow]not fully checked[/]",
         "incomplete": "[yellow]incomplete[/]", "erased": "[cyan]erased[/]",
         "failed": "[red]FAILED[/]"}  # fmt: skip

Identities = Annotated[
    list[Path] | None, typer.Option("--identity", help="A file of age identities.")
]
Trust = Annotated[
    list[str] | None, typer.Option("--trust", help="A verifier key, or a file of them.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
What = Annotated[str, typer.Argument(help="A session id, or a bundle's file.")]


class NotAPicture(LucidError):
    """A recording has another codec than the export can show."""

    exit_status = 65


@contextmanager
def steps(title: str, quiet: bool) -> Iterator[Step]:
    """A progress bar over chunks, on standard error."""
    with Progress(console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def source_of(what: str, identities: Sequence[Path], trust: Sequence[str]
            ) -> Iterator[tuple[SessionSource, Access, Settings | None]]:  # fmt: skip
    """A session of this installation and its settings, or a bundle, which needs only itself."""
    try:
        session = parse_session_id(what)
    except InvalidSessionId:
        with open_bundle(Path(what)) as bundle:
            yield bundle, load_access(identities, trust, None), None
        return
    settings = Settings.load()
    access = load_access(identities, trust, settings)
    yield asyncio.run(find_session(settings, session, access.trusted)), access, settings


def verify(
    what: What, identity: Identities = None, trust: Trust = None, as_json: AsJson = False
) -> None:
    """Check a session or a bundle; exit status 1 when anything is wrong or missing."""
    with (
        source_of(what, identity or [], trust or []) as (source, access, settings),
        steps("Checking", as_json) as step,
    ):
        report = run_verification(source, access, step)
    if settings is not None:
        verified(settings, what, report)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _show_report(report)
    raise typer.Exit(report.exit_status)


def vouch_for(
    session: OpenedSession, access: Access, settings: Settings | None, what: str,
    demanded: bool, quietly: bool,
) -> tuple[OpenedSession, Signatures]:  # fmt: skip
    """`vouch` with a progress bar; the refusal of a session of this installation is audited."""

    def refused(report: Report) -> None:
        if settings is not None:
            verified(settings, what, report)

    with steps("Checking", quietly) as step:
        return vouch(session, access, demanded=demanded, refused=refused, step=step)


def _show_report(report: Report) -> None:
    console = Console(highlight=False, soft_wrap=True)
    totals = report.totals
    console.print(
        f"Session {report.session} ({report.source}): {MARKS[report.outcome.value]}"
        f"{', as far as it was checked' if report.unchecked else ''}"
    )
    table = Rows()
    for heading in ("check", "result"):
        table.add_column(heading)
    for line in report.areas:
        table.add_row(line.area.value, mark(MARKS[line.result]))
    print_wide(table, 80)
    whole = "are proven by their leaves" if report.erasure else "are intact"
    console.print(
        f"{totals.chunks_ok} of {totals.chunks_expected} chunks {whole}, "
        f"{totals.chunks_decrypted} were decrypted; {totals.records} records, "
        f"{totals.missing} missing; {totals.sealed_bytes / 1e6:.1f} MB"
    )
    if report.root:
        console.print(f"Root {report.root}")
    for signer in report.signers:
        console.print(f"Signed by {plain(signer)}")
    for finding in report.findings:
        where = "" if finding.chunk is None else f" chunk {finding.chunk}:"
        color = "cyan" if finding.severity is Severity.ERASED else "red"
        console.print(
            f"[{color}]{finding.verdict.value}[/]{where} {plain(finding.detail)}. "
            f"{plain(finding.advice)}."
        )
    for skipped in report.unchecked:
        console.print(f"[yellow]Not checked[/] {plain(skipped.what)}: {plain(skipped.why)}")


def bundle(
    session: Annotated[str, typer.Argument(help="A session id.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write everything that an auditor needs into one file; exit status 1 if a chunk is missing."""
    settings = Settings.load()
    access = load_access([], [], settings)
    source = asyncio.run(find_session(settings, parse_session_id(session), access.trusted))
    trace = Export(settings, session)
    with steps("Bundling", as_json) as step:
        written = save_bundle(
            source, output, force=force, step=step,
            whole=lambda written: trace.written("bundle", output, written.size),
        )  # fmt: skip
    if as_json:
        print_json({"session": session, "file": str(output), **asdict(written)})
    else:
        typer.echo(f"{output}: {written.chunks} chunks, {written.size / 1e6:.1f} MB")
        for index in written.missing:
            typer.echo(f"{Verdict.MISSING_CHUNK.value}: chunk {index} is not in the store")
    raise typer.Exit(1 if written.missing else 0)


def export(
    what: What,
    output: Annotated[Path, typer.Argument(help="FILE.mp4, or FILE.png for a contact sheet.")],
    identity: Identities = None,
    trust: Trust = None,
    moments: Annotated[int, typer.Option(help="Pictures on a contact sheet.", min=1, max=60)] = 12,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a film or a contact sheet of a recorded display; exit status 1 if it is not verified.

    Checked first with the keys that --trust names, or with those that this installation
    trusts for a session of its own. A bundle without --trust is taken unchecked, with a warning.
    """
    if output.suffix not in (".mp4", ".png"):
        raise typer.BadParameter("the output is FILE.mp4 or FILE.png")
    # Imported here: the other commands need no video libraries.
    from agents.platform.video import SheetFacts, VideoFacts, write_contact_sheet, write_video

    with source_of(what, identity or [], trust or []) as (source, access, settings):
        trace = Export(settings, what) if settings is not None else None
        session = open_session(source, access.identities)
        codec = session.opened.codec
        if codec not in SCREEN_CODECS:
            raise NotAPicture(
                f"the session's codec is {codec}, only {' and '.join(SCREEN_CODECS)} have pictures",
                hint="`lucid verify` checks recordings of any codec",
            )
        session, signatures = vouch_for(session, access, settings, what, bool(trust), as_json)
        newest = Newest()
        facts: VideoFacts | SheetFacts
        form: Form = "film" if output.suffix == ".mp4" else "sheet"
        with steps("Exporting", as_json) as step, whole_file(output, force=force) as temporary:
            payloads = pictures_of(codec, frame_payloads(session, step, newest))
            if form == "film":
                facts = write_video(payloads, temporary, end=lambda: newest.time)
            else:
                title = f"Session {session.opened.session}, {session.opened.host}"
                facts = write_contact_sheet(payloads, temporary, moments=moments, title=title)
            if trace is not None:
                trace.written(form, output, temporary.stat().st_size)
    if as_json:
        print_json({
            "session": session.opened.session, "file": str(output), **asdict(facts),
            "signatures": asdict(signatures),
        })  # fmt: skip
        return
    typer.echo(f"{output}: {facts.width} x {facts.height}, {facts.seconds:.1f} s")


@sessions_app.command("list")
def list_command(
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List sessions, the newest first."""
    found = asyncio.run(list_sessions(Settings.load(), limit))
    if as_json:
        print_json({"sessions": [asdict(one) for one in found]})
        return
    table = Rows()
    for heading in ("session", "state", "started (UTC)", "host"):
        table.add_column(heading, no_wrap=True)
    for heading in ("seconds", "frames", "chunks", "MB"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.session, _state(one), clock(one.started), one.host, f"{one.seconds:.1f}",
            "" if one.frames is None else str(one.frames), str(one.chunks),
            f"{one.stored_bytes / 1e6:.1f}",
        )  # fmt: skip
    print_wide(table, 120)


def _state(one: SessionSummary) -> str:
    """`completed, content erased`: what was erased stands behind the state."""
    return ", ".join([one.state, *(f"{stage} {far}" for stage, far in sorted(one.erased.items()))])


@sessions_app.command("show")
def show_command(
    session: Annotated[str, typer.Argument(help="A session id.")], as_json: AsJson = False
) -> None:
    """Show what is known of a session."""
    found = asyncio.run(show_session(Settings.load(), parse_session_id(session)))
    fields: dict[str, Any] = asdict(found)
    summary = fields.pop("summary")
    fields = {**summary, **fields}
    if as_json:
        print_json(fields)
        return
    table = Rows(header=False)
    for name, value in fields.items():
        if name == "started":
            value = clock_utc(value)
        elif isinstance(value, list):
            value = "\n".join(map(str, value))
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        table.add_row(name.replace("_", " "), "" if value is None else str(value))
    print_wide(table, 120)
