"""The gate of desktop sessions, and how a server's copy of it is laid down.

    start = install(folder, server=server_id, socket=settings.rdp_socket_path,
                    require_recording=settings.rdp_require_recording)
    blocked = unreachable(start)        the folder above that a session's user cannot enter

`folder` is the server's public one; `start` is what its sesman.ini names as the program of a
session (`DefaultWindowManager`, with `EnableUserWindowManager=false`, or a user's own program
would be run in its place). The gate itself is gate.py with gate_line.py and x_client.py:
standard library only, run by the session's user with the system's Python.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

SOURCES = ("gate.py", "gate_line.py", "x_client.py")
START = "startwm.sh"
DESKTOP = "desktop.sh"
DESKTOP_TEXT = """\
#!/bin/sh
# The user's own session, else the system's, else a terminal.
[ -r /etc/profile ] && . /etc/profile
[ -r "$HOME/.profile" ] && . "$HOME/.profile"
[ -x "$HOME/.xsession" ] && exec "$HOME/.xsession"
[ -r "$HOME/.xsession" ] && exec /bin/sh "$HOME/.xsession"
[ -r /etc/X11/Xsession ] && exec /bin/sh /etc/X11/Xsession
exec xterm
"""


def system_python() -> str:
    """A Python that every user can run: a service's own one may be in a private folder."""
    for place in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(place, os.X_OK):
            return place
    return shutil.which("python3") or "python3"


def install(
    folder: Path,
    *,
    server: str,
    socket: Path,
    require_recording: bool = True,
    away: float = 60.0,
    command: Sequence[str] = (),
    python: str = "",
) -> Path:
    """Copy the gate into `folder` and write startwm.sh there; its path.

    socket: the controller's. away: seconds without the controller after which a session ends,
    or begins and goes on unrecorded if recording is not required. command: what a session
    runs, the user's own choice by default (desktop.sh). May be called again: a session that
    runs keeps the copy that it began with. Raises OSError.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        _put(folder / name, Path(__file__).with_name(name).read_bytes(), 0o644)
    _put(folder / DESKTOP, DESKTOP_TEXT.encode(), 0o755)
    words = [
        python or system_python(), "-I", str(folder / SOURCES[0]), "--server", server,
        "--socket", str(socket.absolute()), "--away", f"{away:g}",
        *([] if require_recording else ["--open"]), "--", *(command or [str(folder / DESKTOP)]),
    ]  # fmt: skip
    text = (
        f"#!/bin/sh\n# The program of each session of server {server}.\nexec {shlex.join(words)}\n"
    )
    _put(folder / START, text.encode(), 0o755)
    return folder / START


def _put(place: Path, data: bytes, mode: int) -> None:
    """Whole or not at all: a session may begin at any time."""
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.chmod(mode)
    draft.replace(place)


def unreachable(place: Path) -> Path | None:
    """The first folder above `place` that users other than its owner cannot enter."""
    for folder in reversed(place.absolute().parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None
