"""Debian packages taken apart: files of an allow-list, without dpkg and without its scripts.

packages = fetch(names, folder)              apt-get download, on the machine's own sources
unpack(packages, root)                       files, and what a scanner reads: status.d
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from containers.errors import BuildProblem, run

EPOCH = 1735689600
"""SOURCE_DATE_EPOCH of all images, seconds: 2025-01-01."""
_USELESS = (
    "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
    "usr/share/pixmaps", "usr/share/applications", "usr/share/binfmts",
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    """One downloaded package."""

    name: str
    version: str
    architecture: str
    sha256: str
    path: Path


def fetch(names: Sequence[str], folder: Path) -> list[Package]:
    """Download packages into `folder`; raises BuildProblem."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("apt-get") is None:
        raise BuildProblem(
            "the local base is made of Debian packages, and there is no apt-get here",
            hint="Build on Debian 12, or give --base with an image that can be pulled",
        )
    download = ["apt-get", "download", "-q", *names]
    try:
        run(download, cwd=folder, what="apt-get download")
    except BuildProblem:
        # A fresh machine has no lists of packages, an old one those of packages that are gone.
        run(["apt-get", "update", "-q"], what="apt-get update")
        run(download, cwd=folder, what="apt-get download")
    return sorted((_read(path) for path in folder.glob("*.deb")), key=lambda one: one.name)


def _read(path: Path) -> Package:
    fields = ["Package", "Version", "Architecture"]
    text = run(["dpkg-deb", "-f", str(path), *fields], what=f"reading {path.name}")
    found = dict(line.split(": ", 1) for line in text.splitlines())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package(found["Package"], found["Version"], found["Architecture"], digest, path)


def unpack(packages: Sequence[Package], root: Path, *, status: bool = True) -> None:
    """Put the packages' files under `root`, without documents, and note them."""
    root.mkdir(parents=True, exist_ok=True)
    for package in packages:
        run(["dpkg-deb", "-x", str(package.path), str(root)], what=f"unpacking {package.name}")
        if status:
            notes = root / "var/lib/dpkg/status.d"
            notes.mkdir(parents=True, exist_ok=True)
            text = run(["dpkg-deb", "-f", str(package.path)], what=f"reading {package.name}")
            (notes / package.name).write_text(text)
    for name in _USELESS:
        shutil.rmtree(root / name, ignore_errors=True)
    for folder, _, files in os.walk(root / "usr/share/doc"):
        for name in files:
            if name != "copyright":
                Path(folder, name).unlink()


def settle(root: Path) -> None:
    """Give every file below `root` the same time, so that the same input has the same bytes."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            os.utime(Path(folder, name), (EPOCH, EPOCH), follow_symlinks=False)
    os.utime(root, (EPOCH, EPOCH))


def tar(root: Path, out: Path) -> str:
    """Write an archive of `root` in which only its content counts; returns its sha256."""
    command = [
        "tar", "-C", str(root), "--sort=name", f"--mtime=@{EPOCH}", "--numeric-owner",
        "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "-cf", str(out),
        *sorted(path.name for path in root.iterdir()),
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C"})
    return hashlib.sha256(out.read_bytes()).hexdigest()
