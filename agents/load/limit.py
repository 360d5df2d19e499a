"""Where an objective breaks: double until it does, then halve the distance. Pure."""

from __future__ import annotations

from dataclasses import dataclass

CLOSE_ENOUGH = 1.1


@dataclass
class Search:
    """The most sessions that pass. passed: the most that did; broke: the fewest that did not."""

    first: int
    most: int
    passed: int = 0
    broke: int | None = None

    def next(self) -> int | None:
        """How many to try now; None when it is known closely enough."""
        if self.broke is None:
            if self.passed >= self.most:
                return None
            return min(self.most, self.passed * 2 or self.first)
        if self.broke - self.passed <= 1 or (
            self.passed and self.broke / self.passed <= CLOSE_ENOUGH
        ):
            return None
        return (self.passed + self.broke) // 2

    def tell(self, sessions: int, good: bool) -> None:
        """What came of a try."""
        if good:
            self.passed = max(self.passed, sessions)
        else:
            self.broke = sessions if self.broke is None else min(self.broke, sessions)
