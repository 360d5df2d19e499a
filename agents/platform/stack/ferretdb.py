"""FerretDB on SQLite, built with Go: the MongoDB-compatible catalog on one machine.

recipes/ferretdb/catalog.patch changes three things of 1.24.2, which docs/decisions.md explains:
finds by `_id` and by other fields that equal a string use SQLite's indexes, and an update is one
step from its read to its write.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from pathlib import Path
from typing import ClassVar

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from agents.platform.stack.cache import RECIPES, Progress, cached, run_build
from agents.platform.stack.server import Command, NotReady, Server
from agents.platform.tools import require_tool

VERSION = "1.24.2"
_RECIPE = RECIPES / "ferretdb"
_PATCH = _RECIPE / "catalog.patch"
_PACKAGE = "github.com/FerretDB/FerretDB/cmd/ferretdb"
_VENDORED = Path("vendor/github.com/FerretDB/FerretDB")
_VERSION_FILE = _VENDORED / "build/version/version.txt"
# What recipes/ferretdb/go.mod asks for. Debian 12 has Go 1.19.
_GO = "1.24.4"
_GO_NEEDED = (1, 24)
_GO_FETCHES_ITSELF = (1, 21)


class FerretDB(Server):
    name: ClassVar = "mongo"
    title: ClassVar = "FerretDB"
    data: ClassVar = "ferretdb"
    start_seconds: ClassVar = 30.0

    def install(self, cache: Path, progress: Progress) -> Path:
        patch = hashlib.sha256(_PATCH.read_bytes()).hexdigest()[:8]
        system = f"{platform.system().lower()}-{platform.machine()}"
        entry = f"ferretdb-{VERSION}-{patch}-{system}"
        return cached(
            cache,
            entry,
            build=lambda folder: _build(folder, progress),
            complete=lambda folder: os.access(folder / "ferretdb", os.X_OK),
            progress=progress,
        )

    def version(self, program: Path) -> str:
        return VERSION

    def prepare(self, program: Path, folder: Path, ports: list[int]) -> Command:
        data, state = folder / "data", folder / "state"
        for each in (data, state):
            each.mkdir(parents=True, exist_ok=True)
        return Command(
            [
                str(program / "ferretdb"),
                "--handler=sqlite",
                f"--sqlite-url=file:{data}/",
                f"--listen-addr=127.0.0.1:{ports[0]}",
                "--debug-addr=-",
                f"--state-dir={state}",
                "--telemetry=disable",
                "--log-level=warn",
            ]
        )

    def probe(self, port: int, *, seconds: float) -> None:
        wait = int(seconds * 1000)
        client: MongoClient[dict[str, object]] = MongoClient(
            "127.0.0.1",
            port,
            directConnection=True,
            serverSelectionTimeoutMS=wait,
            connectTimeoutMS=wait,
            socketTimeoutMS=wait,
        )
        try:
            client.admin.command("hello")
        except PyMongoError as error:
            raise NotReady(f"no answer to hello: {error}") from error
        finally:
            client.close()

    def url(self, port: int) -> str:
        return f"mongodb://127.0.0.1:{port}/"


def _build(folder: Path, progress: Progress) -> None:
    source = folder / "source"
    shutil.copytree(_RECIPE, source)
    go, env = _find_go(source, progress)
    progress(f"downloading the source of version {VERSION} with Go")
    run_build("Go's download of FerretDB", [go, "mod", "vendor"], cwd=source, env=env)
    # The published module lacks this file, and FerretDB panics at its start without it.
    (source / _VERSION_FILE).write_text(f"v{VERSION}\n")
    _apply(_PATCH, source / _VENDORED)
    progress("building it with Go, which takes a minute or two, once")
    options = ["-mod=vendor", "-trimpath", "-ldflags=-s -w -buildid=", "-o", f"{folder}/ferretdb"]
    env = {**env, "CGO_ENABLED": "0"}
    run_build("Go's build of FerretDB", [go, "build", *options, _PACKAGE], cwd=source, env=env)
    shutil.rmtree(source)


def _apply(patch: Path, folder: Path) -> None:
    """Apply a patch in a folder; raises BuildFailed if a part of it does not fit."""
    git = str(require_tool("git"))
    # Inside of a repository git would take the folder's paths for that repository's, and skip all.
    env = {"GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
    run_build(f"{patch.name} to FerretDB", [git, "apply", str(patch)], cwd=folder, env=env)


def _find_go(source: Path, progress: Progress) -> tuple[str, dict[str, str]]:
    """A Go that is new enough, and the environment it needs."""
    go = str(require_tool("go"))
    printed = run_build("go version", [go, "version"], cwd=source.parent)
    version = go_version(printed)
    if version >= _GO_NEEDED:
        return go, {}
    if version >= _GO_FETCHES_ITSELF:
        return go, {} if os.environ.get("GOTOOLCHAIN") else {"GOTOOLCHAIN": "auto"}
    progress(f"downloading Go {_GO}, the installed one is older than 1.21")
    return _fetch_go(go, source.parent, printed.split()[-1].replace("/", "-"))


def go_version(printed: str) -> tuple[int, int]:
    """(1, 19) of `go version go1.19.8 linux/amd64`; (0, 0) if there is none."""
    match = re.search(r"go(\d+)\.(\d+)", printed)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def _fetch_go(go: str, folder: Path, system: str) -> tuple[str, dict[str, str]]:
    """Download a newer Go as the module it is published as, and make it runnable."""
    module = f"golang.org/toolchain@v0.0.1-go{_GO}.{system}"
    scratch = folder / "toolchain"
    scratch.mkdir()
    (scratch / "go.mod").write_text("module toolchain\n\ngo 1.19\n")
    download = [go, "mod", "download", "-json", module]
    root = Path(json.loads(run_build("Go's download of a newer Go", download, cwd=scratch))["Dir"])
    # Module files are never executable; Go 1.21 and later sets the same bits itself.
    for program in (*(root / "bin").iterdir(), *(root / "pkg" / "tool").rglob("*")):
        if program.is_file():
            program.chmod(0o755)
    shutil.rmtree(scratch)
    return str(root / "bin" / "go"), {"GOTOOLCHAIN": "local", "GOROOT": str(root)}
