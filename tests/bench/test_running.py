"""Parts are run as processes of their own, and one that fails takes none of the others along."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench import __main__ as command
from bench.history import all_runs
from bench.part import measured
from bench.parts import PARTS, Goal, Part
from bench.running import run_part

MODULE = """
import subprocess, sys, time
ROUNDS = 5
def run():
    print("said", ROUNDS)
    {body}
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for modules of parts, in which the checkout's `bench` is found, too."""
    folder = tmp_path / "bench"
    folder.mkdir()
    for path in Path("bench").glob("*.py"):
        (folder / path.name).symlink_to(path.resolve())
    (folder / "parts.py").unlink()
    (folder / "parts.py").write_text(
        Path("bench/parts.py").read_text() + "\nfor _name in ('good', 'bad', 'slow'):\n"
        "    BY_NAME[_name] = Part(_name, _name, quick={'ROUNDS': 2})\n"
        "BY_NAME['wrong'] = Part('wrong', 'wrong', quick={'TURNS': 2})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.chdir(tmp_path)
    for name, body in {
        "good": "return {'rounds': ROUNDS, 'many': [1, 2.5]}",
        "bad": "raise RuntimeError('the broker is gone')",
        "slow": "subprocess.run(['sh', '-c', 'setsid sleep 307 &']); time.sleep(300)",
        "wrong": "return {}",
    }.items():
        (folder / f"{name}.py").write_text(MODULE.replace("{body}", body))
    return tmp_path


def test_figures_come_back_as_lists_and_quick_sets_constants(parts: Path) -> None:
    part = Part("good", "good", quick={"ROUNDS": 2})
    seen: list[float] = []
    found = run_part(part, parts / "out", quick=True, look=seen.append)
    assert found.error == ""
    assert found.figures == {"rounds": [2.0], "many": [1.0, 2.5]}
    assert seen
    assert run_part(part, parts / "out", quick=False).figures["rounds"] == [5.0]
    assert measured({"a": 1, "b": [1, 2]}) == {"a": [1.0], "b": [1.0, 2.0]}


def test_a_part_that_fails_says_why(parts: Path) -> None:
    found = run_part(Part("bad", "bad"), parts / "out", quick=False)
    assert found.figures == {}
    assert "the broker is gone" in found.error
    found = run_part(Part("wrong", "wrong", quick={}), parts / "out", quick=True)
    assert "bench.wrong has no TURNS" in found.error


def test_a_part_that_hangs_is_given_up_with_what_it_started(parts: Path) -> None:
    part = Part("slow", "slow", limit=3.0)
    found = run_part(part, parts / "out", quick=False)
    assert found.error.startswith("not done within 3 s; ")
    left = [one.info["pid"] for one in psutil.process_iter(["pid", "cmdline"])
            if one.info["cmdline"] == ["sleep", "307"]]  # fmt: skip
    assert left == []


def test_the_others_go_on_and_the_status_is_1(
    parts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Part("good", "good", quick={"ROUNDS": 2}, goals=(Goal("rounds", least=3),))
    made = (Part("bad", "bad", quick={}), Part("slow", "never"), good)
    monkeypatch.setattr(command, "PARTS", made)
    with pytest.raises(command.typer.Exit) as ended:
        command.measure(None, quick=True, history=parts / "history")
    assert ended.value.exit_code == 1
    (run,) = all_runs(parts / "history")
    assert list(run.parts) == ["bad", "good"]
    assert run.parts["good"].figures["rounds"] == [2.0]
    assert "the broker is gone" in run.parts["bad"].error
    shown = capsys.readouterr().out
    assert "at least 3: missed" in shown
    assert "Failed: bad" in shown


def test_an_unknown_part_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "sealin"], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no part sealin" in done.stderr


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_each_part_has_a_module_with_the_constants_that_are_set(part: Part) -> None:
    module = importlib.import_module(f"bench.{part.name}")
    assert callable(module.run)
    for quick in (False, True):
        for constant in part.constants(quick=quick):
            assert hasattr(module, constant), constant


def test_goals() -> None:
    assert Goal("a", least=0.8).kept(0.8)
    assert not Goal("a", least=0.8).kept(0.79)
    assert Goal("a", most=1.3).kept(1.3)
    assert not Goal("a", most=1.3).kept(1.31)
    assert (Goal("a", least=0.8).text, Goal("a", most=1.3).text) == ("at least 0.8", "at most 1.3")
