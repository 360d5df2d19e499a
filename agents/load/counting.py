"""Which records arrived, by sequence number: what was sent against what the catalog has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.manifests import Manifest

MOST_RANGES = 20  # that a report lists of one session


class Span(NamedTuple):
    """Sequence numbers from `first` on, without `end`."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What catalog and manifest say of a session.

    spans: of its chunks, one each. missing: numbers that the manifest lists as never arrived;
    missing_count: all that it and the chunks count, listed or not. conflicts: files that differ
    from the first ones under their names.
    """

    spans: Sequence[Span] = ()
    missing: Sequence[Span] = ()
    missing_count: int = 0
    next_seq: int | None = None
    conflicts: int = 0

    @classmethod
    def of(
        cls, chunks: Iterable[Mapping[str, Any]], manifest: Manifest | None, conflicts: int = 0
    ) -> Stored:
        """From the catalog's documents."""
        listed = list(chunks)
        spans = [Span(int(one["first_seq"]), int(one["next_seq"])) for one in listed]
        runs = manifest.tally.missing_ranges if manifest is not None else []
        return cls(
            spans, [Span(run.first_seq, run.first_seq + run.count) for run in runs],
            sum(int(one["missing"]) for one in listed),
            manifest.next_seq if manifest is not None else None, conflicts,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one session: numbers that are lost, stored twice, or stored although never sent.

    ranges: where it is known which are lost, the first of them.
    """

    session: str
    sent: int
    lost: int
    duplicated: int
    unknown: int
    ended: bool
    conflicts: int = 0
    ranges: tuple[Span, ...] = field(default=())

    @property
    def good(self) -> bool:
        return self.ended and not (self.lost or self.duplicated or self.unknown or self.conflicts)


def count(session: str, sent: int, stored: Stored) -> Verdict:
    """Compare the sequence numbers 0 to `sent` - 1 with those that are stored."""
    covered, overlap = _union(stored.spans)
    absent = _minus(Span(0, sent), covered)
    within, _ = _union(stored.missing)
    listed = [hit for one in within for hit in _cut(one, covered, sent)]
    ranges = sorted(absent + listed)
    # A manifest lists no more than a thousand runs, and an open session has none; chunks count all.
    lost = _total(absent) + max(_total(listed), stored.missing_count)
    unknown = sum(max(0, one.end - max(one.first, sent)) for one in covered)
    return Verdict(
        session, sent, min(lost, sent), overlap, unknown, stored.next_seq is not None,
        stored.conflicts, tuple(ranges[:MOST_RANGES]),
    )  # fmt: skip


def _total(spans: Iterable[Span]) -> int:
    return sum(one.end - one.first for one in spans)


def _union(spans: Iterable[Span]) -> tuple[list[Span], int]:
    """Disjoint spans in order, and how many numbers were in more than one, each time more."""
    found: list[Span] = []
    overlap = 0
    for one in sorted(spans):
        if found and one.first <= found[-1].end:
            last = found[-1]
            overlap += min(last.end, one.end) - one.first
            found[-1] = Span(last.first, max(last.end, one.end))
        elif one.end > one.first:
            found.append(one)
    return found, overlap


def _minus(whole: Span, covered: Iterable[Span]) -> list[Span]:
    """The parts of `whole` that no span covers; these are disjoint and in order."""
    found, at = [], whole.first
    for one in covered:
        if one.first >= whole.end:
            break
        if one.first > at:
            found.append(Span(at, one.first))
        at = max(at, one.end)
    if at < whole.end:
        found.append(Span(at, whole.end))
    return found


def _cut(one: Span, covered: Iterable[Span], sent: int) -> list[Span]:
    """The parts of a missing run that lie in a stored chunk's span and were sent."""
    parts = [Span(max(one.first, c.first), min(one.end, c.end, sent)) for c in covered]
    return [part for part in parts if part.end > part.first]
