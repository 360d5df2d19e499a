"""What is done on a display, beside its pictures: windows, clipboard, drives, keys.

    watch = ActivityWatch(display, xauthority, order)
    entries = watch.look(time_us, clock, (width, height))    ten times a second, or less
    watch.skip()                                             after a pause: forget what came
    watch.close()

Nothing here stops a recording: what cannot be seen stands in the first entry. When it goes
wrong later, a last entry says that nothing is looked for any more; a display that goes away
is told by who takes its pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
import xcffib

from agents.session.recorder.sources.base import NoDisplay
from agents.session.recorder.sources.drives import Drives
from agents.session.recorder.sources.keylog import KeyLog
from agents.session.recorder.sources.patterns import Patterns, Seen
from agents.session.recorder.sources.protection import LATE_SECONDS, Protection, Terminals
from agents.session.recorder.sources.x11_clipboard import Clipboards
from agents.session.recorder.sources.x11_desk import Desk
from agents.session.recorder.sources.x11_keys import Keyboard
from agents.session.recorder.sources.x11_windows import Windows
from schemas.activity import Display, Entry, Policy, Unseen, Watching, Window, fit

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.1  # from one look to the next
LEAST_SECONDS = 0.08  # between looks
WINDOWS_A_SECOND = 2.0  # entries of windows, in the long run
WINDOWS_AT_ONCE = 10
ELSEWHERE = "the display is reached over a network, its user's programs run elsewhere"
Part = TypeVar("Part")
PartName = Literal["windows", "clipboard", "files", "keys"]


@dataclass(frozen=True, slots=True)
class ActivityOrder:
    """What to look for.

    keys_every: seconds that a count of keys stands for. late: seconds after which a look comes
    too late to tell what was protected.
    """

    policy: Policy
    patterns: Patterns = field(default_factory=Patterns)
    keys_every: float = 5.0
    late: float = LATE_SECONDS
    terminals: Path = Path("/dev/pts")
    proc: Path = Path("/proc")


class ActivityWatch:
    """A display's activity; raises NoDisplay when the display cannot be opened."""

    def __init__(self, display: str, xauthority: str | None, order: ActivityOrder) -> None:
        self._order, self._policy = order, order.policy
        self._unseen: list[Unseen] = []
        self._desk: Desk | None = Desk(display, xauthority)
        uid = self._desk.uid
        self._windows = Windows(self._desk)
        self._clipboards: Clipboards | None = None
        self._keyboard: Keyboard | None = None
        self._keys: KeyLog | None = None
        self._drives: Drives | None = None
        terminals = None
        try:
            if self._policy.files:
                self._drives = self._part("files", lambda: _drives(uid, order.proc))
            if self._policy.clipboard != "off":
                self._clipboards = self._part("clipboard", self._open_clipboards)
            if self._policy.keys != "disabled":
                self._keys = KeyLog(self._policy.keys, order.keys_every)
                terminals = Terminals(uid, order.terminals)
                self._keyboard = self._part("keys", lambda: _keyboard(display, xauthority, uid))
        except BaseException:
            self.close()
            raise
        self._protection = Protection(order.patterns, terminals, order.late)
        self._looked = float("-inf")
        self._told: tuple[Seen, bool] | None = None
        self._size = (0, 0)
        self._budget = float(WINDOWS_AT_ONCE)
        self._last: tuple[Seen, bool] | None = None
        self._left_out = 0
        self._begun = False
        self._end: list[Entry] = []
        self._keys_from = 0

    def _part(self, name: PartName, make: Callable[[], Part]) -> Part | None:
        """A part of the watch, None where the server, or who we are, does not allow it."""
        try:
            return make()
        except (LookupError, xcffib.Error) as error:
            why = str(error) if isinstance(error, LookupError) else type(error).__name__
            self._unseen.append(Unseen(part=name, why=fit(why)))
            return None

    def _open_clipboards(self) -> Clipboards:
        assert self._desk is not None
        return Clipboards(self._desk, details=self._policy.clipboard == "details")

    def close(self) -> None:
        """Give everything back; may be called twice."""
        for connection in (self._desk, self._keyboard):
            if connection is not None:
                connection.close()
        self._desk = self._keyboard = None

    def skip(self) -> None:
        """Nothing since the last look is recorded, nor are keys that had no entry yet."""
        if self._keyboard is not None:
            self._keys = KeyLog(self._policy.keys, self._order.keys_every)  # type: ignore[arg-type]
        self._begun, self._told, self._last, self._size = False, None, None, (0, 0)
        self._looked = float("-inf")
        self._budget, self._left_out = float(WINDOWS_AT_ONCE), 0
        if self._desk is None:
            return
        try:
            for event in self._desk.events():
                self._take(event)
            if self._clipboards is not None:
                self._clipboards.forget()
            if self._keyboard is not None:
                self._keyboard.drain()
        except Exception as error:  # noqa: BLE001 - pictures go on, see _lose
            self._lose(error)

    def look(self, at: int, clock: float, size: tuple[int, int]) -> list[Entry]:
        """What happened since the last look. at: event time; clock: monotonic seconds."""
        if self._desk is None:
            last, self._end = self._end, []
            return last
        if clock - self._looked < LEAST_SECONDS:
            return []
        entries: list[Entry] = []
        if not self._begun:
            entries.append(Watching(policy=self._policy, unseen=self._unseen))
            self._begun, self._keys_from = True, at
        try:
            entries += self._look(self._desk, at, clock, size)
        except Exception as error:  # noqa: BLE001 - pictures go on, see _lose
            self._lose(error)
        self._looked = clock
        return entries

    def _lose(self, error: Exception) -> None:
        """Look no more, and say so in the recording: by its connection's loss, as when somebody
        kills it, or by a mistake of ours."""
        lost = isinstance(error, xcffib.XcffibException)
        log.error("activity is not recorded any more", error=error, exc_info=not lost)
        why = "the X server has ended its connection" if lost else f"it failed: {error!r}"
        parts: dict[PartName, bool] = {
            "windows": self._policy.windows, "clipboard": self._policy.clipboard != "off",
            "files": self._policy.files, "keys": self._policy.keys != "disabled",
        }  # fmt: skip
        unseen = [Unseen(part=part, why=fit(why)) for part, wanted in parts.items() if wanted]
        self._end = [Watching(policy=self._policy, unseen=unseen)]
        self.close()

    def _look(self, desk: Desk, at: int, clock: float, size: tuple[int, int]) -> list[Entry]:
        # Keys first: what is protected is looked up after they were typed, see Protection.
        presses, whole = self._keyboard.drain() if self._keyboard else ([], True)
        glance = self._windows.look()
        allowed = self._protection.look(glance, clock, whole=whole)
        entries: list[Entry] = []
        if self._policy.windows:
            entries += self._display(size)
            entries += self._window(glance.used, clock)
        for event in desk.events():
            self._take(event)
        if self._clipboards is not None:
            entries += self._clipboards.look(clock, protected=self._protection.now)
        if self._drives is not None:
            entries += self._drives.look(clock)
        if self._keys is not None:
            if allowed:
                self._keys.add(presses, self._keys_from)
            self._keys_from = at
            due = self._keys.take(at)
            entries += [] if due is None else [due]
        return entries

    def _take(self, event: Any) -> None:
        if self._clipboards is not None:
            self._clipboards.take(event)

    def _display(self, size: tuple[int, int]) -> list[Entry]:
        if size == self._size:
            return []
        self._size = size
        return [Display(width=size[0], height=size[1])]

    def _window(self, used: Seen, clock: float) -> list[Entry]:
        """An entry when another window is used, as often as the budget allows; the newest
        state gets one in any case, if only later."""
        elapsed = clock - self._looked if self._last is not None else 0.0
        self._budget = min(WINDOWS_AT_ONCE, self._budget + WINDOWS_A_SECOND * elapsed)
        now = (used, self._protection.covers(used))
        self._left_out += self._last is not None and self._last not in (now, self._told)
        self._last = now
        if now == self._told or self._budget < 1:
            return []
        entry = Window(
            title=used.title, program=used.program, instance=used.instance, via=used.via,
            protected=now[1], left_out=self._left_out,
        )  # fmt: skip
        self._told, self._left_out = now, 0
        self._budget -= 1
        return [entry]


def _drives(uid: int | None, proc: Path) -> Drives:
    if uid is None:
        raise LookupError(ELSEWHERE)
    return Drives(uid, proc)


def _keyboard(display: str, xauthority: str | None, uid: int | None) -> Keyboard:
    if uid is None:
        raise LookupError(ELSEWHERE)
    if os.geteuid() not in (0, uid):
        raise LookupError("terminals of that user cannot be checked for password prompts")
    try:
        return Keyboard(display, xauthority)
    except NoDisplay as error:
        raise LookupError(error.what) from error
