"""The wheelhouse: every distribution of requirements.lock as a wheel, made once for a lock."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from agents.platform.stack.cache import cache_folder, cached
from containers.debian import EPOCH
from containers.errors import run
from containers.needs import normal


def wheelhouse(lock: Path, tools: Path) -> Path:
    """A folder of wheels, pip's included; downloads are checked by the hashes of the locks."""
    text = lock.read_bytes()
    entry = f"wheels-{hashlib.sha256(text).hexdigest()[:16]}-cp311"

    def build(folder: Path) -> None:
        _pip("wheel", folder, "-r", str(lock), "--require-hashes")
        own = folder / ".pip.lock"
        own.write_text(_entry(tools.read_text(), "pip"))
        _pip("wheel", folder, "-r", str(own), "--require-hashes")
        (folder / ".complete").touch()

    return cached(
        cache_folder(None), entry, build=build,
        complete=lambda folder: (folder / ".complete").exists(), progress=print,
    )  # fmt: skip


def _pip(command: str, folder: Path, *arguments: str) -> None:
    run(
        [sys.executable, "-m", "pip", command, "-q", "--no-deps", "--disable-pip-version-check",
         "-w", str(folder), *arguments],
        what=f"pip {command}", env={"SOURCE_DATE_EPOCH": str(EPOCH)},
    )  # fmt: skip


def _entry(lock: str, name: str) -> str:
    """The lines of one distribution in a lock file."""
    start = lock.index(f"\n{name}==") + 1
    lines = lock[start:].splitlines()
    end = next(i for i, line in enumerate(lines) if i and not line.startswith("    --hash"))
    return "\n".join(lines[:end]).rstrip(" \\") + "\n"


def by_distribution(folder: Path) -> dict[str, Path]:
    """The wheel of each distribution."""
    return {normal(path.name.split("-")[0]): path for path in folder.glob("*.whl")}


def lock_of(wheels: list[Path]) -> str:
    """A requirements file that names exactly these wheels, by hash."""
    lines = []
    for path in sorted(wheels):
        name, version = path.name.split("-")[:2]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
    return "".join(lines)
