"""What a session's chunks add up to, against what its manifest says. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from schemas.chunks import ChunkHeader
from schemas.controls import Abandon, Close, Open
from schemas.manifests import (
    MAX_INTERRUPTIONS,
    MAX_RANGES,
    Interruption,
    Manifest,
    Missing,
)
from schemas.verdicts import Found, Verdict
from schemas.verify_chunk import Content


@dataclass(slots=True)
class Sums:
    """Over the chunks that belong to the session; the fields after `decrypted` are known of
    decrypted chunks only.

    committed: number of the last record with a verified commitment. uncovered: runs of
    records, first and next number, that no commitment covers; covered: all before this
    number are covered, missing, or in one of these runs.
    """

    first: ChunkHeader | None = None
    last: ChunkHeader | None = None
    records: int = 0
    missing: int = 0
    raw_bytes: int = 0
    sealed_bytes: int = 0
    chunks: int = 0
    decrypted: int = 0
    readable: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    missing_runs: int = 0
    missing_ranges: list[Missing] = field(default_factory=list)
    interruptions_total: int = 0
    interruptions: list[Interruption] = field(default_factory=list)
    opened: Open | None = None
    ending: Close | Abandon | None = None
    committed: int | None = None
    uncovered: list[tuple[int, int]] = field(default_factory=list)
    covered: int = 0

    def add(self, header: ChunkHeader, size: int, content: Content | None) -> None:
        """One more chunk, of `size` bytes."""
        self.first = self.first or header
        self.last = header
        self.chunks += 1
        self.records += header.records
        self.missing += header.missing
        self.raw_bytes += header.raw_size
        self.sealed_bytes += size
        if content is not None:
            self._add_content(content)

    def _add_content(self, content: Content) -> None:
        self.decrypted += 1
        self.readable &= content.readable
        self.counts += content.counts
        self.missing_runs += content.missing_runs
        self.interruptions_total += content.interruptions_total
        room = MAX_RANGES - len(self.missing_ranges)
        self.missing_ranges += content.missing_ranges[:room]
        room = MAX_INTERRUPTIONS - len(self.interruptions)
        self.interruptions += content.interruptions[:room]
        self.opened = self.opened or content.opened
        self.ending = content.ending or self.ending
        if content.committed is not None:
            self.committed = max(content.committed, self.committed or 0)
        for start, end in content.uncovered:
            first = self.covered if start is None else start
            if first < end:
                self.uncovered.append((first, end))
        if content.covered is not None:
            self.covered = content.covered


def compare_tally(manifest: Manifest, sums: Sums, found: Found) -> None:
    """Every number of the manifest against the chunks; all of them have to be in `sums`."""
    if sums.first is None or sums.last is None:
        return
    tally = manifest.tally
    inside = sum(count for kind, count in tally.counts.items() if kind != "abandon")
    pairs: list[tuple[str, object, object]] = [
        ("next_seq", manifest.next_seq, sums.last.next_seq),
        ("records", inside, sums.records),
        ("missing", tally.missing, sums.missing),
        ("raw_bytes", tally.raw_bytes, sums.raw_bytes),
        ("sealed_bytes", tally.sealed_bytes, sums.sealed_bytes),
        ("first_time", tally.first_time, sums.first.first_time),
        ("last_time", tally.last_time, sums.last.last_time),
    ]
    if manifest.chain != sums.last.chain_after.hex():
        what = "the manifest has another record chain than the last chunk"
        found.add(Verdict.BROKEN_CHAIN, what, sums.last.index)
    if sums.decrypted == sums.chunks:
        pairs += _content_pairs(manifest, sums)
    for name, claimed, counted in pairs:
        if claimed != counted:
            what = f"the manifest says {name} {claimed}, the chunks have {counted}"
            found.add(Verdict.TALLY_MISMATCH, what)
    if sums.decrypted == sums.chunks:
        _compare_open(manifest, sums, found)
        _compare_ending(manifest, sums, found)


def _content_pairs(manifest: Manifest, sums: Sums) -> list[tuple[str, object, object]]:
    tally = manifest.tally
    pairs: list[tuple[str, object, object]] = [
        ("counts", dict(sorted(tally.counts.items())), dict(sorted(sums.counts.items()))),
        ("missing_runs", tally.missing_runs, sums.missing_runs),
        ("missing_ranges", tally.missing_ranges, sums.missing_ranges),
        ("interruptions_total", tally.interruptions_total, sums.interruptions_total),
    ]
    if sums.readable:
        pairs.append(("interruptions", tally.interruptions, sums.interruptions))
    return pairs


def _compare_open(manifest: Manifest, sums: Sums, found: Found) -> None:
    """The manifest repeats what the `open` record said."""
    opened = sums.opened
    if opened is None:
        return
    same = (
        "session", "recorder", "recipients", "codec", "source", "host", "owner", "project",
        "sealing", "wrapped_key_hash",
    )  # fmt: skip
    for name in same:
        if getattr(opened, name) != getattr(manifest, name):
            what = f"the manifest has another {name} than the session's open record"
            found.add(Verdict.MANIFEST_MISMATCH, what)


def _compare_ending(manifest: Manifest, sums: Sums, found: Found) -> None:
    """The manifest ends as the session's last record did."""
    ending = sums.ending
    if ending is None:
        return
    kind = "close" if isinstance(ending, Close) else "abandon"
    note = ending.note if isinstance(ending, Close) else None
    claimed = (manifest.ended_by, manifest.reason, manifest.closing_note)
    if claimed != (kind, ending.reason, note):
        what = "the manifest ends the session otherwise than its last record"
        found.add(Verdict.MANIFEST_MISMATCH, what)
