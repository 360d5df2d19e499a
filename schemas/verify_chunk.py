"""Checking one chunk on its own: everything that needs no other chunk. Pure; any thread.

What a chunk says of its neighbours (where it starts, the chain before it) is compared in
schemas/verify.py, which takes the facts gathered here in the order of the chunks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import BaseModel

from schemas.canonical import decode
from schemas.chunks import (
    HEADER_SIZE,
    MAX_CIPHERTEXT,
    Chunk,
    ChunkHeader,
    Undecryptable,
    read_chunk,
    read_header,
    unseal,
)
from schemas.controls import Abandon, Close, Gap, Keepalive, Open, Pause, Resume
from schemas.datakey import DataKey, WrongKey
from schemas.erasure import UNKNOWN
from schemas.errors import FormatError, Truncated, UnknownVersion
from schemas.frames import OUTSIDE_SEQUENCE, FrameRecord, Kind, chain_next, read_missing
from schemas.manifests import MAX_INTERRUPTIONS, MAX_RANGES, Interruption, Missing
from schemas.merkle import leaf_hash
from schemas.notes import Commitment, InvalidSignature, Verifier, open_note
from schemas.verdicts import Finding, Found, Verdict, finding

MAX_CHUNK = HEADER_SIZE + MAX_CIPHERTEXT
"""Bytes of the largest chunk; a source need not read more than one byte beyond it."""

_CONTROLS: dict[Kind, type[BaseModel]] = {
    Kind.OPEN: Open,
    Kind.KEEPALIVE: Keepalive,
    Kind.GAP: Gap,
    Kind.PAUSE: Pause,
    Kind.RESUME: Resume,
    Kind.CLOSE: Close,
    Kind.ABANDON: Abandon,
}
_ENDS = frozenset({Kind.CLOSE, Kind.ABANDON})


@dataclass(frozen=True, slots=True)
class Expected:
    """What a list of chunks says of one; size in bytes, None where the list has none."""

    leaf: bytes
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """What to check chunk `index` against. listed: whether the catalog knows it.

    recorder: None to take the one that the session's `open` record names. erased: its bytes
    are gone by policy; header: what stayed of it.
    """

    index: int
    session: UUID | None
    expected: Expected | None = None
    key: DataKey | None = None
    recorder: Verifier | None = None
    erased: bool = False
    header: bytes | None = None


@dataclass(slots=True)
class Content:
    """What the records of a decrypted chunk add up to.

    committed: number of the last record here with a verified commitment, or None.
    uncovered: runs of records, first and next number, that a missing entry parts from every
    later commitment; a first of None: since the last commitment of an earlier chunk.
    covered: the number up to which commitments and missing entries here account for all.
    readable: every control record could be read, so that the sums are whole.
    """

    counts: Counter[str] = field(default_factory=Counter)
    missing_runs: int = 0
    missing_ranges: list[Missing] = field(default_factory=list)
    interruptions_total: int = 0
    interruptions: list[Interruption] = field(default_factory=list)
    opened: Open | None = None
    ending: Close | Abandon | None = None
    committed: int | None = None
    uncovered: list[tuple[int | None, int]] = field(default_factory=list)
    covered: int | None = None
    readable: bool = True


@dataclass(frozen=True, slots=True)
class ChunkFacts:
    """One chunk. header: only of a chunk that belongs here; leaf: of the bytes as found."""

    index: int
    findings: list[Finding]
    header: ChunkHeader | None = None
    leaf: bytes | None = None
    size: int | None = None
    content: Content | None = None


def unreadable(task: ChunkTask, why: str) -> ChunkFacts:
    """The facts of a chunk whose bytes cannot be had."""
    listed = task.expected is not None and task.expected.size is not None
    verdict = Verdict.MISSING_FILE if listed else Verdict.MISSING_CHUNK
    return ChunkFacts(task.index, [finding(verdict, f"chunk {task.index} {why}", task.index)])


def check_chunk(task: ChunkTask, data: bytes | None) -> ChunkFacts:
    """Check the bytes of one chunk, None when there are none. Never raises FormatError."""
    if data is None:
        return _check_erased(task) if task.erased else unreadable(task, "is missing")
    found = Found()
    leaf = leaf_hash(data)
    chunk = _parse(task, data, leaf, found)
    content = None
    if chunk is not None and task.key is not None:
        content = _check_content(task, chunk, task.key, found)
    return ChunkFacts(
        index=task.index,
        findings=_condense(found.findings),
        header=chunk.header if chunk else None,
        leaf=leaf,
        size=len(data),
        content=content,
    )


def _check_erased(task: ChunkTask) -> ChunkFacts:
    """An erased chunk: its leaf, and its header while that is there."""
    index, expected = task.index, task.expected
    if expected is None or expected.leaf == UNKNOWN:
        return unreadable(task, "was missing already when the session was erased")
    if task.header is None:
        return ChunkFacts(index, [], leaf=expected.leaf)
    found = Found()
    try:
        header = read_header(task.header)
    except FormatError as error:
        wrong = finding(Verdict.MALFORMED_CHUNK, error.what, index)
        return ChunkFacts(index, [wrong], leaf=expected.leaf)
    if task.session is not None and header.session != task.session:
        what = f"the header at place {index} is of session {header.session}"
        foreign = finding(Verdict.FOREIGN_CHUNK, what, index)
        return ChunkFacts(index, [foreign], leaf=expected.leaf)
    size = HEADER_SIZE + header.ciphertext_size
    if expected.size is not None and expected.size != size:
        what = f"chunk {index} had {size} bytes, the catalog says {expected.size}"
        found.add(Verdict.SIZE_MISMATCH, what, index)
    if header.missing:
        span = f"between {header.first_seq} and {header.next_seq - 1}"
        found.add(Verdict.GAP, f"{header.missing} records {span} never arrived", index)
    return ChunkFacts(index, found.findings, header, expected.leaf, size)


def _parse(task: ChunkTask, data: bytes, leaf: bytes, found: Found) -> Chunk | None:
    """Size, header, place and leaf; the chunk if it is the one that belongs here."""
    index = task.index
    expected = task.expected
    if expected and expected.size is not None and expected.size != len(data):
        what = f"chunk {index} has {len(data)} bytes, the catalog says {expected.size}"
        found.add(Verdict.SIZE_MISMATCH, what, index)
    try:
        chunk = read_chunk(data, leaf)
    except UnknownVersion as error:
        found.add(Verdict.UNKNOWN_VERSION, error.what, index)
        return None
    except Truncated as error:
        found.add(Verdict.TRUNCATED, error.what, index)
        return None
    except FormatError as error:
        found.add(Verdict.MALFORMED_CHUNK, error.what, index)
        return None
    header = chunk.header
    if task.session is not None and header.session != task.session:
        what = f"the chunk at place {index} is of session {header.session}"
        found.add(Verdict.FOREIGN_CHUNK, what, index)
        return None
    if header.index != index:
        found.add(Verdict.SWAPPED_CHUNK, f"at place {index} is chunk {header.index}", index)
        return None
    if expected and expected.leaf != leaf:
        what = f"chunk {index} has leaf {leaf.hex()}, listed is {expected.leaf.hex()}"
        found.add(Verdict.LEAF_MISMATCH, what, index)
    if header.missing:
        span = f"between {header.first_seq} and {header.next_seq - 1}"
        found.add(Verdict.GAP, f"{header.missing} records {span} never arrived", index)
    return chunk


def _check_content(task: ChunkTask, chunk: Chunk, key: DataKey, found: Found) -> Content | None:
    index = task.index
    try:
        records = unseal(chunk, key)
    except WrongKey as error:
        found.add(Verdict.WRONG_KEY, error.what, index)
    except Undecryptable as error:
        found.add(Verdict.UNDECRYPTABLE, error.what, index)
    except FormatError as error:
        found.add(Verdict.MALFORMED_CHUNK, error.what, index)
    else:
        return _Reading(task, chunk.header, key, found).read(records)
    return None


class _Reading:
    """Walks the records of one chunk with the chain before each."""

    def __init__(self, task: ChunkTask, header: ChunkHeader, key: DataKey, found: Found) -> None:
        self._index, self._recorder = task.index, task.recorder
        self._header, self._key, self._found = header, key, found
        self._content = Content()

    def read(self, records: Sequence[FrameRecord]) -> Content:
        chain = self._header.chain_before
        self._check_frame_of_session(records)
        for record in records:
            if record.kind is Kind.MISSING:
                count, chain = read_missing(record)
                self._note_missing(record.seq, count)
                continue
            self._content.counts[record.kind.label] += 1
            if record.kind in _CONTROLS:
                self._control(record, chain)
            if record.kind not in OUTSIDE_SEQUENCE:
                chain = chain_next(chain, self._key.chain, record)
        return self._content

    def _check_frame_of_session(self, records: Sequence[FrameRecord]) -> None:
        """`open` first and once, the end last and once."""
        for place, record in enumerate(records):
            opens = self._header.index == 0 and place == 0
            if (record.kind is Kind.OPEN) is not opens:
                self._malformed(f"record {record.seq} is {record.kind.label}, out of its place")
            ends = self._header.last and place == len(records) - 1
            if (record.kind in _ENDS) is not ends:
                what = f"record {record.seq} is {record.kind.label}"
                where = "the last of its session" if ends else "not the last of its session"
                self._found.add(Verdict.MISPLACED_END, f"{what} and {where}", self._index)

    def _note_missing(self, seq: int, count: int) -> None:
        # The chain is set here, not computed: later commitments say nothing of what is before.
        if self._content.covered is None or self._content.covered < seq:
            self._content.uncovered.append((self._content.covered, seq))
        self._content.covered = seq + count
        self._content.missing_runs += 1
        if len(self._content.missing_ranges) < MAX_RANGES:
            self._content.missing_ranges.append(Missing(first_seq=seq, count=count))

    def _control(self, record: FrameRecord, chain: bytes) -> None:
        content = self._content
        try:
            control = decode(_CONTROLS[record.kind], record.payload)
        except FormatError as error:
            self._malformed(f"record {record.seq}, {record.kind.label}: {error.what}")
            content.readable = False
            content.interruptions_total += record.kind is Kind.GAP
            return
        if isinstance(control, Open):
            content.opened = content.opened or control
            self._recorder = self._recorder or Verifier.parse(control.recorder)
        elif isinstance(control, Gap):
            self._note_interruption(record.seq, control)
        elif isinstance(control, Keepalive):
            self._commitment(record, chain, control.note, "")
        elif isinstance(control, Close):
            content.ending = control
            self._commitment(record, chain, control.note, control.reason)
        elif isinstance(control, Abandon):
            content.ending = control

    def _note_interruption(self, seq: int, gap: Gap) -> None:
        self._content.interruptions_total += 1
        if len(self._content.interruptions) < MAX_INTERRUPTIONS:
            self._content.interruptions.append(
                Interruption(
                    seq=seq, from_time=gap.from_time, to_time=gap.to_time, reason=gap.reason
                )
            )

    def _commitment(self, record: FrameRecord, chain: bytes, note: str, closed: str) -> None:
        if self._recorder is None:
            return
        commitment = read_commitment(note, self._recorder, self._found, self._index)
        if commitment is None:
            return
        stored = Commitment(record.session, record.seq, chain, closed)
        if commitment != stored:
            what = f"the recorder's note in record {record.seq}"
            self._found.add(
                Verdict.COMMITMENT_MISMATCH, f"{what} {differences(commitment, stored)}",
                self._index,
            )  # fmt: skip
            return
        self._content.committed = self._content.covered = record.seq

    def _malformed(self, what: str) -> None:
        self._found.add(Verdict.MALFORMED_RECORD, what, self._index)


def read_commitment(
    note: str, recorder: Verifier, found: Found, chunk: int | None = None
) -> Commitment | None:
    """The commitment that `recorder` signed, or a finding."""
    try:
        return Commitment.parse(open_note(note, recorder))
    except InvalidSignature as error:
        found.add(Verdict.FORGED_COMMITMENT, error.what, chunk)
    except FormatError as error:
        found.add(Verdict.MALFORMED_COMMITMENT, error.what, chunk)
    return None


def differences(signed: Commitment, stored: Commitment) -> str:
    """How a commitment differs from what is stored, for people."""
    parts = []
    if signed.session != stored.session:
        parts.append(f"is of session {signed.session}")
    if signed.records != stored.records:
        parts.append(f"covers {signed.records} records, stored are {stored.records}")
    if signed.chain != stored.chain:
        parts.append("has another chain than the stored records")
    if signed.closed != stored.closed:
        parts.append(f"says closed {signed.closed!r}, stored is {stored.closed!r}")
    return ", ".join(parts)


def _condense(findings: list[Finding]) -> list[Finding]:
    """The first finding of each verdict; the others of a chunk are only counted."""
    counts = Counter(entry.verdict for entry in findings)
    first = {entry.verdict: entry for entry in reversed(findings)}
    return [
        entry
        if counts[verdict] == 1
        else finding(verdict, f"{entry.detail} (and {counts[verdict] - 1} more)", entry.chunk)
        for verdict, entry in reversed(first.items())
    ]
