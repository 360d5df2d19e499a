"""Programs of the system that Lucid runs, and the Debian packages they come in.

LucidError
└── MissingTool       a program is not installed, or is too old
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from schemas.errors import LucidError

# packages.mk installs the same packages; a test compares the two.
PACKAGES = {
    "java": "openjdk-17-jre-headless",
    "mvn": "maven",
    "go": "golang",
    "git": "git",
    "redis-server": "redis-server",
    "Xvfb": "xvfb",
    "xterm": "xterm",
    "xeyes": "x11-apps",
    "xdpyinfo": "x11-utils",
    "xmessage": "x11-utils",
    "xsetroot": "x11-xserver-utils",
    "xdotool": "xdotool",
    "ffmpeg": "ffmpeg",
    "openbox": "openbox",
    "xrdp": "xrdp",
    "xrdp-sesman": "xrdp",
    "fusermount": "fuse3",
    "rdesktop": "rdesktop",
    "xfreerdp": "freerdp2-x11",
}


class MissingTool(LucidError):
    """A program that is needed is not installed, or is too old."""

    exit_status = 69  # EX_UNAVAILABLE of sysexits.h


def install_hint(*names: str) -> str:
    """The sentence that says how to get these programs on Debian and Ubuntu."""
    packages = " ".join(dict.fromkeys(PACKAGES.get(name, name) for name in names))
    return f"Install it with `apt-get install {packages}`, or run `make system-packages` as root"


def require_tool(name: str) -> Path:
    """The path of program `name`; raises MissingTool that names its package.

    Java is looked for in JAVA_HOME first, as its own launchers do.
    """
    home = os.environ.get("JAVA_HOME") if name == "java" else None
    found = (shutil.which(str(Path(home, "bin", name))) if home else None) or shutil.which(name)
    if found is None:
        raise MissingTool(f"the program {name} is not installed", hint=install_hint(name))
    return Path(found)
