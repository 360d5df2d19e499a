"""The Docker engine, by its command line: is it there, building, what images are made of."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from containers.errors import BuildProblem, run

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """This machine, as images name it."""
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


@cache
def builder() -> str:
    """A docker command that has BuildKit: with its plugin, or an older one with it built in."""
    for name in (shutil.which("docker"), "/usr/bin/docker"):
        if name and _has_buildkit(name):
            return name
    raise BuildProblem(
        "no docker command here can build with BuildKit",
        hint="Install docker.io or docker-buildx: `make container-packages`",
    )


def _has_buildkit(name: str) -> bool:
    plugin = subprocess.run([name, "buildx", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return True
    shown = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
    major = shown.stdout.removeprefix("Docker version ").split(".")[0]
    return major.isdigit() and int(major) < 23


def has_image(tag: str) -> bool:
    done = subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False)
    return done.returncode == 0


def inspect(tag: str) -> dict[str, Any]:
    """What the engine says of an image; raises BuildProblem."""
    found: dict[str, Any] = json.loads(run(["docker", "image", "inspect", tag], what=tag))[0]
    return found


def build(
    context: Path, tag: str, arguments: Mapping[str, str], *, dockerfile: str = "Dockerfile",
    no_cache: bool = False,
) -> None:  # fmt: skip
    """Build one image without a network; raises BuildProblem."""
    command = [builder(), "build", "-q", "--network", "none", "-t", tag, "-f",
               str(context / dockerfile)]  # fmt: skip
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    if no_cache:
        command.append("--no-cache")
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    run([*command, str(context)], what=f"building {tag}", env=environment)
