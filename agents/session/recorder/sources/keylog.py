"""Presses on their way to an entry, as much of them as a level lets through. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from agents.session.recorder.sources.x11_keys import Press
from schemas.activity import MAX_KEYS, KeyClass, Keys

KEYS_SECONDS = 2.0  # of an entry of level `comprehensive`, unless it is full before
LEAST_SECONDS = 0.25  # between entries, however fast keys come
Level = Literal["basic", "strict", "comprehensive"]


class KeyLog:
    """every: seconds of an entry. What the level need not know is dropped at once."""

    def __init__(self, level: Level, every: float) -> None:
        self._level = level
        self._every = min(every, KEYS_SECONDS) if level == "comprehensive" else every
        self._since = 0
        self._count = 0
        self._classes: Counter[KeyClass] = Counter()
        self._keys: list[str] = []

    def add(self, presses: Sequence[Press], start: int) -> None:
        """Presses after an event time in microseconds."""
        if not presses:
            return
        if not self._count:
            self._since = start
        self._count += len(presses)
        if self._level == "strict":
            self._classes.update(press.kind for press in presses)
        elif self._level == "comprehensive":
            room = MAX_KEYS - len(self._keys)
            self._keys += [press.name for press in presses[:room]]

    def take(self, at: int) -> Keys | None:
        """The entry that is due at an event time, if there is one."""
        seconds = (at - self._since) / 1e6
        full = len(self._keys) == MAX_KEYS and seconds >= LEAST_SECONDS
        if not self._count or (seconds < self._every and not full):
            return None
        return self.close(at)

    def close(self, at: int) -> Keys | None:
        """The entry of what is there, if there is anything; `at`: the time that it will have."""
        if not self._count:
            return None
        entry = Keys(
            level=self._level, span=max(0, at - self._since), count=self._count,
            classes=dict(self._classes) if self._level == "strict" else None,
            keys=self._keys if self._level == "comprehensive" else None,
        )  # fmt: skip
        self._count, self._keys = 0, []
        self._classes.clear()
        return entry
