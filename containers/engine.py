"""The Docker engine and the compose plugin, where they are missing: for `make containers`.

ensure()      an engine that answers: the one that runs, else Debian's, started as root
stop()        ends the one that ensure() started, by its process id, and no other
compose()     `docker compose`, built with Go from its published module if there is none
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path

from agents.platform.stack.cache import cache_folder, cached
from containers.errors import BuildProblem, run
from containers.images import OUT

PID_FILE = OUT / "dockerd.pid"
LOG = OUT / "dockerd.log"
START_SECONDS = 60.0
COMPOSE = "2.29.7"
_MODULE = "github.com/docker/compose/v2"


def answers() -> bool:
    """Whether an engine answers the docker command here."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def ensure() -> bool:
    """Start an engine if none answers; whether it did. Raises BuildProblem."""
    if answers():
        return False
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise BuildProblem(
            "no Docker engine answers, and none can be started here",
            hint="Start yours, or run this as root on Debian after `make container-packages`",
        )
    OUT.mkdir(parents=True, exist_ok=True)
    with LOG.open("ab") as log:
        engine = subprocess.Popen(
            # Containers would else have a billion descriptors, which some programs walk through.
            ["dockerd", "--default-ulimit", "nofile=20000:20000"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    PID_FILE.write_text(f"{engine.pid}\n")
    end = time.monotonic() + START_SECONDS
    while not answers():
        if engine.poll() is not None or time.monotonic() > end:
            raise BuildProblem(f"dockerd does not come up; its log is {LOG}")
        time.sleep(0.2)
    return True


def stop() -> bool:
    """End the engine that `ensure` started; whether there was one."""
    try:
        pid = int(PID_FILE.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        PID_FILE.unlink(missing_ok=True)
        return False
    if command.split(b"\0")[0].endswith(b"dockerd"):
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + START_SECONDS
        while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < end:
            if b"dockerd" not in _command(pid):
                break
            time.sleep(0.2)
    PID_FILE.unlink(missing_ok=True)
    return True


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def compose() -> None:
    """Make `docker compose` work; raises BuildProblem."""
    shown = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if shown.returncode == 0:
        return
    entry = f"compose-{COMPOSE}-{platform.machine()}"
    program = cached(
        cache_folder(None), entry, build=_build_compose, progress=print,
        complete=lambda folder: (folder / "docker-compose").exists(),
    ) / "docker-compose"  # fmt: skip
    plugin = Path.home() / ".docker/cli-plugins/docker-compose"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.unlink(missing_ok=True)
    plugin.symlink_to(program)


def _build_compose(folder: Path) -> None:
    print(f"building docker compose {COMPOSE} with Go, which takes some minutes, once")
    flags = f"-s -w -X {_MODULE}/internal.Version=v{COMPOSE}"
    run(
        ["go", "install", "-trimpath", "-ldflags", flags, f"{_MODULE}/cmd@v{COMPOSE}"],
        what="Go's build of docker compose", env={"GOBIN": str(folder), "GOFLAGS": "-mod=mod"},
        seconds=1800,
    )  # fmt: skip
    (folder / "cmd").rename(folder / "docker-compose")
