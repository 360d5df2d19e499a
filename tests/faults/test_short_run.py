"""One short run by a seed, with servers of its own: cut, stopped, killed, filled, compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SEED, MINUTES, PAUSE = 7445, 0.33, 2  # one fault of almost every kind


def test_a_short_run_loses_nothing(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LUCID_TEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--seed", str(SEED), "--minutes", str(MINUTES),
         "--pause", str(PAUSE), "--recorders", "3", "--out", str(tmp_path)],
        capture_output=True, text=True, env=env, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / f"seed-{SEED}.json").read_text())
    verdict = found["verdict"]
    assert (verdict["lost"], verdict["different"], verdict["problems"]) == ([], [], [])
    assert verdict["completed"] == verdict["sessions"] >= 2
    assert verdict["bytes"] > 100_000
    assert sum(found["kills"].values()) >= 2
    struck = {name for name, times in found["faults"].items() if times}
    wanted = {"broker-kill", "catalog-kill", "recorder-kill", "kill", "point", "cut", "disk"}
    assert wanted <= struck
    assert found["kills"]["recorder"] >= 1
