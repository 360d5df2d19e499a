"""The baseline is aiokafka as it is published."""

from __future__ import annotations

import subprocess
import sys


def test_the_baseline_has_nothing_of_lucid() -> None:
    code = "import sys, bench.relay; print([m for m in sys.modules if m.startswith('agents')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
