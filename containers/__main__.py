"""`python -m containers build|standins|compose …`, as the Makefile calls it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from agents.deployment.compose import SERVERS
from agents.deployment.services import present
from agents.deployment.validate.validating import wait_healthy
from containers import engine, images, written
from containers.standins import build as standins
from schemas.errors import LucidError

MIB = 1024**2
WAIT_SECONDS = 240.0


def main() -> int:
    """Run one command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m containers")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the images")
    build.add_argument("names", nargs="*")
    build.add_argument("--base", default="", help="another runtime base than the local one")
    build.add_argument("--builder", default="", help="another image to install packages in")
    build.add_argument("--no-cache", action="store_true")
    build.add_argument("--json", action="store_true")
    commands.add_parser("standins", help="build Kafka, MongoDB and Redis")
    engine_parser = commands.add_parser("engine", help="start Docker's engine, or end ours")
    engine_parser.add_argument("what", choices=["start", "stop"])
    commands.add_parser("names", help="the containers that this version can run")
    commands.add_parser("wait", help="wait until all containers are healthy")
    made = commands.add_parser("compose", help="write the compose files")
    made.add_argument("--check", action="store_true", help="only say whether they are as made")
    chosen = parser.parse_args()
    try:
        return {
            "build": _build,
            "standins": _standins,
            "compose": _compose,
            "engine": _engine,
            "names": _names,
            "wait": _wait,
        }[chosen.command](chosen)
    except LucidError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def _build(chosen: argparse.Namespace) -> int:
    built = images.build(
        chosen.names, base=chosen.base, builder=chosen.builder, no_cache=chosen.no_cache,
        tell=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    if chosen.json:
        print(json.dumps([asdict(one) for one in built], indent=2))
        return 0
    _show(built)
    if missing := images.absent():
        print(f"Not built, this version has no room for them: {', '.join(missing)}")
    return 0


def _standins(_: argparse.Namespace) -> int:
    _show(standins.build())
    return 0


def _names(_: argparse.Namespace) -> int:
    print(" ".join(one.container for one in present(images.rooms())))
    return 0


def _wait(_: argparse.Namespace) -> int:
    names = [one.container for one in present(images.rooms())]
    begin = time.monotonic()
    late = wait_healthy([*SERVERS, *names], WAIT_SECONDS)
    for name, state in late.items():
        print(f"{name} is {state}: `docker logs {name}` says why", file=sys.stderr)
    if not late:
        print(f"{len(names) + len(SERVERS)} containers are healthy, "
              f"after {time.monotonic() - begin:.0f} s")  # fmt: skip
    return 1 if late else 0


def _engine(chosen: argparse.Namespace) -> int:
    if chosen.what == "stop":
        print("Docker's engine has ended" if engine.stop() else "No engine of ours runs")
        return 0
    if engine.ensure():
        print("Started Docker's engine; `make containers-stop` ends it")
    engine.compose()
    return 0


def _compose(chosen: argparse.Namespace) -> int:
    other = []
    for name, text in written.files().items():
        path = images.ROOT / name
        if not path.exists() or path.read_text() != text:
            other.append(name)
            if not chosen.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    print(f"{'Differ' if chosen.check else 'Written'}: {', '.join(other) or 'none'}")
    return 1 if chosen.check and other else 0


def _show(built: list[images.Built]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("image", "MiB", "layers", "seconds"):
        table.add_column(heading, justify="left" if heading == "image" else "right")
    for one in built:
        table.add_row(one.tag, f"{one.size / MIB:.1f}", str(len(one.layers)), f"{one.seconds}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
