"""The engine, asked by the docker command. Each call ends in bounded time.

LucidError
└── EngineProblem     docker is missing, does not answer, or refuses
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from schemas.errors import LucidError

SECONDS = 60.0
Json = dict[str, Any]


class EngineProblem(LucidError):
    """The docker command failed."""

    exit_status = 69


def docker(
    arguments: Sequence[str], *, feed: str = "", seconds: float = SECONDS, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run docker; raises EngineProblem, with `check` for any exit status but 0."""
    try:
        done = subprocess.run(
            ["docker", *arguments], input=feed, capture_output=True, text=True, timeout=seconds,
            check=False, errors="replace",
        )  # fmt: skip
    except FileNotFoundError as error:
        raise EngineProblem("there is no docker command here", hint="`make containers`") from error
    except subprocess.TimeoutExpired as error:
        raise EngineProblem(f"docker {arguments[0]} did not end in {seconds:.0f} s") from error
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise EngineProblem(f"docker {arguments[0]}: {said[-1] if said else done.returncode}")
    return done


def container(name: str) -> Json | None:
    """The engine's document of a container; None if there is none of that name."""
    done = docker(["container", "inspect", name], check=False)
    if done.returncode:
        docker(["version", "--format", "{{.Server.Version}}"])  # raises if no engine answers
        return None
    found: Json = json.loads(done.stdout)[0]
    return found


def labels(image: str) -> dict[str, str]:
    """The labels of an image."""
    done = docker(["image", "inspect", image, "--format", "{{json .Config.Labels}}"])
    return dict(json.loads(done.stdout) or {})


class Compose:
    """The project that a container belongs to, with the files it was started from."""

    def __init__(self, inspected: Json) -> None:
        known = inspected["Config"]["Labels"]
        prefix = "com.docker.compose.project"
        self._options: list[str] = ["--project-name", known.get(prefix, "lucid")]
        for path in known.get(f"{prefix}.config_files", "").split(","):
            self._options += ["-f", path]
        for path in known.get(f"{prefix}.environment_file", "").split(","):
            if path:
                self._options += ["--env-file", path]

    def lucid(self, *arguments: str, seconds: float = 120.0, check: bool = True) -> str:
        """What the `lucid` command prints, run beside the services."""
        command = ["compose", *self._options, "run", "--rm", "-T", "--no-deps", "lucid-cli"]
        return docker([*command, *arguments], seconds=seconds, check=check).stdout
