"""How dead letters look: fields, table, preview."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.platform.letter_box import Entry, LetterFile
from agents.platform.output import Rows, print_wide

PREVIEW = 256  # bytes of a value that are shown


def printable(data: bytes) -> str:
    """Bytes as text that a terminal can show: UTF-8 where it is printable, else escapes."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def moment(millis: int | None) -> str:
    if millis is None:
        return ""
    return datetime.fromtimestamp(millis / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shortened(reason: str, most: int = 160) -> str:
    """A reason for a table; one that is cut says so."""
    return reason if len(reason) <= most else reason[: most - 1].rstrip() + "…"


def letter_fields(entry: Entry) -> dict[str, Any]:
    letter, event = entry.letter, entry.decided
    return {
        "origin": letter.origin,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "written_at": moment(letter.timestamp),
        "refused_at": moment(entry.at),
        "service": letter.service,
        "code": letter.code,
        "reason": letter.reason,
        "key": None if letter.key is None else printable(letter.key),
        "session": entry.session,
        "kind": entry.kind,
        "size": entry.size,
        "value_left_out": bool(letter.value_size),
        "headers_left_out": letter.left_out,
        "tries": letter.tries,
        "first": letter.first or letter.origin,
        "letters": entry.copies,
        "state": entry.state,
        "decided_by": event.user if event else None,
        "decided_on": event.source if event else None,
        "decided_at": event.time.isoformat() if event else None,
    }


def print_letters(entries: Sequence[Entry]) -> None:
    table = Rows()
    for heading in ("letter", "refused at", "key", "kind", "bytes", "try", "state", "reason"):
        right = heading in ("bytes", "try")
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading != "reason",
            overflow="fold",
        )  # fmt: skip
    for entry in entries:
        letter = entry.letter
        cells = (
            letter.origin, moment(entry.at), printable((letter.key or b"")[:40]), entry.kind,
            str(entry.size), str(letter.tries), entry.state,
            f"{letter.code}: {shortened(letter.reason)}",
        )  # fmt: skip
        table.add_row(*cells)
    print_wide(table, 200)


def preview_of(value: bytes) -> dict[str, str]:
    head = value[:PREVIEW]
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The cut may go through a character.
        text = head[: error.start].decode("utf-8") if error.start > PREVIEW - 4 else ""
    if text and all(one.isprintable() or one in "\n\t" for one in text):
        return {"encoding": "utf-8", "text": text}
    return {"encoding": "hex", "text": head.hex(" ")}


def write_private(path: Path, value: bytes) -> None:
    """Write a new file that nobody else may read, whole or not; raises LetterFile."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise LetterFile(f"{path} exists already", hint="Name another file") from error
    except OSError as error:
        raise LetterFile(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise LetterFile(f"cannot write {path}: {error.strerror}") from error
