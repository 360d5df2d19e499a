"""Copying on a real X server: that it happened, its details, and never its content."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from schemas.activity import (
    Clipboard,
)
from tests.session.recorder.desktop import SECRET, Client, Desktop, client, nowhere

pytestmark = pytest.mark.display
TEXT = (SECRET * 100).encode()


def offers(text: bytes, kind: str = "UTF8_STRING") -> dict[str, tuple[str, bytes, int]]:
    """What a program that copied a text answers; TARGETS are filled in by `copied`."""
    return {"UTF8_STRING": (kind, text, 32 if kind == "INCR" else 8), "TARGETS": ("ATOM", b"", 32)}


def copied(program: Client, given: dict[str, tuple[str, bytes, int]], *more: str) -> None:
    names = [*given, *more]
    atoms = b"".join(program.atom(name).to_bytes(4, "little") for name in names)
    window = program.window()
    program.put(window, "WM_CLASS", "STRING", b"soffice\0Calc\0")
    program.own("CLIPBOARD", window)
    program.serve({**given, "TARGETS": ("ATOM", atoms, 32)})


def test_copying_has_an_entry_without_details(desktop: Desktop) -> None:
    desktop.record(clipboard="use")
    with client(desktop.display) as program:
        copied(program, offers(TEXT))
        desktop.until(lambda: desktop.found(Clipboard))
        entry = desktop.found(Clipboard)[0]
        assert (entry.selection, entry.owned, entry.changes) == ("CLIPBOARD", True, 1)
        assert (entry.formats, entry.size) == (None, None)
        assert entry.program == Path("/proc/self/comm").read_text().strip()
        assert program.asked == []
    desktop.until(lambda: len(desktop.found(Clipboard)) == 2)
    gone = desktop.found(Clipboard)[1]
    assert (gone.owned, gone.program) == (False, "")


def test_details_are_formats_and_size_and_never_the_content(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        copied(program, offers(TEXT), "text/html")
        desktop.until(lambda: desktop.found(Clipboard))
    (entry, *_) = desktop.found(Clipboard)
    assert entry.formats == ["UTF8_STRING", "TARGETS", "text/html"]
    assert entry.size == len(TEXT) == 1000
    nowhere(desktop)


def test_a_large_text_that_comes_in_pieces_has_its_least_size(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        copied(program, offers((5_000_000).to_bytes(4, "little"), kind="INCR"))
        desktop.until(lambda: desktop.found(Clipboard))
        assert desktop.found(Clipboard)[0].size == 5_000_000


def test_a_password_managers_text_is_not_even_measured(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        copied(program, offers(TEXT), "x-kde-passwordManagerHint")
        desktop.until(lambda: desktop.found(Clipboard))
        assert desktop.found(Clipboard)[0].size is None
        assert program.asked == ["TARGETS"]


def test_an_owner_that_does_not_answer_has_an_entry_all_the_same(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        program.own("CLIPBOARD", program.window())
        desktop.until(lambda: desktop.found(Clipboard))
        assert (desktop.found(Clipboard)[0].formats, desktop.found(Clipboard)[0].size) == (
            None,
            None,
        )
    with client(desktop.display) as program:
        program.own("PRIMARY", program.window())
        program.serve({})  # it refuses everything
        desktop.until(lambda: desktop.found(Clipboard)[-1].selection == "PRIMARY")
        assert desktop.found(Clipboard)[-1].formats is None


def test_a_selection_that_changes_all_the_time_has_an_entry_a_second(desktop: Desktop) -> None:
    desktop.record(clipboard="use")
    with client(desktop.display) as program:
        window, start, number = program.window(), time.monotonic(), 0
        while time.monotonic() < start + 2.5:
            program.own("PRIMARY", window)
            number += 1
        desktop.until(lambda: sum(one.changes for one in desktop.found(Clipboard)) >= number)
        assert len(desktop.found(Clipboard)) <= 5
        assert number > 100
