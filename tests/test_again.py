"""What failed is run again, and only what passes then is let through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.again import MOST

ONCE = """\
from pathlib import Path
import pytest

def test_good():
    pass

def test_fails_once():
    seen = Path("seen")
    first, _ = not seen.exists(), seen.touch()
    assert not first

@pytest.mark.parametrize("n", range({always}))
def test_fails_always(n):
    assert False
"""


def run(folder: Path, module: str) -> subprocess.CompletedProcess[str]:
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = str(Path(__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", module, "-p", "no:xdist"],
        cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("always", "status", "told"),
    [
        (0, 0, "passed alone; each is a test to mend:\n  test_some.py::test_fails_once"),
        (1, 1, "1 failed, 1 passed"),
        (MOST, 1, f"{MOST + 1} tests failed; up to {MOST} would be run again"),
    ],
)
def test_what_fails_again_has_failed(tmp_path: Path, always: int, status: int, told: str) -> None:
    (tmp_path / "test_some.py").write_text(ONCE.format(always=always))
    assert run(tmp_path, "pytest").returncode == 1
    again = run(tmp_path, "tests.again")
    assert again.returncode == status, again.stdout
    assert told in again.stdout
    assert "test_good" not in again.stdout


def test_without_a_run_before_nothing_is_let_through(tmp_path: Path) -> None:
    again = run(tmp_path, "tests.again")
    assert (again.returncode, again.stdout) == (
        1, "Nothing is known of the tests that failed; none is run again.\n",
    )  # fmt: skip
