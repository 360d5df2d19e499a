"""Damage to stored bytes has its own verdicts, and a sound session has none."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.chunks import Compressor as ChunkCompressor
from schemas.chunks import Position, seal
from schemas.frames import FrameRecord, Kind, chain_start
from schemas.merkle import leaf_hash
from schemas.verdicts import Area, Report, Severity, Verdict
from schemas.verify import SessionCheck, verify
from schemas.verify_chunk import MAX_CHUNK, Expected, check_chunk
from schemas.verify_documents import Access
from tests.factories import PROCESSOR, RECORDER, Identity, make_session, with_manifest
from tests.memory_source import MemorySource
from tests.schemas.verify_scene import (
    LAST,
    MADE,
    OTHER,
    access,
    areas,
    flip,
    found,
    open_source,
    source_of,
)

# Sound sessions -------------------------------------------------------------------------------


def test_a_sound_session_is_ok_in_every_area() -> None:
    report = verify(source_of(), access())
    assert report.findings == []
    assert report.unchecked == []
    assert report.outcome is Severity.OK
    assert report.exit_status == 0
    assert set(areas(report).values()) == {"ok"}
    assert report.root == MADE.manifest.root
    assert report.signers == [str(PROCESSOR.verifier)]
    assert report.recorder == str(RECORDER.verifier)
    assert report.committed == MADE.records[-1].seq
    assert report.ended
    assert report.totals.model_dump() == {
        "chunks_expected": len(MADE.chunks),
        "chunks_found": len(MADE.chunks),
        "chunks_ok": len(MADE.chunks),
        "chunks_decrypted": len(MADE.chunks),
        "records": len(MADE.records),
        "missing": 0,
        "raw_bytes": sum(record.size for record in MADE.records),
        "sealed_bytes": sum(len(chunk.data) for chunk in MADE.chunks),
    }
    assert [row.leaf for row in report.chunks] == [leaf.hex() for leaf in MADE.leaves]
    assert all(row.verdicts == [Verdict.OK] and row.decrypted for row in report.chunks)


@pytest.mark.parametrize("identity", ["processor_identity", "auditor_identity"])
def test_every_recipient_can_read(identity: str) -> None:
    opened = Access(access().trusted, (getattr(MADE, identity).secret,), True)
    assert verify(source_of(), opened).totals.chunks_decrypted == len(MADE.chunks)


def test_without_identity_integrity_is_checked_and_the_rest_is_named() -> None:
    report = verify(source_of(), Access())
    assert report.outcome is Severity.OK
    assert report.totals.chunks_ok == len(MADE.chunks)
    assert report.totals.chunks_decrypted == 0
    assert report.committed is None
    assert {entry.area for entry in report.unchecked} == {
        Area.CHECKPOINT, Area.RECORDER, Area.CONTENT,
    }  # fmt: skip
    assert all(entry.why for entry in report.unchecked)
    assert areas(report)["content"] == "unchecked"
    assert areas(report)["tree"] == "ok"


def test_without_trusted_keys_the_signer_is_unchecked_and_not_passed() -> None:
    report = verify(source_of(), Access(identities=access().identities))
    assert "signer not pinned" in report.unchecked[0].what
    assert areas(report)["checkpoint"] == "unchecked"
    assert report.signers == []


def test_a_key_beside_the_checkpoint_shows_that_the_signature_holds_but_pins_nobody() -> None:
    source = source_of()
    source.processor_key = str(PROCESSOR.verifier)
    report = verify(source, Access())
    assert report.outcome is Severity.OK
    assert "holds, but is not pinned" in report.unchecked[0].why


def test_an_identity_that_was_not_demanded_may_fail_to_open_the_key() -> None:
    report = verify(source_of(), Access(access().trusted, (Identity.new().secret,)))
    assert report.outcome is Severity.OK
    assert areas(report)["content"] == "unchecked"


def test_a_source_without_a_list_is_checked_by_the_root_alone() -> None:
    source = source_of()
    source.listed = None
    assert verify(source, access()).outcome is Severity.OK
    source.chunks[1] = flip(source.chunks[1], -1)
    assert ("RootMismatch", None) in found(verify(source, Access()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frames=st.integers(0, 30), per_chunk=st.integers(1, 9), every=st.integers(1, 7),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_whatever_is_recorded_and_sealed_verifies(
    frames: int, per_chunk: int, every: int, seed: int
) -> None:
    made = make_session(
        frames=frames, per_chunk=per_chunk, keepalive_every=every, seed=seed, payload_size=20
    )
    report = verify(source_of(made), access(made))
    assert report.findings == []
    assert report.unchecked == []


# Damage to stored bytes -----------------------------------------------------------------------


def _set(index: int, data: bytes) -> Callable[[MemorySource], None]:
    return lambda source: source.chunks.__setitem__(index, data)


def _missing_everywhere(source: MemorySource) -> None:
    assert source.listed is not None
    del source.chunks[2], source.listed[2]


def _swap(source: MemorySource) -> None:
    source.chunks[1], source.chunks[2] = source.chunks[2], source.chunks[1]


def _extra_file(source: MemorySource) -> None:
    source.chunks[LAST + 1] = source.chunks[LAST]


def _extra_listed(source: MemorySource) -> None:
    assert source.listed is not None
    source.listed[LAST + 1] = Expected(bytes(32), 500)


def _forged_list(source: MemorySource) -> None:
    assert source.listed is not None
    source.chunks[2] = flip(source.chunks[2], -1)
    source.listed[2] = Expected(leaf_hash(source.chunks[2]), len(source.chunks[2]))


def _changed_list(source: MemorySource) -> None:
    assert source.listed is not None
    source.listed[2] = Expected(bytes(32), len(source.chunks[2]))


def _unlisted(source: MemorySource) -> None:
    assert source.listed is not None
    del source.listed[2]


def _unknown_version() -> bytes:
    data = bytearray(MADE.chunks[1].data)
    data[8:10] = struct.pack(">H", 2)
    return bytes(data)


def _another_place(index: int) -> Callable[[MemorySource], None]:
    return _set(index, MADE.chunks[index - 1].data)


FILES: dict[str, tuple[Callable[[MemorySource], None], set[tuple[str, int | None]]]] = {
    "file gone": (lambda s: s.chunks.__delitem__(1), {("MissingFile", 1)}),
    "file and entry gone": (_missing_everywhere, {("MissingChunk", 2), ("CatalogMismatch", None)}),
    "truncated": (
        _set(1, MADE.chunks[1].data[:-3]), {("Truncated", 1), ("SizeMismatch", 1)},
    ),
    "truncated in its header": (
        _set(1, MADE.chunks[1].data[:100]), {("Truncated", 1), ("SizeMismatch", 1)},
    ),
    "longer": (
        _set(1, MADE.chunks[1].data + b"!"), {("MalformedChunk", 1), ("SizeMismatch", 1)},
    ),
    "empty": (_set(1, b""), {("Truncated", 1), ("SizeMismatch", 1)}),
    "flipped content": (
        _set(1, flip(MADE.chunks[1].data, -1)), {("LeafMismatch", 1), ("Undecryptable", 1)},
    ),
    "flipped time in its header": (
        _set(1, flip(MADE.chunks[1].data, 79)),
        {("LeafMismatch", 1), ("Undecryptable", 1)},
    ),
    "no chunk": (
        _set(1, b"x" * len(MADE.chunks[1].data)), {("MalformedChunk", 1)},
    ),
    "unknown version": (_set(1, _unknown_version()), {("UnknownVersion", 1)}),
    "swapped": (_swap, {("SwappedChunk", 1), ("SwappedChunk", 2)}),
    "foreign": (_set(1, OTHER.chunks[1].data), {("ForeignChunk", 1)}),
    "repeated": (_another_place(2), {("SwappedChunk", 2)}),
    "extra file": (
        _extra_file, {("ExtraChunk", LAST + 1)},
    ),
    "extra entry": (_extra_listed, {("ExtraChunk", LAST + 1)}),
    "file and entry forged together": (
        _forged_list, {("CatalogMismatch", None), ("RootMismatch", None), ("Undecryptable", 2)},
    ),
    "entry changed": (_changed_list, {("CatalogMismatch", None), ("LeafMismatch", 2)}),
    "entry gone": (_unlisted, {("CatalogMismatch", None), ("CatalogMismatch", 2)}),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_damage_to_a_chunk_has_its_own_verdict(case: str) -> None:
    damage, expected = FILES[case]
    source = source_of()
    damage(source)
    report = verify(source, access())
    ignored = {("SizeMismatch", chunk) for chunk in (1, 2)} - expected
    assert found(report) - ignored == expected
    assert report.exit_status == 1
    assert report.outcome is Severity.FAILED
    assert all(entry.advice and entry.detail for entry in report.findings)
    # The manifest tells of nothing missing; that is not shown by chunks that cannot be counted.
    assert areas(report)["completeness"] != "ok"


def test_the_report_goes_on_after_the_first_finding() -> None:
    source = source_of()
    source.chunks[0] = b""
    source.chunks[LAST] = flip(source.chunks[LAST], -1)
    source.note = None
    report = verify(source, access())
    assert {("Truncated", 0), ("LeafMismatch", LAST), ("MissingCheckpoint", None)} <= found(report)
    assert len(report.chunks) == len(MADE.chunks)
    assert report.chunks[1].verdicts == [Verdict.OK]
    assert Area.MANIFEST in {entry.area for entry in report.unchecked}
    (word,) = (entry.why for entry in report.unchecked if entry.area is Area.COMPLETENESS)
    assert word.startswith("it is as the manifest says")
    source.manifest_data = None
    report = verify(source, access())
    (word,) = (entry.why for entry in report.unchecked if entry.area is Area.COMPLETENESS)
    assert word.startswith("no manifest says it")
    assert areas(verify(source_of(), access()))["completeness"] == "ok"


def test_a_run_of_missing_chunks_is_one_finding_however_long() -> None:
    source = source_of(with_manifest(MADE, chunks=2**50))
    report = verify(source, access())
    missing = [entry for entry in report.findings if entry.verdict is Verdict.MISSING_CHUNK]
    assert [(entry.chunk, entry.detail) for entry in missing] == [
        (LAST + 1, f"chunks {LAST + 1} to {2**50 - 1} are missing")
    ]


def test_chunks_may_be_missing_at_both_ends() -> None:
    source = source_of()
    source.listed = None
    del source.chunks[0], source.chunks[LAST]
    assert found(verify(source, access())) == {("MissingChunk", 0), ("MissingChunk", LAST)}


# The report itself ----------------------------------------------------------------------------


def test_every_verdict_says_what_to_do_and_where_it_belongs() -> None:
    for verdict in Verdict:
        assert verdict.area in Area
        assert bool(verdict.advice) is (verdict is not Verdict.OK)
        assert (verdict.severity is Severity.OK) is (verdict is Verdict.OK)


def test_a_report_survives_its_json() -> None:
    source = source_of()
    source.chunks[1] = b""
    report = verify(source, access())
    assert Report.model_validate_json(report.model_dump_json()) == report


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=400), where=st.sampled_from(["chunk", "manifest", "note", "key"]))
def test_any_bytes_anywhere_give_a_report(data: bytes, where: str) -> None:
    source = source_of()
    source.session = None
    if where == "chunk":
        source.chunks[0] = data
    else:
        setattr(
            source, {"manifest": "manifest_data", "note": "note", "key": "wrapped"}[where], data
        )
    assert verify(source, access()).exit_status == 1


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(MADE.chunks[1].data) - 1), change=st.integers(1, 255))
def test_no_changed_byte_of_a_chunk_goes_unnoticed(at: int, change: int) -> None:
    source = source_of()
    source.listed = None
    source.chunks[1] = flip(source.chunks[1], at, change)
    assert verify(source, Access()).exit_status == 1


def test_a_chunk_beyond_all_sizes_is_malformed() -> None:
    source = source_of()
    source.chunks[1] = MADE.chunks[1].data.ljust(MAX_CHUNK + 1, b"\x00")
    assert ("MalformedChunk", 1) in found(verify(source, Access()))


def test_facts_taken_in_parallel_give_the_same_report() -> None:
    check = SessionCheck(source_of(), access())
    assert check.parallel
    assert check.total == len(MADE.chunks)
    tasks = list(check.tasks())
    facts = [check_chunk(task, MADE.chunks[task.index].data) for task in reversed(tasks)]
    for fact in reversed(facts):
        check.take(fact)
    assert check.finish() == verify(source_of(), access())


def test_an_open_session_learns_its_recorder_from_the_first_chunk() -> None:
    check = SessionCheck(open_source(3), access())
    assert not check.parallel
    task = next(check.tasks())
    check.take(check_chunk(task, MADE.chunks[0].data))
    assert check.parallel


def test_chain_start_is_the_sessions_own() -> None:
    record = FrameRecord(OTHER.session, Kind.FRAMES, 0, 1, chain_start(OTHER.session), b"")
    chunk = seal(
        [record], Position(0, 0, chain_start(MADE.session)), OTHER.key, ChunkCompressor(3, 23),
        last=False,
    )  # fmt: skip
    source = open_source(0, OTHER)
    source.chunks = {0: chunk.data}
    source.listed = None
    assert ("BrokenChain", 0) in found(verify(source, Access()))
