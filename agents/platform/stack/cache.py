"""Downloads and builds, kept by name and version outside of the checkout.

An entry is a folder that appears under its name by one rename, when it is whole. Two first
runs at once build it once: the second waits for the first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from agents.platform.stack.errors import BuildFailed
from agents.platform.stack.locks import file_lock

Progress = Callable[[str], None]
RECIPES = Path(__file__).parent / "recipes"
_BUILD_SECONDS = 1200.0
_SHOWN_LINES = 12


def cache_folder(configured: Path | None) -> Path:
    """The folder of the setting LUCID_CACHE, else `lucid` in the user's cache folder."""
    if configured is not None:
        return configured.expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "lucid"


def cached(
    cache: Path,
    entry: str,
    *,
    build: Callable[[Path], None],
    complete: Callable[[Path], bool],
    progress: Progress,
) -> Path:
    """The folder of `entry` in `cache`; `build` fills it if it is missing or incomplete.

    `build` is given an empty temporary folder. Raises BuildFailed.
    """
    folder = cache / entry
    if complete(folder):
        return folder
    lock = cache / f".{entry}.lock"

    def waiting() -> None:
        progress("another process is building it, waiting")

    with file_lock(lock, wait_seconds=_BUILD_SECONDS, waiting=waiting):
        if complete(folder):
            return folder
        fresh = Path(tempfile.mkdtemp(prefix=f".{entry}.", dir=cache))
        try:
            build(fresh)
            if not complete(fresh):
                raise BuildFailed(
                    f"the build of {entry} ended without an error and is not complete",
                    hint="Run it again; report it if that does not help",
                )
            shutil.rmtree(folder, ignore_errors=True)
            fresh.chmod(0o755)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def run_build(
    what: str, command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None
) -> str:
    """Run one step of a build and return its standard output.

    Raises BuildFailed with the last lines of what it printed.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(
            f"{what} did not finish in {_BUILD_SECONDS:.0f} s", hint="Check the network"
        ) from error
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        shown = "\n  ".join(lines[-_SHOWN_LINES:])
        raise BuildFailed(
            f"{what} failed with exit status {done.returncode}:\n  {shown}\n",
            hint="Check the network and the settings of the tool, then run it again",
        )
    return done.stdout
