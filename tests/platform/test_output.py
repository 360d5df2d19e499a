"""How commands write times."""

from __future__ import annotations

import pytest
from rich.console import Console

from agents.platform.output import Rows, clock, clock_utc, mark, plain, print_wide, say, shown

NOON = 1_767_268_799_999_600  # 2026-01-01 11:59:59.9996


@pytest.mark.parametrize(
    ("time", "parts", "text"),
    [
        (NOON, "minutes", "2026-01-01 11:59"),
        (NOON, "seconds", "2026-01-01 11:59:59"),
        (NOON, "milliseconds", "2026-01-01 11:59:59.999"),
        (1_767_268_800_000_000, "milliseconds", "2026-01-01 12:00:00.000"),
        (None, "seconds", ""),
        (0, "seconds", ""),
    ],
)
def test_a_time_is_written_in_utc_and_cut(time: int | None, parts: str, text: str) -> None:
    assert clock(time, parts) == text


def test_a_time_that_stands_alone_says_that_it_is_utc() -> None:
    assert clock_utc(NOON) == "2026-01-01 11:59:59 UTC"


ESCAPES = "\x1b[31mred\x07 \u202egnp \udcff"


def test_what_would_steer_a_terminal_is_escaped() -> None:
    assert shown(ESCAPES) == r"\x1b[31mred\x07 \x202egnp \udcff"
    assert shown("Müller, 山田\n\tsecond") == "Müller, 山田\n\tsecond"


def test_markup_of_others_stands_in_a_table_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Rows()
    table.add_column("owner")
    table.add_column("result")
    table.add_row("[red]x[/] " + ESCAPES, mark("[green]ok[/]"))
    table.add_row("[/]", None)
    print_wide(table, 80)
    out = capsys.readouterr().out
    assert r"[red]x[/] \x1b[31mred\x07" in out
    assert "[/] " in out.splitlines()[2]
    assert "ok" in out
    assert "[green]" not in out
    assert "\x1b" not in out


def test_markup_of_others_inside_of_a_text_is_escaped() -> None:
    console = Console(width=80)
    with console.capture() as got:
        console.print(f"[red]altered[/] {plain('[/] of [bold]x' + ESCAPES)}", soft_wrap=True)
    assert got.get() == r"altered [/] of [bold]x\x1b[31mred\x07 \x202egnp \udcff" + "\n"


def test_a_line_for_people_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say("file [red] \x1b]0;title\x07")
    assert capsys.readouterr().err == "file [red] \\x1b]0;title\\x07\n"
