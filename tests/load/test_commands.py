"""What `lucid load` takes and shows, without any server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console

from agents.load import commands
from agents.load.limit import Search
from agents.load.plots import NoFolder, require_folder
from agents.load.report import Counts, Outcome, Report
from agents.load.running import LoadOrder, _missed, run_load
from agents.load.schedule import Plan
from agents.platform.settings import Settings
from tests.load.test_report import _samples


def test_sizes_are_read_as_people_write_them() -> None:
    assert [commands._bytes(one) for one in ("50kB", "64KiB", "7")] == [50_000, 65_536, 7]
    with pytest.raises(typer.BadParameter, match="is no size"):
        commands._bytes("many")


def test_the_live_table_shows_trouble() -> None:
    driver: Any = SimpleNamespace(
        plan=Plan(3, 1.0, 10.0), running=3, sent=70, outstanding=4, failed=2, stored_chunks=5,
        problems=["records were not taken: it is full"],
    )  # fmt: skip
    console = Console(width=200)
    with console.capture() as got:
        console.print(commands._table(driver, SimpleNamespace(samples=_samples())))  # type: ignore[arg-type]
        console.print(commands._table(driver, SimpleNamespace(samples=[])))  # type: ignore[arg-type]
    for text in ("7 of 10 s", "3 sessions", "2 refused", "processor lag 7", "storage lag -",
                 "it is full", "5 chunks stored"):  # fmt: skip
        assert text in got.get()


async def test_a_search_that_breaks_off_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = iter([Outcome.GOOD, Outcome.BROKEN])

    async def one(*_: Any, **__: Any) -> Report:
        return Report("run", next(outcomes), ["it is silent"], Counts(sessions=1), {})

    monkeypatch.setattr(commands, "_one", one)
    order = LoadOrder(Plan(5, 50_000.0, 1.0), objective=2.0)
    await commands._limit(Settings.load(), order, 100, None, False)
    told = capsys.readouterr()
    assert told.out.startswith("5 sessions of 50 kB/s keep p99 to stored under 2 s; 10 did not")
    assert "BROKEN OFF: it is silent" in told.err
    outcomes = iter([Outcome.REFUSED])
    with pytest.raises(commands.LoadFailed, match="no load kept the objective: it is silent"):
        await commands._limit(Settings.load(), order, 100, None, True)


def test_the_search_says_when_nothing_broke(capsys: pytest.CaptureFixture[str]) -> None:
    order = LoadOrder(Plan(5, 50_000.0, 1.0), objective=2.0)
    commands._tell_limit(Search(5, 5, passed=5), [], order, False)
    assert "none of more was tried" in capsys.readouterr().out


async def test_no_broker_is_a_report_without_figures() -> None:
    order = LoadOrder(Plan(1, 1000.0, 1.0))
    content = order.prepared()
    report = await run_load(Settings.load(kafka="127.0.0.1:1"), order, content)
    assert (report.outcome, report.counts, report.confirmed) == (Outcome.REFUSED, Counts(), None)
    assert "no Kafka broker answers at 127.0.0.1:1" in report.problems[0]


def test_an_objective_is_missed_by_more_or_by_nothing() -> None:
    assert _missed(None, None) == _missed(2.0, 1.9) == ""
    assert "no chunk was seen" in _missed(2.0, None)
    assert _missed(2.0, 2.5) == "a chunk was stored after 2.50 s (p99), the objective is 2 s"


def test_a_folder_that_takes_no_report_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoFolder, match="cannot write to the folder"):
        require_folder(tmp_path / "file")
    require_folder(tmp_path / "new" / "one")
    assert list((tmp_path / "new" / "one").iterdir()) == []
