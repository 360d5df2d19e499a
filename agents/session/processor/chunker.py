"""Cuts: which records of a session make up a chunk. Pure; nothing but records decides.

A chunk is cut before the record that would take its plaintext over `cut_bytes`, before the
record whose event time is `cut_us` or more after the chunk's first, and after the record
that ends the session.

LucidError
├── LateRecord        a record whose sequence number was sealed as missing
├── NoOpenRecord      a record of a session whose `open` was never seen in this partition
└── SessionEnded      a record after the session's `close` or `abandon`
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agents.session.processor.holding import Held
from schemas.chunks import Sealing
from schemas.errors import LucidError
from schemas.frames import ENTRY_SIZE, HASH_SIZE, FrameRecord, Kind, missing_record
from schemas.manifests import MAX_RANGES, Missing

MISSING_SIZE = ENTRY_SIZE + 8 + HASH_SIZE
LAST_KINDS = frozenset({Kind.CLOSE, Kind.ABANDON})


class NoOpenRecord(LucidError):
    """A session's records arrived without the `open` that says how to seal them."""

    once_per_key = True


class LateRecord(LucidError):
    """A record came after its place was closed as missing; the cuts before it stand."""


class SessionEnded(LucidError):
    """A record came after the end of its session."""

    once_per_key = True


@dataclass(frozen=True, slots=True)
class Cut:
    """The records of one chunk, its plaintext bytes, its first and last offsets."""

    held: Held
    raw_size: int
    first_offset: int
    last_offset: int
    last: bool


class Chunker:
    """The open chunk of one session.

    next_seq: the sequence number expected next; smaller ones are duplicates, or came late
    when they are among `missing`, the runs that were passed over so far. Of these the first
    MAX_RANGES are kept; behind them a smaller number is taken for a late one.
    """

    def __init__(
        self, sealing: Sealing, next_seq: int = 0, missing: Sequence[Missing] = (), runs: int = 0
    ) -> None:
        self._sealing = sealing
        self._missing = list(missing)
        self._runs = max(runs, len(self._missing))
        self.next_seq = next_seq
        self.ended = False
        self.duplicates = 0
        self._start()

    def _start(self) -> None:
        self.held = Held()
        self._raw = 0
        self._first_time = 0
        self.first_offset: int | None = None
        self._last_offset = 0

    def add(self, record: FrameRecord, offset: int) -> Iterator[Cut]:
        """Take the record at `offset`; yields the chunks that it completes, 0 to 2.

        A duplicate is counted and dropped. Raises LateRecord and SessionEnded.
        """
        if record.kind is Kind.ABANDON and not self.ended:
            record = replace(record, seq=self.next_seq)
        elif record.seq < self.next_seq:
            if self._passed_over(record.seq):
                raise LateRecord(
                    f"record {record.seq} of session {record.session} came after it was sealed "
                    f"as missing",
                    hint="Its chunk stands; the dead letter keeps the record",
                )
            self.duplicates += 1
            return
        if self.ended:
            raise SessionEnded(
                f"record {record.seq} of session {record.session} came after the session's end",
                hint="The recorder went on after the session was closed or abandoned",
            )
        missing = record.seq > self.next_seq
        size = record.size + (MISSING_SIZE if missing else 0)
        if self._must_cut_before(record, size):
            yield self._cut(last=False)
        if self.first_offset is None:
            self.first_offset, self._first_time = offset, record.time
        if missing:
            self.held.append(missing_record(record, self.next_seq))
            self._pass_over(self.next_seq, record.seq - self.next_seq)
        self.held.append(record)
        self._raw += size
        self._last_offset = offset
        self.next_seq = record.seq + (record.kind is not Kind.ABANDON)
        if record.kind in LAST_KINDS:
            self.ended = True
            yield self._cut(last=True)

    def _pass_over(self, first_seq: int, count: int) -> None:
        self._runs += 1
        if len(self._missing) < MAX_RANGES:
            self._missing.append(Missing(first_seq=first_seq, count=count))

    def _passed_over(self, seq: int) -> bool:
        place = bisect_right(self._missing, seq, key=lambda run: run.first_seq) - 1
        if place < 0:
            return False
        run = self._missing[place]
        unlisted = self._runs > len(self._missing) and place == len(self._missing) - 1
        return unlisted or seq < run.first_seq + run.count

    def _must_cut_before(self, record: FrameRecord, size: int) -> bool:
        return self.first_offset is not None and (
            self._raw + size > self._sealing.cut_bytes
            or record.time - self._first_time >= self._sealing.cut_us
        )

    def _cut(self, *, last: bool) -> Cut:
        assert self.first_offset is not None
        cut = Cut(self.held, self._raw, self.first_offset, self._last_offset, last)
        self._start()
        return cut
