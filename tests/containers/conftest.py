"""A deployment of this run's own: images, secrets, and the whole stack with passwords.

Run by `make containers-test`: it needs an engine, root, and the names of the containers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.deployment.services import SERVICES, present
from agents.deployment.validate.validating import wait_healthy
from agents.run import ROOMS

ROOT = Path(__file__).parents[2]
HERE = present([str(name) for name in ROOMS])
HEALTHY_SECONDS = 240.0
LUCID = Path(sys.executable).with_name("lucid")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without an engine, which `make test` does not ask for, these are left out."""
    if os.environ.get("LUCID_TEST_DOCKER"):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs a Docker engine: make containers-test"))


def docker(*arguments: str, check: bool = True, seconds: float = 240) -> str:
    """What a docker command prints."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Deployed:
    """A running stack. files: the compose files it was started from."""

    folder: Path
    files: tuple[str, ...]

    def compose(self, *arguments: str, more: Sequence[Path] = (), check: bool = True) -> str:
        options = [f"--env-file={self.folder / '.env'}"]
        options += [f"--file={name}" for name in (*self.files, *map(str, more))]
        return docker("compose", *options, *arguments, check=check)

    def up(self, *names: str, more: Sequence[Path] = ()) -> None:
        """Start, or make anew what differs, and wait until it is healthy.

        Compose's own waiting gives up when a service starts twice, as on a busy machine.
        """
        self.compose("up", "-d", *names, more=more)
        assert wait_healthy(names, HEALTHY_SECONDS) == {}

    def validate(self) -> tuple[set[tuple[str, str]], dict[str, Any]]:
        """What failed, as (container, check), and the whole document."""
        done = subprocess.run(
            [LUCID, "validate", "containers", "--json"], capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        report = json.loads(done.stdout)
        found = {
            (one["subject"], one["check"])
            for one in report["findings"]
            if one["verdict"] == "failed"
        }
        assert done.returncode == (1 if found else 0), done.stderr
        return found, report


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Everything, healthy, with passwords; health is looked at every 2 s instead of 30."""
    if docker("ps", "-aq", "--filter", "name=^lucid-").strip():
        pytest.fail("containers of Lucid are there already; `make down` ends them")
    folder = tmp_path_factory.mktemp("deploy")
    # Containers' users have to pass through what pytest keeps for its own user.
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    subprocess.run([LUCID, "init", "--folder", folder], check=True, capture_output=True)
    faster = folder / "faster.yml"
    checks = {one.container: {"healthcheck": {"interval": "2s"}} for one in SERVICES}
    faster.write_text(yaml.safe_dump({"name": "lucid", "services": checks}))
    stack = Deployed(folder, (
        str(ROOT / "compose/phase3.yml"), str(ROOT / "compose/standins.yml"),
        str(ROOT / "compose/phase3.secure.yml"), str(faster),
    ))  # fmt: skip
    try:
        stack.up(*(one.container for one in HERE))
        yield stack
    finally:
        stack.compose("--profile", "tools", "down", "-v", "-t", "5", "--remove-orphans")
