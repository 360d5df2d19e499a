"""What a report says first, and that it can be drawn."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from agents.load import plots
from agents.load.counting import Span, Verdict
from agents.load.latency import Latencies, NoHistograms, Summary
from agents.load.report import Counts, Outcome, Report, counted, shortcomings, show, slopes
from agents.load.watching import Sample

SUMMARY = Summary(10, 0.1, 0.2, 0.3, 0.4, 0.5)


def _samples(count: int = 8) -> list[Sample]:
    return [
        Sample(float(n), 2, 1e6, 9e5, 8e5, 3, SUMMARY, SUMMARY if n % 2 else None,
               {"processor": n, "storage": None}, {"load": 0.5}, {"load": 10_000_000 + n * 1000})
        for n in range(count)
    ]  # fmt: skip


def _report(outcome: Outcome, problems: list[str], counts: Counts) -> Report:
    return Report("run", outcome, problems, counts, {"content": "office"}, 8.0, 1e6, 0.1,
                  SUMMARY, None, SUMMARY, {}, [], _samples())  # fmt: skip


def test_losses_come_before_every_figure(tmp_path: Path) -> None:
    bad = Verdict("s", 10, 4, 2, 1, False, 1, (Span(3, 7),))
    counts = counted([bad], sent=10, confirmed=8, refused=1)
    assert (counts.lost, counts.stored, counts.unconfirmed, counts.duplicated) == (4, 6, 1, 2)
    problems = shortcomings(counts)
    assert len(problems) == 7
    report = _report(Outcome.LOST, problems, counts)
    text = json.dumps(report.as_dict())
    assert list(report.as_dict())[:3] == ["outcome", "problems", "counts"]
    assert text.index("not stored") < text.index("seconds_to")
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    assert out.getvalue().startswith("RECORDS LOST: 4 of 10 records sent are not stored")
    paths = plots.write_report(report, tmp_path / "there")
    assert [path.name for path in paths] == ["report.json", "report.png", "report.html"]
    page = paths[2].read_text()
    assert page.index("RECORDS LOST") < page.index("<svg") < page.index("seconds_to_confirmed")
    assert "http://" not in page.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    with Image.open(paths[1]) as picture:
        assert picture.size[0] > 500
        colours = picture.convert("RGB").getcolors(2**24) or []
    assert any(colour == (0xB0, 0, 0x20) for _, colour in colours)


def test_a_good_one_says_so_and_one_that_never_began_has_no_figures() -> None:
    out = io.StringIO()
    show(_report(Outcome.GOOD, [], Counts(sessions=2, sent=5)), Console(file=out, width=200))
    assert out.getvalue().startswith("2 sessions, nothing lost")
    assert "of a chunk, to stored" in out.getvalue()
    out = io.StringIO()
    refused = Report("run", Outcome.REFUSED, ["the broker differs"], Counts(), {})
    show(refused, Console(file=out, width=200))
    assert out.getvalue() == "NOT BEGUN: the broker differs\n"


def test_the_slope_is_bytes_a_minute_of_the_later_half() -> None:
    assert slopes(_samples()) == {"load": pytest.approx(60_000)}
    assert slopes(_samples(2)) == {}


def test_without_matplotlib_it_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(plots.NoPlots, match="matplotlib is not installed"):
        plots.require_plots()


def test_without_hdrhistogram_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(NoHistograms, match="hdrhistogram is not installed"):
        Latencies()
