"""The base of an image whose programs need a system around them: Debian, as small as it goes.

xrdp needs its server, Xorg, PAM and a shell for the session's start. The rest is the same as for
all images: the layers of `Dockerfile`, a read-only root, no capability that it does not need.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from containers import debian, docker
from containers.errors import BuildProblem, run

TAG = "lucid/debian-xrdp:bookworm"
PACKAGES = (
    "python3-minimal", "libpython3.11-stdlib", "ca-certificates", "tzdata", "xrdp", "xorgxrdp",
    "xserver-xorg-core", "dbus-x11", "xterm", "x11-utils",
)  # fmt: skip
_LEFT_OUT = ("usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/doc-base",
             "var/cache/apt", "var/lib/apt/lists", "var/log", "run")  # fmt: skip


def ensure(*, fresh: bool = False) -> str:
    """The tag of the base, built if it is not there; raises BuildProblem."""
    if fresh or not docker.has_image(TAG):
        with tempfile.TemporaryDirectory(prefix="lucid-slim-") as folder:
            _load(_make(Path(folder)))
    return TAG


def _make(folder: Path) -> Path:
    """An archive of a Debian with the packages, without documents, caches and logs."""
    archive = folder / "root.tar"
    options = [f"--dpkgopt=path-exclude=/{name}/*" for name in _LEFT_OUT[:4]]
    hooks = [f"--customize-hook=find \"$1/{name}\" -mindepth 1 -delete || true"
             for name in _LEFT_OUT[4:]]  # fmt: skip
    # Each machine has to make its own; the room writes one for each server.
    hooks.append('--customize-hook=rm -f "$1"/etc/xrdp/*.pem "$1"/etc/xrdp/rsakeys.ini')
    run(
        ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(PACKAGES)}",
         *options, *hooks, "bookworm", str(archive)],
        what="mmdebstrap", env={"SOURCE_DATE_EPOCH": str(debian.EPOCH)}, seconds=1800,
    )  # fmt: skip
    return archive


def _load(archive: Path) -> None:
    change = ["-c", "USER 65532:65532", "-c", 'ENTRYPOINT ["/usr/bin/python3.11"]']
    done = subprocess.run(
        ["docker", "import", *change, str(archive), TAG],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildProblem(f"docker import failed: {done.stderr.strip()}")
