"""`lucid activity`: what was done in a session, beside its pictures.

LucidError
└── NoActivity      the recording holds none
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, TypeAlias, get_args

import typer

from agents.auditor.commands import Identities, Trust, What, source_of, steps, vouch_for
from agents.auditor.reading import frame_payloads, open_session
from agents.auditor.traces import Export
from agents.platform.output import AsJson, Rows, clock, print_json, print_wide
from schemas.activity import (
    CODEC_ACTIVITY,
    Clipboard,
    Display,
    Drive,
    Entry,
    File,
    Keys,
    Watching,
    Window,
    entries_of,
    type_name,
)
from schemas.canonical import encode
from schemas.errors import LucidError

Timed: TypeAlias = tuple[int, Entry]
TYPES = [one.__name__.lower() for one in get_args(Entry)]
_CHARACTERS = {"space": " ", "Return": "⏎", "KP_Enter": "⏎", "Tab": "⇥"}


class NoActivity(LucidError):
    """A recording has only pictures, or no pictures at all."""

    exit_status = 65


def activity(
    what: What,
    identity: Identities = None,
    trust: Trust = None,
    search: Annotated[str, typer.Option(help="Only entries with this text, in any case.")] = "",
    kind: Annotated[str, typer.Option("--type", help=f"Only these: {', '.join(TYPES)}.")] = "",
    as_json: AsJson = False,
) -> None:
    """List what was done in a session: windows, clipboard, drives, keys.

    Checked first, and refused with exit status 1, as by `lucid export`: see its --help.
    """
    if kind and kind not in TYPES:
        raise typer.BadParameter(f"--type is one of {', '.join(TYPES)}")
    with source_of(what, identity or [], trust or []) as (source, access, settings):
        trace = Export(settings, what) if settings is not None else None
        session = open_session(source, access.identities)
        codec = session.opened.codec
        if codec != CODEC_ACTIVITY:
            raise NoActivity(
                f"the session's codec is {codec}, only {CODEC_ACTIVITY} has activity",
                hint="LUCID_RECORDER_ACTIVITY on its host said to record none, or the "
                "recording is older than that",
            )
        session, signatures = vouch_for(session, access, settings, what, bool(trust), as_json)
        with steps("Reading", as_json) as step:
            found = list(_chosen(entries_of(codec, frame_payloads(session, step)), kind, search))
        if trace is not None:
            size = sum(len(encode(entry)) for _, entry in found)
            trace.shown("activity.read", len(found), size)
    if as_json:
        entries = [_fields(time, entry) for time, entry in found]
        print_json({
            "session": session.opened.session, "signatures": asdict(signatures),
            "entries": entries,
        })  # fmt: skip
        return
    table = Rows()
    for heading in ("time (UTC)", "type", "what"):
        table.add_column(heading, no_wrap=heading != "what")
    for time, entry in found:
        table.add_row(clock(time, "milliseconds"), type_name(entry), describe(entry))
    print_wide(table, 120)


def _chosen(entries: Iterator[Timed], kind: str, search: str) -> Iterator[Timed]:
    """Entries of a type, with a text in any of their values or in what is shown of them."""
    wanted = search.casefold()
    for time, entry in entries:
        if kind and type_name(entry) != kind:
            continue
        if not wanted or any(
            wanted in text.casefold() for text in (*_texts(entry), describe(entry))
        ):
            yield time, entry


def _texts(entry: Entry) -> Iterator[str]:
    for value in entry.model_dump().values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (one for one in value if isinstance(one, str))


def _fields(time: int, entry: Entry) -> dict[str, Any]:
    return {"time": time, "type": type_name(entry), **entry.model_dump(mode="json")}


def describe(entry: Entry) -> str:
    """An entry as a line for people."""
    match entry:
        case Watching():
            on = [f"{name} {value}" for name, value in entry.policy.model_dump().items()]
            unseen = [f"{one.part} cannot be seen: {one.why}" for one in entry.unseen]
            return "; ".join([", ".join(on), *unseen])
        case Window():
            return _window(entry)
        case Display():
            return f"{entry.width} x {entry.height}"
        case Clipboard():
            return _clipboard(entry)
        case Drive():
            return f"{entry.place} {'mounted' if entry.mounted else 'unmounted'}"
        case File():
            more = f", {entry.left_out} more files" if entry.left_out else ""
            return f"{entry.program or 'a program'}: {entry.access} {entry.place}{more}"
        case Keys():
            return _keys(entry)


def _window(entry: Window) -> str:
    if entry.via == "none":
        return "no window"
    notes = ["keys protected"] if entry.protected else []
    notes += [f"{entry.left_out} changes before it left out"] if entry.left_out else []
    name = entry.program or entry.instance or "unknown program"
    noted = f" ({', '.join(notes)})" if notes else ""
    return f"{name}: {entry.title}{noted}"


def _clipboard(entry: Clipboard) -> str:
    parts = [f"{entry.selection} {'taken by ' if entry.owned else 'given up'}"]
    parts[0] += (entry.program or "an unknown program") if entry.owned else ""
    parts += [f"{entry.changes} times"] if entry.changes > 1 else []
    parts += [f"{entry.size} bytes of text"] if entry.size is not None else []
    parts += [" ".join(entry.formats)] if entry.formats else []
    return ", ".join(parts)


def _keys(entry: Keys) -> str:
    line = f"{entry.count} in {entry.span / 1e6:.1f} s"
    if entry.classes is not None:
        line += ": " + ", ".join(f"{kind} {count}" for kind, count in entry.classes.items())
    if entry.keys is not None:
        line += f": {readable(entry.keys)}"
    return line


def readable(keys: list[str]) -> str:
    """Keys as text: modifiers that only shifted are left out, other names stand in brackets."""
    shown = [key for key in keys if not key.startswith(("Shift_", "ISO_Level3"))]
    return "".join(_CHARACTERS.get(key, key if len(key) == 1 else f"[{key}]") for key in shown)
