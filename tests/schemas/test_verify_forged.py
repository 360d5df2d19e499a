"""Order and content, as only a holder of the key could forge them, are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from schemas.chunks import HEADER_SIZE, Chunk, Position, seal
from schemas.chunks import Compressor as ChunkCompressor
from schemas.controls import Close, Keepalive, Open
from schemas.datakey import derive, wrap
from schemas.frames import Kind
from schemas.manifests import wrapped_key_text
from schemas.merkle import root
from schemas.verdicts import Report, Severity, Verdict
from schemas.verify import SessionCheck, verify
from schemas.verify_chunk import check_chunk
from schemas.verify_documents import Access
from tests.factories import (
    RECORDER,
    Identity,
    MadeSession,
    Recording,
    assemble,
    make_session,
    seal_all,
    with_manifest,
)
from tests.memory_source import MemorySource
from tests.schemas.verify_scene import (
    LAST,
    MADE,
    STRANGER,
    TALLY,
    access,
    found,
    open_source,
    source_of,
    verdicts,
)


def resealed(chunks: list[Chunk]) -> MadeSession:
    """MADE with other chunks, documented and signed as if they were right."""
    made = replace(MADE, chunks=chunks)
    tally = TALLY.model_copy(
        update={
            "sealed_bytes": sum(len(chunk.data) for chunk in chunks),
            "raw_bytes": sum(chunk.header.raw_size for chunk in chunks),
        }
    )
    return with_manifest(
        made, chunks=len(chunks), root=root([chunk.leaf for chunk in chunks]).hex(), tally=tally
    )


def forge(
    index: int, *, seq: int = 0, chain: bytes | None = None, last: bool = False
) -> MadeSession:
    """One chunk sealed at another position than the one before it left off."""
    header = MADE.chunks[index].header
    start = Position(index, header.first_seq + seq, chain or header.chain_before)
    records = [replace(record, seq=record.seq + seq) for record in MADE.sealed[index]]
    compressor = ChunkCompressor(header.level, header.window_log)
    chunks = list(MADE.chunks)
    chunks[index] = seal(records, start, MADE.key, compressor, last=last)
    return resealed(chunks)


def test_a_chunk_that_does_not_continue_the_sequence_is_found() -> None:
    report = verify(source_of(forge(2, seq=1)), Access())
    assert ("BrokenSequence", 2) in found(report)
    assert ("BrokenSequence", 3) in found(report)


def test_a_chunk_that_does_not_continue_the_chain_is_found() -> None:
    report = verify(source_of(forge(2, chain=bytes(32))), Access())
    assert {("BrokenChain", 2), ("BrokenChain", 3)} <= found(report)


def test_the_first_chunk_starts_the_sequence_and_the_chain() -> None:
    assert ("BrokenSequence", 0) in found(verify(source_of(forge(0, seq=3)), Access()))
    assert ("BrokenChain", 0) in found(verify(source_of(forge(0, chain=bytes(32))), Access()))


def test_an_end_in_the_middle_is_found() -> None:
    report = verify(source_of(forge(1, last=True)), Access())
    assert ("MisplacedEnd", 2) in found(report)


def test_a_session_without_an_end_is_found() -> None:
    made = resealed(MADE.chunks[:-1])
    assert ("MisplacedEnd", LAST - 1) in found(verify(source_of(made), Access()))


def test_a_chunk_under_another_key_is_found() -> None:
    header = MADE.chunks[2].header
    chunk = seal(
        MADE.sealed[2], Position(2, header.first_seq, header.chain_before),
        derive(bytes(32), MADE.session), ChunkCompressor(header.level, header.window_log),
        last=False,
    )  # fmt: skip
    made = resealed([*MADE.chunks[:2], chunk, *MADE.chunks[3:]])
    for reader in (Access(), access()):
        assert ("WrongKey", 2) in found(verify(source_of(made), reader))
    assert ("WrongKey", 2) in found(verify(open_source(3, made), Access()))


def test_a_chunk_that_lies_about_its_content_is_malformed() -> None:
    chunk = MADE.chunks[2]
    header = replace(chunk.header, raw_size=chunk.header.raw_size + 1)
    task = next(task for task in SessionCheck(source_of(), access()).tasks() if task.index == 2)
    lying = _encrypted_under(header.pack(), chunk)
    facts = check_chunk(replace(task, expected=None), lying)
    assert [entry.verdict for entry in facts.findings] == [Verdict.MALFORMED_CHUNK]


def _encrypted_under(header: bytes, chunk: Chunk) -> bytes:
    import nacl.bindings as nacl

    old = chunk.header
    plain = nacl.crypto_aead_xchacha20poly1305_ietf_decrypt(
        chunk.data[HEADER_SIZE:], chunk.data[:HEADER_SIZE], old.nonce, MADE.key.seal
    )
    return header + nacl.crypto_aead_xchacha20poly1305_ietf_encrypt(
        plain, header, old.nonce, MADE.key.seal
    )


def forged(build: Callable[[Recording, Open], None], per_chunk: int = 100) -> Report:
    """The report on a session whose recorder wrote what `build` says."""
    session = MADE.session
    auditor = Identity.new()
    wrapped = wrap(MADE.data_key, [auditor.recipient])
    opened = Open.model_validate_json(MADE.records[0].payload).model_copy(
        update={"key": wrapped_key_text(wrapped), "recipients": [auditor.recipient]}
    )
    recording = Recording(session, MADE.key)
    build(recording, opened)
    made = assemble(
        recording.records, opened, MADE.data_key, per_chunk, identities=(auditor, auditor)
    )
    return verify(source_of(made), access(made))


def _closing(recording: Recording) -> None:
    recording.add(Kind.CLOSE, Close(reason="done", note=recording.note("done")))


def test_an_honest_recording_by_hand_is_ok() -> None:
    def build(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        recording.add(Kind.KEEPALIVE, Keepalive(note=recording.note()))
        _closing(recording)

    assert forged(build).outcome is Severity.OK


def test_a_forged_keepalive_is_found_inside() -> None:
    def build(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        recording.signer = STRANGER
        for _ in range(3):
            recording.add(Kind.KEEPALIVE, Keepalive(note=recording.note()))
        recording.signer = RECORDER
        _closing(recording)

    report = forged(build)
    assert found(report) == {("ForgedCommitment", 0)}
    assert report.findings[0].detail.endswith("(and 2 more)")
    assert report.chunks[0].verdicts == [Verdict.FORGED_COMMITMENT]


@pytest.mark.parametrize("what", ["records", "chain"])
def test_a_keepalive_that_signed_other_records_is_found(what: str) -> None:
    def build(recording: Recording, opened: Open) -> None:
        early = recording.note()
        recording.add(Kind.OPEN, opened)
        note = recording.note()
        if what == "records":
            note = early
        else:
            chain, recording.chain = recording.chain, bytes(32)
            note = recording.note()
            recording.chain = chain
        recording.add(Kind.KEEPALIVE, Keepalive(note=note))
        _closing(recording)

    report = forged(build)
    assert found(report) == {("CommitmentMismatch", 0)}
    assert what in report.findings[0].detail


def test_a_note_that_is_none_is_found() -> None:
    def build(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        recording.add(Kind.KEEPALIVE, Keepalive(note="hello"))
        _closing(recording)

    assert found(forged(build)) == {("MalformedCommitment", 0)}


def test_a_closing_note_over_other_records_is_found() -> None:
    def build(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        note = recording.note("done")
        recording.add(Kind.FRAMES, b"inserted")
        recording.add(Kind.CLOSE, Close(reason="done", note=note))

    assert found(forged(build)) == {("CommitmentMismatch", None), ("CommitmentMismatch", 0)}


def test_a_frame_replaced_after_capture_is_found() -> None:
    def build(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        recording.add(Kind.FRAMES, b"what was seen")
        note = recording.note("done")
        forger = Recording(recording.session, recording.key)
        forger.add(Kind.OPEN, opened)
        forger.add(Kind.FRAMES, b"what was not")
        forger.add(Kind.CLOSE, Close(reason="done", note=note))
        recording.records = forger.records

    report = forged(build)
    assert found(report) == {("CommitmentMismatch", 0)}
    assert report.committed is None


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.PAUSE, b"[]"),
        (Kind.RESUME, b'{"reason": "space"}'),
        (Kind.KEEPALIVE, b"\xff"),
        (Kind.OPEN, MADE.records[0].payload),
    ],
)
def test_control_records_that_no_recorder_writes_are_found(kind: Kind, payload: bytes) -> None:
    def build(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        if kind is not Kind.GAP:
            recording.add(kind, payload)
        _closing(recording)

    assert found(forged(build)) == {("MalformedRecord", 0)}


def test_an_unreadable_gap_is_counted_but_not_compared() -> None:
    made = make_session(gap_at=3, frames=4, seed=11)
    records = made.sealed[0]
    at = next(i for i, record in enumerate(records) if record.kind is Kind.GAP)
    records[at] = replace(records[at], payload=b"{}")
    chunks = seal_all(made.sealed, made.key, made.manifest.sealing)
    report = verify(MemorySource.of(replace(made, chunks=chunks)), access(made))
    assert ("MalformedRecord", 0) in found(report)
    assert not any("interruptions" in entry.detail for entry in report.findings)


def test_records_out_of_their_place_are_found() -> None:
    def no_open(recording: Recording, opened: Open) -> None:
        recording.add(Kind.FRAMES, b"x")
        _closing(recording)

    def early_close(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        _closing(recording)
        recording.add(Kind.FRAMES, b"x")
        _closing(recording)

    def no_close(recording: Recording, opened: Open) -> None:
        recording.add(Kind.OPEN, opened)
        recording.add(Kind.FRAMES, b"x")

    assert ("MalformedRecord", 0) in found(forged(no_open))
    assert ("MisplacedEnd", 0) in found(forged(early_close))
    assert ("MisplacedEnd", 0) in found(forged(no_close))


def test_the_manifest_ends_as_the_last_record_does() -> None:
    made = make_session(frames=3, seed=9, end="abandon")
    lying = with_manifest(made, reason="nothing to see")
    assert "ManifestMismatch" in verdicts(verify(source_of(lying), access(made)))


def test_many_interruptions_are_listed_as_far_as_a_manifest_goes() -> None:
    made = make_session(frames=1, seed=10)
    tally = made.manifest.tally.model_copy(update={"interruptions_total": 7})
    report = verify(source_of(with_manifest(made, tally=tally)), Access())
    assert "7 more interruptions" in [entry.detail for entry in report.findings]
