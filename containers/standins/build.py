"""Builds the stand-ins from what `lucid stack` runs, and from Debian's Redis."""

from __future__ import annotations

import shutil
from pathlib import Path

from agents.platform.stack.cache import RECIPES, cache_folder, cached
from agents.platform.stack.ferretdb import FerretDB
from agents.platform.stack.kafka import Kafka
from containers import debian, docker, runtime
from containers.errors import run
from containers.images import OUT, Built, describe

HERE = Path(__file__).parent
TAGS = {name: f"lucid/{name}:local" for name in ("kafka", "mongodb", "redis")}
_MODULES = (
    "java.base,java.desktop,java.logging,java.management,java.naming,java.net.http,"
    "java.security.jgss,java.security.sasl,java.sql,java.xml,jdk.crypto.ec,"
    "jdk.management,jdk.security.auth,jdk.unsupported,jdk.zipfs"
)
_REDIS = (
    "redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1", "libsystemd0",
    "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "libzstd1",
)  # fmt: skip


def build(*, base: str = "") -> list[Built]:
    """Build all three; raises BuildProblem."""
    python_base = base or runtime.ensure()
    found = []
    for name, prepare in (("kafka", _kafka), ("mongodb", _mongodb), ("redis", _redis)):
        context = OUT / name
        shutil.rmtree(context, ignore_errors=True)
        (context / "state").mkdir(parents=True)
        dockerfile = f"Dockerfile.{name}"
        for path in (HERE / dockerfile, *HERE.glob(f"{name}*.py")):
            shutil.copy(path, context)
        prepare(context)
        debian.settle(context)
        docker.build(context, TAGS[name], {"PYTHON_BASE": python_base}, dockerfile=dockerfile)
        found.append(describe(name, TAGS[name]))
    return found


def _kafka(context: Path) -> None:
    jars = Kafka().install(cache_folder(None), print)
    shutil.copytree(jars / "libs", context / "libs")
    shutil.copy(RECIPES / "kafka" / "log4j2.properties", context)
    shutil.copytree(_java(), context / "java", symlinks=True)


def _java() -> Path:
    """A Java with the modules that Kafka uses, made once."""

    def make(folder: Path) -> None:
        run(
            ["jlink", "--add-modules", _MODULES, "--strip-debug",
             "--no-header-files", "--no-man-pages", "--compress=2", "--output",
             str(folder / "java")],
            what="jlink",
        )  # fmt: skip

    entry = f"java-kafka-{docker.architecture()}"
    return cached(
        cache_folder(None), entry, build=make, progress=print,
        complete=lambda folder: (folder / "java/bin/java").exists(),
    ) / "java"  # fmt: skip


def _mongodb(context: Path) -> None:
    shutil.copy(FerretDB().install(cache_folder(None), print) / "ferretdb", context)


def _redis(context: Path) -> None:
    packages = debian.fetch(_REDIS, context / "debs")
    root = context / "root"
    debian.unpack(packages, root)
    shutil.rmtree(context / "debs")
    for name in ("etc", "usr/sbin", "lib/systemd", "var/log", "usr/share/bash-completion"):
        shutil.rmtree(root / name, ignore_errors=True)
