"""A run's file keeps what was measured, on which machine, and is found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.history import HistoryError, Measured, Run, all_runs, find, new_run, read, write

PARTS = {
    "sealing": Measured(1.5, {"ratio": [0.9, 0.912345678, 0.95]}),
    "rdp": Measured(2.0, error="no xrdp"),
}


def a_run(date: str, commit: str = "dce71e76", *, quick: bool = False) -> Run:
    return Run(date, commit, quick, {"cpu": "a", "cores": 2}, [0.5, 1.5], PARTS)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = a_run("2026-11-26T03:15:00+00:00")
    path = write(run, tmp_path / "history")
    assert path.name == "20261126T031500Z-dce71e76.json"
    again = read(path)
    assert again.parts["sealing"].figures == {"ratio": [0.9, 0.91235, 0.95]}
    assert again.parts["sealing"].value("ratio") == 0.91235
    assert again.parts["rdp"] == PARTS["rdp"]
    assert (again.machine, again.load, again.kind) == (run.machine, [0.5, 1.5], (False, "a", 2))


def test_a_new_run_has_the_facts_of_its_machine() -> None:
    run = new_run(PARTS, quick=True, load_before=0.25)
    assert run.name.endswith("-quick")
    assert run.load[0] == 0.25
    assert run.load[1] >= 0
    for fact in ("cpu", "kernel", "python"):
        assert run.machine[fact]
    assert run.machine["cores"] >= 1
    assert run.machine["memory"] > 2**20
    assert run.machine["libraries"]["zstandard"].startswith("0.25")


def test_the_commit_says_when_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import history

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert history.commit() == "none"
    said = {"rev-parse": "0123abcd", "status": " M a\n"}
    monkeypatch.setattr(history, "_git", lambda *words: said[words[0]].strip())
    assert history.commit() == "0123abcd+"
    said["status"] = ""
    assert history.commit() == "0123abcd"


def test_runs_come_by_date_and_are_found_by_name_commit_or_file(tmp_path: Path) -> None:
    late = a_run("2026-11-27T00:00:00+00:00", "bbbbbbbb+")
    early = a_run("2026-11-26T00:00:00+00:00", "aaaaaaaa", quick=True)
    path = write(late, tmp_path)
    write(early, tmp_path)
    runs = all_runs(tmp_path)
    assert [run.commit for run in runs] == ["aaaaaaaa", "bbbbbbbb+"]
    for name in ("20261127", "bbbbbbbb", str(path)):
        assert find(runs, tmp_path, name).date == late.date
    with pytest.raises(HistoryError, match=r"no run ccc.*20261126T000000Z-aaaaaaaa-quick"):
        find(runs, tmp_path, "ccc")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"date": 1, "parts": {}}', '{"parts": {"a": {"unknown": 1}}}',
     json.dumps({"date": "soon", "commit": "a", "quick": False, "machine": {}, "load": [],
                 "parts": {}}),
     json.dumps({"date": "2026-11-27T00:00:00+00:00", "commit": "a", "quick": False, "machine": {},
                 "load": [], "parts": {"a": {"seconds": 1, "figures": [1]}}})],
)  # fmt: skip
def test_what_is_no_run_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(HistoryError, match=r"x\.json is no run of the bench.*make bench"):
        read(path)
    with pytest.raises(HistoryError):
        read(tmp_path / "none.json")
