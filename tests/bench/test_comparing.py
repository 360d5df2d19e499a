"""A change is told from noise by what repeated measurements and earlier runs differ by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as command
from bench.comparing import Verdict, compare, spread
from bench.history import HistoryError, Measured, Run, write

MACHINE = {"cpu": "a", "cores": 2, "libraries": {"zstandard": "0.25.0"}}


def a_run(day: int, figures: dict[str, list[float]], part: str = "sealing", **facts: object) -> Run:
    return Run(f"2026-11-{day:02}T00:00:00+00:00", f"{day:08}", False, {**MACHINE, **facts},
               [0.1, 0.2], {part: Measured(1.0, figures)})  # fmt: skip


def verdict_of(before: list[float], after: list[float], history: list[list[float]]) -> Verdict:
    runs = [a_run(n + 1, {"screen_ratio": values}) for n, values in enumerate(history)]
    (one,) = compare(
        a_run(20, {"screen_ratio": before}), a_run(21, {"screen_ratio": after}), runs
    ).changes
    return one.verdict


def test_spread_is_most_less_least_to_the_median() -> None:
    assert spread([9.0, 10.0, 11.0]) == pytest.approx(0.2)
    assert spread([-9.0, -10.0, -11.0]) == pytest.approx(0.2)
    assert spread([5.0]) == 0.0
    assert spread([0.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("before", "after", "history", "verdict"),
    [
        ([1.0], [1.2], [], Verdict.UNKNOWN),
        ([1.0], [1.0], [], Verdict.NOISE),
        ([0.9, 1.0, 1.1], [1.15], [], Verdict.NOISE),  # spread within the first
        ([1.0], [1.05, 1.15, 1.25], [], Verdict.NOISE),  # within the second
        ([0.99, 1.0, 1.01], [1.15], [], Verdict.BETTER),
        ([0.99, 1.0, 1.01], [0.85], [], Verdict.WORSE),
        ([1.0], [1.15], [[1.0], [1.2], [1.0]], Verdict.NOISE),  # from run to run
        ([1.0], [1.15], [[1.0], [1.02], [1.0]], Verdict.BETTER),
        ([2.0], [2.4], [[1.0], [1.01], [2.0], [2.02]], Verdict.BETTER),  # one real step before
        ([1.0], [1.2], [[1.0]], Verdict.UNKNOWN),  # one run says nothing of noise
    ],
)
def test_a_verdict_is_by_the_largest_noise_that_is_known(
    before: list[float], after: list[float], history: list[list[float]], verdict: Verdict
) -> None:
    assert verdict_of(before, after, history) is verdict


def test_only_runs_of_the_same_kind_before_the_later_one_tell_of_noise() -> None:
    swinging = [a_run(n, {"screen_ratio": [1.0 + n % 2]}, cpu="other") for n in range(1, 6)]
    later = [a_run(n, {"screen_ratio": [1.0 + n % 2]}) for n in range(22, 26)]
    before, after = a_run(20, {"screen_ratio": [1.0]}), a_run(21, {"screen_ratio": [1.2]})
    (one,) = compare(before, after, swinging + later).changes
    assert (one.verdict, one.noise) == (Verdict.UNKNOWN, None)
    (one,) = compare(before, after, [a_run(18, {"other": [1.0]}), *swinging]).changes
    assert one.noise is None


def test_a_lower_figure_is_better_where_the_goal_is_a_most() -> None:
    before = a_run(1, {"sessions_ratio": [1.4, 1.41], "frame_us": [90.0, 91.0]}, "growth")
    after = a_run(2, {"sessions_ratio": [1.2, 1.21], "frame_us": [50.0, 51.0]}, "growth")
    ratio, cost = compare(before, after).changes
    assert (ratio.verdict, ratio.goal) == (Verdict.BETTER, "at most 1.3, kept")
    assert (cost.verdict, cost.goal) == (Verdict.CHANGED, "")
    assert cost.change == pytest.approx(50.5 / 90.5 - 1)
    back = compare(after, before).changes[0]
    assert (back.verdict, back.goal) == (Verdict.WORSE, "at most 1.3, missed")


def test_what_was_nothing_has_no_share() -> None:
    nothing, some = a_run(1, {"lost": [0.0]}), a_run(2, {"lost": [3.0]})
    (one,) = compare(nothing, some).changes
    assert (one.change, one.verdict) == (None, Verdict.CHANGED)
    assert compare(nothing, nothing).changes[0].verdict is Verdict.NOISE


def test_what_makes_runs_incomparable_is_said() -> None:
    before = a_run(1, {"a": [1.0]}, cores=4, libraries={"zstandard": "0.24.0", "numpy": "2"})
    after = Run("2026-11-02T00:00:00+00:00", "b", True, MACHINE, [0.1, 9.0],
                {"rdp": Measured(1.0, error="no xrdp")})  # fmt: skip
    said = "\n".join(compare(before, after).warnings)
    assert "one of them is the short version" in said
    assert "cores differs: 4, 2" in said
    assert "'zstandard': '0.24.0'" in said
    assert "is on a busy" not in said
    assert "20261102T000000Z-b-quick was on a busy machine: load 9.0" in said
    assert "20261102T000000Z-b-quick: rdp failed" in said
    assert "only one of them has rdp" in said
    assert "only one of them has sealing" in said
    assert compare(before, before).warnings == ()


# -- the command -----------------------------------------------------------------------------------


def test_the_command_compares_the_last_two_of_a_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "console", Console(highlight=False, width=200))
    with pytest.raises(HistoryError, match="has no run"):
        command.compare_runs(history=tmp_path)
    write(a_run(1, {"screen_ratio": [0.9, 0.91], "x": [1.0, 1.1]}), tmp_path)
    with pytest.raises(HistoryError, match="no run before 20261101"):
        command.compare_runs(history=tmp_path)
    write(a_run(2, {"screen_ratio": [0.99], "x": [1.0]}), tmp_path)
    command.compare_runs(history=tmp_path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [one["verdict"] for one in found["changes"]] == ["better", "within noise"]
    assert found["changes"][0]["change"] == pytest.approx(0.99 / 0.905 - 1, rel=1e-4)
    write(a_run(3, {"screen_ratio": [5.0]}, cpu="other"), tmp_path)
    command.compare_runs("20261101", "00000002", history=tmp_path)
    shown = capsys.readouterr().out
    assert "+9.4%" in shown
    assert "1 figures are within noise" in shown
    assert " x " not in shown
    command.compare_runs("20261101", "00000002", history=tmp_path, everything=True)
    assert " x " in capsys.readouterr().out


def test_what_is_not_in_the_history_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "compare", "--history", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (66, 1)
