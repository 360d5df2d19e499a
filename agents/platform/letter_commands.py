"""`lucid dead-letters list|show|replay|discard`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from agents.platform.audit import Audit
from agents.platform.blobs import Blobs
from agents.platform.contract import Contract, load_contract
from agents.platform.letter_box import (
    Box,
    CannotReplay,
    Entry,
    LetterProblem,
    State,
    discard,
    read_box,
    replay,
    still_open,
    why_not,
)
from agents.platform.letter_views import (
    PREVIEW,
    letter_fields,
    preview_of,
    print_letters,
    printable,
    write_private,
)
from agents.platform.output import AsJson, Yes, errors, print_json, quiet
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from schemas.audit import ResourceRead
from schemas.deadletters import DeadLetter
from schemas.errors import LucidError, quoted

app = typer.Typer(help="Look at records that were refused, and replay them.", no_args_is_help=True)

Shown = Literal["waiting", "replayed", "returned", "discarded", "all"]
assert set(get_args(Shown)) == {*get_args(State), "all"}

Origins = Annotated[
    list[str] | None, typer.Argument(help="TOPIC/PARTITION/OFFSET, as `list` has it.")
]
All = Annotated[bool, typer.Option("--all", help="All waiting letters that the filters leave.")]
Topic = Annotated[str, typer.Option(help="Only records of this topic.")]
Code = Annotated[str, typer.Option(help="Only records refused for this error.")]
SessionOf = Annotated[str, typer.Option("--session", help="Only records with this key.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
MOST_NAMED = 20


class NotConfirmed(LetterProblem):
    """Nobody said yes to an act on many letters."""


class UnknownFilter(LetterProblem):
    """A filter names what there is not, as a mistyped one does."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters are meant; an empty text leaves all."""

    topic: str = ""
    code: str = ""
    session: str = ""
    state: Shown = "all"

    def fits(self, entry: Entry) -> bool:
        letter = entry.letter
        return (
            self.topic in ("", letter.topic)
            and self.code in ("", letter.code)
            and self.session in ("", entry.session, printable(letter.key or b""))
            and self.state in ("all", entry.state)
        )


# Reading -------------------------------------------------------------------------------------


def _bar(label: str) -> Progress:
    return Progress(
        TextColumn(label), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(), console=errors, transient=True, disable=not errors.is_terminal,
    )  # fmt: skip


def _open(settings: Settings, contract: Contract) -> Box:
    """All letters."""
    quiet()
    with _bar("Reading dead letters") as bar:
        task = bar.add_task("", total=None)
        box = asyncio.run(
            read_box(
                settings, contract, lambda done, of: bar.update(task, completed=done, total=of)
            )
        )
    if box.unreadable:
        errors.print(f"{box.unreadable} records of {box.topic} are no dead letters")
    return box


def _filters(box: Box, contract: Contract, topic: str, code: str, session: str) -> Filters:
    """The filters, the topic with or without its prefix; raises UnknownFilter."""
    if topic in contract.topics:
        topic = contract.topics[topic].full_name
    topics = {one.letter.topic for one in box.entries}
    if topic and topic not in topics | {one.full_name for one in contract.topics.values()}:
        raise _unknown(f"there is no topic {quoted(topic)}", topics or contract.topics)
    codes = {one.letter.code for one in box.entries}
    # A box without letters has none of any code, which is what somebody may want to see.
    if code and codes and code not in codes:
        raise _unknown(f"no record was refused for {quoted(code)}", codes)
    return Filters(topic, code, session)


def _unknown(what: str, names: Iterable[str]) -> UnknownFilter:
    there = sorted(printable(name.encode()) for name in names)
    more = f" and {len(there) - MOST_NAMED} more" if len(there) > MOST_NAMED else ""
    return UnknownFilter(what, hint=f"There are {', '.join(there[:MOST_NAMED])}{more}")


@app.command("list")
def list_letters(
    topic: Topic = "",
    code: Code = "",
    session: SessionOf = "",
    state: Annotated[Shown, typer.Option(help="Only letters in this state.")] = "waiting",
    as_json: AsJson = False,
) -> None:
    """List refused records: where from, why, and what was decided."""
    settings = Settings.load()
    contract = load_contract(settings)
    box = _open(settings, contract)
    filters = replace(_filters(box, contract, topic, code, session), state=state)
    found = [entry for entry in box.entries if filters.fits(entry)]
    if as_json:
        print_json({"letters": [letter_fields(one) for one in found], "unreadable": box.unreadable})
        return
    if found:
        print_letters(found)
    others = len(box.entries) - len(found)
    more = f"; {others} more without these filters (`--state all` shows every state)"
    typer.echo(f"{len(found)} dead letters{more if others else ''}")


# One letter ------------------------------------------------------------------------------------


async def _whole(box: Box, entry: Entry, contract: Contract) -> DeadLetter:
    """The letter with its value, once it is put down that it is read."""
    act = ResourceRead(
        action="dead-letters.show", resource=entry.letter.origin, session=entry.session,
        request=None, bytes=entry.size, items=1, outcome="ok",
    )  # fmt: skip
    async with box.whole() as fetch:
        letter = await fetch(entry)
    async with Producer(box.settings, contract.limits) as producer:
        await Audit(producer, contract).record(act, entry.session or entry.letter.origin)
    return letter


@app.command()
def show(
    origin: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET, as `list` has it.")],
    raw: Annotated[
        Path | None, typer.Option(help="Write the value to this new file, mode 0600.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one refused record: headers, reason, the first bytes. They may be of a screen."""
    settings = Settings.load()
    contract = load_contract(settings)
    box = _open(settings, contract)
    entry = box.entry(origin)
    letter = asyncio.run(_whole(box, entry, contract))
    if raw is not None:
        if letter.value is None:
            raise LetterProblem(f"the dead letter {origin} has no value to write")
        write_private(raw, letter.value)
    fields = {
        **letter_fields(entry),
        "headers": [
            {"name": name, "value": None if value is None else printable(value)}
            for name, value in letter.headers
        ],
        "preview": None if letter.value is None else preview_of(letter.value),
        "raw": None if raw is None else str(raw),
    }
    if as_json:
        print_json(fields)
        return
    headers, preview = fields.pop("headers"), fields.pop("preview")
    for name, value in fields.items():
        if value not in (None, "", 0, False):
            typer.echo(f"{name.replace('_', ' '):<16} {printable(str(value).encode())}")
    for one in headers:
        typer.echo(f"{'header':<16} {printable(one['name'].encode())}: {one['value']}")
    if preview is not None:
        size, shown = entry.size, min(entry.size, PREVIEW)
        typer.echo(f"{'value':<16} {size} bytes, the first {shown} as {preview['encoding']}:")
        typer.echo(preview["text"])


# Acting on letters -----------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """The letters that a command acts on, and why it leaves the others it was asked for."""

    entries: list[Entry] = field(default_factory=list)
    left: list[tuple[Entry, str]] = field(default_factory=list)

    def leave(self, entry: Entry, why: str) -> None:
        self.left.append((entry, why))


def _chosen(box: Box, origins: Sequence[str], everything: bool, filters: Filters) -> list[Entry]:
    """The letters that the arguments name, in order of origin; raises NoSuchLetter."""
    if bool(origins) == everything or (origins and filters != Filters()):
        raise typer.BadParameter("name letters, or give --all with or without filters")
    if origins:
        return sorted((box.entry(one) for one in set(origins)), key=lambda entry: entry.place)
    return [one for one in box.entries if one.state == "waiting" and filters.fits(one)]


def _plan_replay(
    box: Box, chosen: Sequence[Entry], contract: Contract, *, named: bool, force: bool
) -> Plan:
    """What can be replayed; raises CannotReplay for a named letter that cannot."""
    plan = Plan()
    blobs = Blobs(box.settings.blobs_dir)
    going_on = set() if force else set(still_open(chosen, box.entries))
    for entry in chosen:
        if entry.state != "waiting" and not force:
            plan.leave(entry, f"it is {entry.state} already")
            continue
        why = why_not(entry, contract)
        if not why and entry.session is not None and blobs.erased(entry.session):
            why = f"session {entry.session} was erased"
        if not why and entry.session in going_on:
            why = (
                f"session {entry.session} goes on: no letter holds its end, and what its recorder "
                "sends now would come in between"
            )
        if not why:
            plan.entries.append(entry)
        elif named:
            raise CannotReplay(
                f"dead letter {entry.letter.origin} cannot be replayed: {why}",
                hint="Wait for the session's end, or give --force" if "goes on" in why else "",
            )
        else:
            plan.leave(entry, why)
    return plan


def _confirm(plan: Plan, what: str, *, named: bool, yes: bool, as_json: bool) -> None:
    """Ask before many letters are acted on; raises NotConfirmed."""
    if named or yes or not plan.entries:
        return
    if as_json or not typer.confirm(f"{what} {len(plan.entries)} letters?"):
        raise NotConfirmed("nothing was done", hint="Give --yes, or name the letters")


Act = Callable[[Producer, Audit], AsyncIterator[dict[str, Any]]]


async def _act(
    settings: Settings, contract: Contract, count: int, act: Act, label: str
) -> tuple[list[dict[str, Any]], LucidError | None]:
    """Do it to one after the other; stops at the first error and says what was done before."""
    done: list[dict[str, Any]] = []
    async with Producer(settings, contract.limits) as producer:
        audit = Audit(producer, contract, host=settings.host)
        with _bar(label) as bar:
            task = bar.add_task("", total=count)
            try:
                async for one in act(producer, audit):
                    done.append(one)
                    bar.update(task, advance=1)
            except LucidError as error:
                return done, error
    return done, None


def _report(
    plan: Plan, done: Sequence[dict[str, Any]], error: LucidError | None, verb: str,
    *, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    left = [{"origin": entry.letter.origin, "why": why} for entry, why in plan.left]
    if as_json:
        print_json({
            "dry_run": dry_run, verb: done, "left": left,
            "error": None if error is None else {"code": error.code, "reason": str(error)},
        })  # fmt: skip
    else:
        for one in left:
            typer.echo(f"left {one['origin']}: {one['why']}")
        for one in done:
            typer.echo(f"{'would be ' if dry_run else ''}{verb} {one['origin']}")
        typer.echo(f"{len(done)} {'would be ' if dry_run else ''}{verb}, {len(left)} left")
    if error is not None:
        raise error


def _carry_out(
    settings: Settings, contract: Contract, plan: Plan, act: Act, verb: str,
    *, named: bool, yes: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    if dry_run:
        done = [{"origin": entry.letter.origin} for entry in plan.entries]
        _report(plan, done, None, verb, dry_run=True, as_json=as_json)
        return
    verbs = {"replayed": "Replay", "discarded": "Discard"}
    _confirm(plan, verbs[verb], named=named, yes=yes, as_json=as_json)
    results, error = asyncio.run(
        _act(settings, contract, len(plan.entries), act, f"{verbs[verb]}ing")
    )
    _report(plan, results, error, verb, dry_run=False, as_json=as_json)


@app.command("replay")
def replay_letters(
    origins: Origins = None,
    everything: All = False,
    topic: Topic = "",
    code: Code = "",
    session: SessionOf = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also letters that were decided on, and live sessions.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Produce refused records to where they came from again, in their order."""
    settings = Settings.load()
    contract = load_contract(settings)
    box = _open(settings, contract)
    named = bool(origins)
    filters = _filters(box, contract, topic, code, session)
    chosen = _chosen(box, origins or [], everything, filters)
    plan = _plan_replay(box, chosen, contract, named=named, force=force)

    async def act(producer: Producer, audit: Audit) -> AsyncIterator[dict[str, Any]]:
        async for entry, offset in replay(box, plan.entries, producer, audit):
            yield {
                "origin": entry.letter.origin, "offset": offset, "try": entry.letter.tries + 1,
            }  # fmt: skip

    _carry_out(settings, contract, plan, act, "replayed", named=named, yes=yes, dry_run=dry_run,
               as_json=as_json)  # fmt: skip


@app.command("discard")
def discard_letters(
    reason: Annotated[str, typer.Option(help="Why; it stands in the audit event.")],
    origins: Origins = None,
    everything: All = False,
    topic: Topic = "",
    code: Code = "",
    session: SessionOf = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Decide that refused records will not be taken. Nothing is deleted."""
    settings = Settings.load()
    contract = load_contract(settings)
    box = _open(settings, contract)
    named = bool(origins)
    plan = Plan()
    filters = _filters(box, contract, topic, code, session)
    for entry in _chosen(box, origins or [], everything, filters):
        if entry.state == "waiting":
            plan.entries.append(entry)
        else:
            plan.leave(entry, f"it is {entry.state} already")

    async def act(_: Producer, audit: Audit) -> AsyncIterator[dict[str, Any]]:
        async for entry in discard(plan.entries, reason, audit):
            yield {"origin": entry.letter.origin}

    _carry_out(settings, contract, plan, act, "discarded", named=named, yes=yes, dry_run=dry_run,
               as_json=as_json)  # fmt: skip
