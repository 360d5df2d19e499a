"""How many records a service may refuse before it has to stop.

A few refused records are their producers' trouble. Many of one partition are ours: a wrong
identity, an older version, a producer gone wrong. Going on would empty the topic into
`dead.letters`, and a fix would find everything there; so the service stops in front of the
next one.

LucidError
└── TooManyLetters
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from schemas.errors import LucidError

DEFAULT_LIMIT = 100
WINDOW = 3600.0  # seconds
Place = tuple[str, int]
Cause = int | bytes | None


class TooManyLetters(LucidError):
    """More records of a partition were refused than the settings allow."""

    exit_status = 65  # EX_DATAERR of sysexits.h


class LetterLimit:
    """Refused records by partition over the last hour, at most `limit` of each.

    A record that is refused again counts once, and so do all records of one key for an
    error that is `once_per_key`. Once over the limit, a partition stays over it.
    """

    def __init__(
        self, limit: int = DEFAULT_LIMIT, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self.exceeded: TooManyLetters | None = None
        self._clock = clock
        self._refused: dict[Place, OrderedDict[Cause, float]] = {}
        self._over: dict[Place, TooManyLetters] = {}

    def counted(self, place: Place) -> int:
        """Refusals of a partition that count now."""
        found = self._refused.get(place, OrderedDict())
        while found and next(iter(found.values())) <= self._clock() - WINDOW:
            found.popitem(last=False)
        return len(found)

    def admit(self, place: Place, offset: int, key: bytes | None, error: LucidError) -> None:
        """Count one record; raises TooManyLetters when it may not be refused."""
        if (over := self._over.get(place)) is not None:
            raise over
        cause: Cause = key if error.once_per_key else offset
        counted = self.counted(place)
        found = self._refused.setdefault(place, OrderedDict())
        if cause in found:
            return
        if counted < self.limit:
            found[cause] = self._clock()
            return
        topic, partition = place
        self.exceeded = self._over[place] = TooManyLetters(
            f"{counted} records of {topic}-{partition} were refused within an hour; the next "
            f"one, at offset {offset}, is over the limit and is left there ({error.code}: {error})",
            hint="See `lucid dead-letters list`, mend the cause and start the service again; "
            "LUCID_DEAD_LETTER_LIMIT allows more",
        )
        raise self.exceeded
