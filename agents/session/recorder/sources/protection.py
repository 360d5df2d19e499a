"""Whether keys may be recorded now: not while a password is, or may be, typed.

What can be known of that on plain X: the names of the windows that keys may go to, and
whether a terminal of the user reads a line without showing it, as sudo, ssh and passwd make
it do. Grabbed keyboards are not heard at all (sources/x11_keys.py).

Keys are taken only if nothing was protected at the last three looks: the one before the
keys, the one at which they began to gather, and the one after them. A look that comes late,
or that could not see, protects as well.
"""

from __future__ import annotations

import errno
import os
import termios
from pathlib import Path

from agents.session.recorder.sources.patterns import Glance, Patterns, Seen

LOOKS = 3
LATE_SECONDS = 0.5  # from one look to the next; a prompt may have come and gone in between
NEW_SECONDS = 1.0  # a terminal is not touched, and protects, while its program sets it up


class Terminals:
    """The terminals of a user (None: of all users), by their devices in `folder`."""

    def __init__(self, uid: int | None, folder: Path = Path("/dev/pts")) -> None:
        self._uid, self._folder = uid, folder
        self._since: dict[str, float] | None = None

    def asking(self, clock: float) -> bool:
        """Whether one of them reads a line without showing it, or may; clock: in seconds."""
        found: dict[str, float] = {}
        asking, first = False, self._since is None
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if not entry.name.isdigit() or not self._is_ours(entry):
                        continue
                    since = float("-inf") if first else (self._since or {}).get(entry.name, clock)
                    found[entry.name] = since
                    asking = asking or clock - since < NEW_SECONDS or _is_silent(entry.path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        self._since = found
        return asking

    def _is_ours(self, entry: os.DirEntry[str]) -> bool:
        try:
            return self._uid in (None, 0) or entry.stat().st_uid == self._uid
        except FileNotFoundError:
            return False


def _is_silent(path: str) -> bool:
    """Lines are put together, and not echoed. A shell's own editing takes single characters."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError as error:
        return error.errno == errno.EACCES  # it is another's to see
    try:
        flags = termios.tcgetattr(descriptor)[3]
    except termios.error:
        return False
    finally:
        os.close(descriptor)
    return bool(flags & termios.ICANON) and not flags & termios.ECHO


class Protection:
    """What the last looks saw. late: seconds from one to the next that are too many."""

    def __init__(
        self, patterns: Patterns, terminals: Terminals | None = None, late: float = LATE_SECONDS
    ) -> None:
        self._patterns, self._terminals, self._late = patterns, terminals, late
        self._clear = 0
        self._looked = float("-inf")

    @property
    def now(self) -> bool:
        """Whether anything is protected, by the last look."""
        return self._clear == 0

    def covers(self, seen: Seen) -> bool:
        """Whether the window itself is protected."""
        return self._patterns.cover(seen)

    def look(self, glance: Glance, clock: float, *, whole: bool = True) -> bool:
        """Whether keys since the last look may be recorded. whole: all of them are there."""
        late = clock - self._looked > self._late
        self._looked = clock
        windows = (glance.used, *glance.others)
        covered = not glance.sure or any(map(self._patterns.cover, windows))
        if not covered and whole and self._terminals is not None:
            covered = self._terminals.asking(clock)
        self._clear = 0 if covered or late or not whole else self._clear + 1
        return self._clear >= LOOKS
