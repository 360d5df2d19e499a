"""Run once more, alone, what failed beside other tests: python -m tests.again

Two files run at a time on two cores, most of their time waiting for servers. A test that fails
beside others and passes alone has a deadline or a wait of its own that is wrong; it is named,
so that it is mended, and does not hold up everybody else. More than MOST failures are no chance.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 5
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main(arguments: list[str]) -> int:
    """The status of the second run; 1 without one when too many failed, or nothing is known."""
    try:
        failed = list(json.loads(LAST_FAILED.read_text()))
    except (OSError, ValueError):
        print("Nothing is known of the tests that failed; none is run again.")
        return 1
    if not 0 < len(failed) <= MOST:
        print(f"{len(failed)} tests failed; up to {MOST} would be run again.")
        return 1
    print(f"Run again, alone: {len(failed)} that failed", flush=True)
    command = [sys.executable, "-m", "pytest", "--last-failed", "--last-failed-no-failures", "none"]
    status = subprocess.run([*command, "-v", *arguments], check=False).returncode
    if status == 0:
        print("Failed beside others and passed alone; each is a test to mend:")
        print(*(f"  {one}" for one in failed), sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
