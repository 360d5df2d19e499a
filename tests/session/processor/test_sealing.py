"""From log to chunks: nothing but the records decides what comes out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.session.processor.chunker import Chunker, LateRecord, SessionEnded
from agents.session.processor.holding import HoldingBudget
from agents.session.processor.sealer import open_session
from agents.session.processor.session import Session
from schemas.canonical import encode
from schemas.chunks import Compressor, Sealing, read_chunk, unseal
from schemas.controls import Abandon, Close, Keepalive, Open
from schemas.datakey import derive, wrap
from schemas.frames import FrameRecord, InvalidFrameRecord, Kind, encode_entries, write_entries
from schemas.manifests import Manifest, Missing
from schemas.merkle import leaf_hash, root
from schemas.progress import SessionProgress, read_progress
from schemas.sessions import new_session_id
from tests.factories import RECORDER, START, Identity, Recording, wrapped_key_text

PROCESSOR = Identity.new()
SMALL = Sealing(cut_bytes=4096, cut_us=1_000_000)
Log = list[FrameRecord]


def make_log(frames: int = 40, seed: int = 0, end: str = "close", size: int = 900) -> Log:
    """A session of noisy frames; a cut about every fourth record."""
    noise = random.Random(seed)
    session = new_session_id(START + seed, noise.randbytes(10))
    data_key = noise.randbytes(32)
    recording = Recording(session, derive(data_key, session))
    recording.add(
        Kind.OPEN,
        Open(
            session=str(session), recorder=str(RECORDER.verifier),
            key=wrapped_key_text(wrap(data_key, [PROCESSOR.recipient])),
            recipients=[PROCESSOR.recipient], codec="bytes/1", source={}, host="desk",
            sealing=SMALL,
        ),
    )  # fmt: skip
    for number in range(frames):
        recording.add(Kind.FRAMES, noise.randbytes(noise.randint(0, size)))
        if number % 7 == 6:
            recording.add(Kind.KEEPALIVE, Keepalive(note=recording.note()))
    if end == "close":
        recording.add(Kind.CLOSE, Close(reason="done", note=recording.note("done")))
    elif end == "abandon":
        recording.add(Kind.ABANDON, Abandon(reason="silence", by="test", last_seen=START))
    return recording.records


class Sealed:
    """What sealing a log gave: chunks, progress after each, manifest."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.progress: list[SessionProgress] = []
        self.manifest: Manifest | None = None

    def feed(self, session: Session, records: Sequence[FrameRecord], first: int) -> None:
        for offset, record in enumerate(records, first):
            for cut in session.chunker.add(record, offset):
                chunk, progress, manifest = session.seal(cut)
                self.chunks.append(chunk.data)
                self.progress.append(progress)
                self.manifest = manifest


def seal(records: Sequence[FrameRecord]) -> Sealed:
    sealed = Sealed()
    session = Session(open_session(records[0], 3, 0), [PROCESSOR.secret])
    sealed.feed(session, records, 0)
    return sealed


def test_the_same_log_gives_the_same_bytes_twice_and_all_its_records_back() -> None:
    log = make_log()
    first, second = seal(log), seal(log)
    assert first.chunks == second.chunks
    assert first.manifest == second.manifest
    assert first.manifest is not None
    assert len(first.chunks) == first.manifest.chunks > 5
    found = [record for data in first.chunks for record in opened(log, data)]
    assert [(record.seq, record.payload) for record in found] == [
        (record.seq, record.payload) for record in log
    ]


def opened(log: Log, data: bytes) -> list[FrameRecord]:
    session = Session(open_session(log[0], 3, 0), [PROCESSOR.secret])
    return unseal(read_chunk(data), session.key)


def test_the_manifests_root_is_over_the_chunks_leaves() -> None:
    sealed = seal(make_log())
    assert sealed.manifest is not None
    assert sealed.manifest.root == root([leaf_hash(data) for data in sealed.chunks]).hex()


def test_going_on_from_any_progress_record_gives_the_same_rest() -> None:
    log = make_log()
    whole = seal(log)
    for number, progress in enumerate(whole.progress[:-1]):
        again = Session(read_progress(encode(progress)), [PROCESSOR.secret])
        sealed = Sealed()
        sealed.feed(again, log[progress.offset + 1 :], progress.offset + 1)
        assert sealed.chunks == whole.chunks[number + 1 :]
        assert sealed.manifest == whole.manifest


def test_records_that_come_again_change_nothing() -> None:
    log = make_log()
    doubled = [log[0]]
    for number in range(1, len(log)):
        doubled += [log[number], log[number - 1]] if number % 3 == 0 else [log[number]]
    assert seal(doubled[:-1] if doubled[-1] is not log[-1] else doubled).chunks == seal(log).chunks


def test_interleaved_sessions_give_what_each_gives_alone() -> None:
    logs = [make_log(seed=seed) for seed in range(3)]
    sessions = [Session(open_session(log[0], 3, 0), [PROCESSOR.secret]) for log in logs]
    sealed = [Sealed() for _ in logs]
    order = random.Random(5)
    rest = [list(log) for log in logs]
    offset = 0
    while any(rest):
        number = order.choice([n for n, log in enumerate(rest) if log])
        sealed[number].feed(sessions[number], [rest[number].pop(0)], offset)
        offset += 1
    for log, one in zip(logs, sealed, strict=True):
        assert one.chunks == seal(log).chunks


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=12), st.integers(0, 3))
def test_what_is_lost_is_named_in_chunk_and_manifest(lost: list[int], seed: int) -> None:
    log = make_log(seed=seed)
    kept = [record for record in log if record.seq not in lost]
    sealed = seal(kept)
    assert sealed.manifest is not None
    tally = sealed.manifest.tally
    assert tally.missing == len(set(lost))
    runs = [range(run.first_seq, run.first_seq + run.count) for run in tally.missing_ranges]
    named = {seq for run in runs for seq in run}
    assert named == set(lost)
    assert bool(sealed.manifest.shortcomings()) == bool(lost)
    assert seal(kept).chunks == sealed.chunks


def test_an_abandoned_session_is_whole_but_says_how_it_ended() -> None:
    sealed = seal(make_log(end="abandon"))
    assert sealed.manifest is not None
    assert sealed.manifest.ended_by == "abandon"
    assert sealed.manifest.closing_note is None
    assert sealed.manifest.shortcomings()


def test_memory_pressure_decides_nothing(tmp_path: Path) -> None:
    log = make_log()
    session = Session(open_session(log[0], 3, 0), [PROCESSOR.secret])
    budget = HoldingBudget(0, tmp_path)
    sealed = Sealed()
    for offset, record in enumerate(log):
        sealed.feed(session, [record], offset)
        session.chunker.held.spill(tmp_path, budget._key)
        assert not list(tmp_path.iterdir())
    assert sealed.chunks == seal(log).chunks
    assert sealed.manifest == seal(log).manifest


async def test_the_budget_spills_the_largest_first(tmp_path: Path) -> None:
    log = make_log(end="none", size=600)
    budget = HoldingBudget(6000, tmp_path)
    chunkers = [Chunker(Sealing(cut_bytes=10**6)) for _ in range(2)]
    for chunker, count in zip(chunkers, (12, 3), strict=True):
        budget.watch(chunker)
        for offset, record in enumerate(log[:count]):
            list(chunker.add(record, offset))
            budget.changed(chunker)
    small = chunkers[1].held.memory
    assert budget.memory() == chunkers[0].held.memory + small
    await budget.trim()
    assert budget.memory() == chunkers[0].held.memory + small
    assert budget.memory() < 6000
    assert budget.spilled > 0
    assert chunkers[1].held.memory == small
    assert [record.payload for record in chunkers[0].held.take()] == [
        record.payload for record in log[:12]
    ]


def test_cuts_come_by_bytes_and_by_event_time_only() -> None:
    log = make_log(end="none")
    chunker = Chunker(Sealing(cut_bytes=10**6, cut_us=1_000_000))
    cuts = [cut for offset, record in enumerate(log) for cut in chunker.add(record, offset)]
    # A record comes every 100 ms, so ten of them are one second.
    assert [cut.last_offset - cut.first_offset + 1 for cut in cuts] == [10] * len(cuts)
    by_bytes = Chunker(Sealing(cut_bytes=2048, cut_us=600_000_000))
    for offset, record in enumerate(log):
        for cut in by_bytes.add(record, offset):
            assert cut.raw_size <= 2048


def test_nothing_comes_after_the_end() -> None:
    log = make_log()
    chunker = Chunker(SMALL)
    for offset, record in enumerate(log):
        list(chunker.add(record, offset))
    late = Recording(log[0].session, derive(bytes(32), log[0].session))
    late.records = list(log)
    with pytest.raises(SessionEnded, match=str(log[0].session)):
        list(chunker.add(late.add(Kind.FRAMES, b"late"), len(log)))


def test_an_open_record_that_names_another_session_is_refused() -> None:
    log, other = make_log(), make_log(seed=9)
    wrong = FrameRecord(other[0].session, Kind.OPEN, 0, START, log[0].chain, log[0].payload)
    with pytest.raises(InvalidFrameRecord):
        open_session(wrong, 0, 0)


def test_compressor_used_before_gives_the_same_bytes() -> None:
    """Its buffer still holds the longer plaintext of the chunk before."""
    long, short = make_log(60, seed=1), make_log(3, seed=2)
    used = Compressor(3, 23)
    _compress(used, long)
    packed = _compress(used, short)
    assert packed == _compress(Compressor(3, 23), short)
    assert zstandard.decompress(packed) == encode_entries(short)


def _compress(compressor: Compressor, records: Sequence[FrameRecord]) -> bytes:
    size = sum(record.size for record in records)
    assert write_entries(records, compressor.room(size), 0) == size
    return compressor.compress(size)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 3), st.data())
def test_what_comes_late_is_refused_and_changes_no_cut(
    lost: set[int], seed: int, data: st.DataObject
) -> None:
    log = make_log(seed=seed)
    kept = [record for record in log if record.seq not in lost]
    whole = seal(kept)
    late = sorted(seq for seq in lost if seq < log[-1].seq)
    place = data.draw(st.integers(1, len(kept) - 1))
    session = Session(open_session(log[0], 3, 0), [PROCESSOR.secret])
    sealed = Sealed()
    sealed.feed(session, kept[:place], 0)
    if data.draw(st.booleans()) and sealed.progress:
        # Another member goes on from the last progress: it knows the same runs.
        session = Session(read_progress(encode(sealed.progress[-1])), [PROCESSOR.secret])
        sealed.feed(session, kept[sealed.progress[-1].offset + 1 : place], 0)
    for seq in late:
        if seq < session.chunker.next_seq:
            with pytest.raises(LateRecord, match=f"record {seq} "):
                list(session.chunker.add(log[seq], 900))
    assert session.chunker.duplicates == 0
    list(session.chunker.add(kept[place - 1], 901))
    assert session.chunker.duplicates == 1
    sealed.feed(session, kept[place:], place)
    assert sealed.chunks == whole.chunks
    assert sealed.manifest == whole.manifest


def test_a_late_record_is_known_behind_the_runs_that_are_listed() -> None:
    log = make_log(end="none")
    listed = [Missing(first_seq=2 * n + 1, count=1) for n in range(3)]
    chunker = Chunker(SMALL, 20, listed, runs=5)
    for seq in (1, 3, 5, 6, 12, 19):
        with pytest.raises(LateRecord):
            list(chunker.add(log[seq], 0))
    for seq in (0, 2, 4):
        assert list(chunker.add(log[seq], 0)) == []
    assert chunker.duplicates == 3
