"""Each kind of damage has its own verdict, and a sound session has none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.canonical import encode
from schemas.chunks import HEADER_SIZE, Chunk, Position, seal
from schemas.chunks import Compressor as ChunkCompressor
from schemas.controls import Close, Keepalive, Open
from schemas.datakey import derive, wrap
from schemas.frames import FrameRecord, Kind, chain_start
from schemas.manifests import checkpoint_of, wrapped_key_text
from schemas.merkle import leaf_hash, root
from schemas.notes import Signer
from schemas.verdicts import Area, Report, Severity, Verdict
from schemas.verify import SessionCheck, verify
from schemas.verify_chunk import MAX_CHUNK, Expected, check_chunk
from schemas.verify_documents import Access
from tests.factories import (
    PROCESSOR,
    RECORDER,
    Identity,
    MadeSession,
    MemorySource,
    Recording,
    assemble,
    make_session,
    seal_all,
    with_manifest,
)

MADE = make_session(frames=20, seed=1)
OTHER = make_session(frames=20, seed=2)
LAST = len(MADE.chunks) - 1


def access(made: MadeSession = MADE) -> Access:
    return Access(
        trusted=(made.processor.verifier, made.recorder.verifier),
        identities=(made.auditor_identity.secret,),
        demanded=True,
    )


def source_of(made: MadeSession = MADE) -> MemorySource:
    return MemorySource.of(made)


def found(report: Report) -> set[tuple[str, int | None]]:
    return {(entry.verdict.value, entry.chunk) for entry in report.findings}


def verdicts(report: Report) -> set[str]:
    return {entry.verdict.value for entry in report.findings}


def flip(data: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bit
    return bytes(changed)


def areas(report: Report) -> dict[str, str]:
    return {line.area.value: line.result for line in report.areas}


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


# Documents ------------------------------------------------------------------------------------


def changed_manifest(**changes: object) -> Callable[[MemorySource], None]:
    """A manifest that differs, under the checkpoint of the original."""

    def damage(source: MemorySource) -> None:
        source.manifest_data = encode(MADE.manifest.model_copy(update=changes))

    return damage


def _assign(**fields: object) -> Callable[[MemorySource], None]:
    def damage(source: MemorySource) -> None:
        for name, value in fields.items():
            setattr(source, name, value)

    return damage


def signed(by: Signer, **changes: object) -> bytes:
    checkpoint = replace(checkpoint_of(MADE.manifest), **changes)  # type: ignore[arg-type]
    return by.sign(checkpoint.to_text()).encode()


NOTE = MADE.checkpoint.encode()
STRANGER = Signer("processor.example/two", b"\x09" * 32)
IMPOSTOR = Signer(PROCESSOR.name, b"\x09" * 32)
_SIGNATURE_AT = NOTE.rindex(b" ") + 20
_OTHER_SIGNATURE = bytearray(NOTE)
_OTHER_SIGNATURE[_SIGNATURE_AT] = 0x41 if NOTE[_SIGNATURE_AT] != 0x41 else 0x42

DOCUMENTS: dict[str, tuple[Callable[[MemorySource], None], set[str]]] = {
    "no manifest": (_assign(manifest_data=None), {"MissingManifest"}),
    "no checkpoint": (_assign(note=None), {"MissingCheckpoint"}),
    "a manifest's byte changed": (
        _assign(manifest_data=MADE.manifest_bytes.replace(b'"ada"', b'"bda"')),
        {"ManifestMismatch"},
    ),
    "a manifest that is no JSON": (
        _assign(manifest_data=MADE.manifest_bytes[1:]), {"MalformedManifest", "ManifestMismatch"},
    ),
    "a manifest not in canonical form": (
        _assign(manifest_data=MADE.manifest_bytes + b"\n"),
        {"MalformedManifest", "ManifestMismatch"},
    ),
    "a manifest of another version": (
        _assign(manifest_data=MADE.manifest_bytes.replace(b'"version":1,', b'"version":2,')),
        {"UnknownManifestVersion", "ManifestMismatch"},
    ),
    "a manifest with another recorder that is none": (
        changed_manifest(recorder="nobody"), {"MalformedManifest", "ManifestMismatch"},
    ),
    "another session's manifest": (
        _assign(manifest_data=OTHER.manifest_bytes),
        {"ManifestMismatch", "RootMismatch", "CatalogMismatch", "WrongKey", "KeyMismatch",
         "TallyMismatch", "BrokenChain"},
    ),
    "another session's checkpoint": (
        _assign(note=OTHER.checkpoint.encode()), {"ManifestMismatch", "RootMismatch"},
    ),
    "a checkpoint of another size": (
        _assign(note=signed(PROCESSOR, size=99)), {"ManifestMismatch"},
    ),
    "a checkpoint of another root": (
        _assign(note=signed(PROCESSOR, root=bytes(32))), {"RootMismatch"},
    ),
    "a checkpoint's text changed": (
        _assign(note=NOTE.replace(b"\n5\n", b"\n6\n")), {"InvalidSignature", "ManifestMismatch"},
    ),
    "a checkpoint's signature changed": (
        _assign(note=bytes(_OTHER_SIGNATURE)), {"InvalidSignature"},
    ),
    "a checkpoint that is no note": (_assign(note=b"hello\n"), {"MalformedCheckpoint"}),
    "a checkpoint that is no text": (_assign(note=b"\xff\n\n"), {"MalformedCheckpoint"}),
    "a stranger's checkpoint": (_assign(note=signed(STRANGER)), {"UntrustedSigner"}),
    "an impostor's checkpoint": (_assign(note=signed(IMPOSTOR)), {"UntrustedSigner"}),
    "a checkpoint signed by the recorder": (_assign(note=signed(RECORDER)), {"UntrustedSigner"}),
    "a processor's key that signed nothing": (
        _assign(processor_key=str(STRANGER.verifier)), {"InvalidSignature"},
    ),
    "a processor's key that is none": (_assign(processor_key="nobody"), {"InvalidSignature"}),
    "another recorder's key": (
        _assign(recorder_key=str(STRANGER.verifier)), {"ManifestMismatch"},
    ),
    "a catalog that differs from its files": (
        _assign(differing=["the catalog has another manifest.json"]), {"CatalogMismatch"},
    ),
    "no wrapped key": (_assign(wrapped=None), {"MissingKey"}),
    "a wrapped key's byte changed": (_assign(wrapped=flip(MADE.wrapped, 200)), {"KeyMismatch"}),
    "a wrapped key wrapped anew": (
        _assign(wrapped=wrap(MADE.data_key, [MADE.auditor_identity.recipient])), {"KeyMismatch"},
    ),
    "another data key": (
        _assign(wrapped=wrap(bytes(32), [MADE.auditor_identity.recipient])),
        {"KeyMismatch", "WrongKey"},
    ),
    "a data key of a wrong size": (
        _assign(wrapped=wrap(bytes(31), [MADE.auditor_identity.recipient])),
        {"KeyMismatch", "WrongKey"},
    ),
    "a wrapped key too large": (_assign(wrapped=bytes(70_000)), {"KeyMismatch"}),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCUMENTS)
def test_damage_to_a_document_has_its_own_verdict(case: str) -> None:
    damage, expected = DOCUMENTS[case]
    source = source_of()
    damage(source)
    report = verify(source, access())
    assert verdicts(report) == expected
    assert report.exit_status == 1
    assert len(report.chunks) == len(MADE.chunks)


def test_another_trusted_recorder_signs_no_checkpoints() -> None:
    recorder = Signer("desk/recorder", b"\x08" * 32)
    source = source_of()
    source.note = signed(recorder)
    assert verdicts(verify(source, Access((recorder.verifier,)))) == {
        "UntrustedRecorder",
        "UntrustedSigner",
    }


def test_a_recorder_that_is_none_of_the_trusted_keys_fails() -> None:
    """Otherwise whoever writes to the broker could invent a session of a recorder of their own."""
    report = verify(source_of(), Access((MADE.processor.verifier,)))
    assert verdicts(report) == {"UntrustedRecorder"}
    assert report.exit_status == 1


def test_a_wrong_identity_has_its_own_verdict() -> None:
    report = verify(source_of(), Access(access().trusted, (Identity.new().secret,), True))
    assert verdicts(report) == {"WrongIdentity"}
    assert report.totals.chunks_ok == len(MADE.chunks)


def test_a_lost_key_leaves_the_proof_intact() -> None:
    source = source_of()
    source.wrapped = None
    assert verify(source, access()).outcome is Severity.INCOMPLETE


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"next_seq": 99}, "TallyMismatch"),
        ({"chain": "00" * 32}, "BrokenChain"),
        ({"key_commitment": "00" * 32}, "WrongKey"),
        ({"codec": "screen/1"}, "ManifestMismatch"),
        ({"host": "elsewhere"}, "ManifestMismatch"),
        ({"reason": "another"}, "CommitmentMismatch"),
        ({"closing_note": None}, "MalformedCommitment"),
        ({"closing_note": "no note"}, "MalformedCommitment"),
        ({"closing_note": OTHER.manifest.closing_note}, "CommitmentMismatch"),
        ({"closing_note": STRANGER.sign("lucid/capture/1\n")}, "ForgedCommitment"),
        ({"ended_by": "abandon"}, "CommitmentMismatch"),
        ({"recorder": str(STRANGER.verifier)}, "ForgedCommitment"),
        ({"sealing": MADE.manifest.sealing.model_copy(update={"level": 9})}, "ManifestMismatch"),
        ({"root": "00" * 32}, "RootMismatch"),
        ({"wrapped_key_hash": "00" * 32}, "KeyMismatch"),
        ({"session": str(OTHER.session)}, "ManifestMismatch"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_lie_that_the_processor_signed_is_still_found(
    changes: dict[str, object], verdict: str
) -> None:
    made = with_manifest(MADE, **changes)
    source = source_of(made)
    if verdict == "RootMismatch":
        source.listed = None
    assert verdict in verdicts(verify(source, access()))


TALLY = MADE.manifest.tally


@pytest.mark.parametrize(
    "changes",
    [
        {"first_time": 1}, {"last_time": 1}, {"missing": 3}, {"raw_bytes": 1}, {"sealed_bytes": 1},
        {"counts": {**TALLY.counts, "frames": 1}}, {"missing_runs": 1}, {"interruptions_total": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_every_number_of_the_tally_is_compared(changes: dict[str, object]) -> None:
    made = with_manifest(MADE, tally=TALLY.model_copy(update=changes))
    details = [
        entry.detail
        for entry in verify(source_of(made), access()).findings
        if entry.verdict is Verdict.TALLY_MISMATCH
    ]
    (name,) = changes
    assert any(name in detail for detail in details) or name == "counts"
    assert details


def test_counts_inside_are_compared_only_with_a_key() -> None:
    counts = {**TALLY.counts, "frames": 19, "keepalive": 5}
    made = with_manifest(MADE, tally=TALLY.model_copy(update={"counts": counts}))
    assert verdicts(verify(source_of(made), access())) == {"TallyMismatch"}
    assert verdicts(verify(source_of(made), Access())) == set()


def test_no_byte_of_manifest_or_checkpoint_changes_unnoticed() -> None:
    for at in range(0, len(MADE.manifest_bytes), 7):
        source = source_of()
        source.manifest_data = flip(MADE.manifest_bytes, at)
        assert verify(source, Access()).exit_status == 1, at
    for at in range(len(NOTE)):
        source = source_of()
        source.note = flip(NOTE, at)
        assert verify(source, Access(access().trusted)).exit_status == 1, at


# Which session --------------------------------------------------------------------------------


def test_a_bundle_takes_the_session_that_its_documents_agree_on() -> None:
    source = source_of()
    source.session = None
    assert verify(source, access()).session == str(MADE.session)


@pytest.mark.parametrize("wrong", ["manifest", "checkpoint", "both"])
def test_when_documents_disagree_the_first_chunk_decides(wrong: str) -> None:
    source = source_of()
    source.session = None
    if wrong in ("manifest", "both"):
        source.manifest_data = OTHER.manifest_bytes
    if wrong in ("checkpoint", "both"):
        source.note = make_session(seed=3).checkpoint.encode()
    report = verify(source, access())
    assert report.exit_status == 1
    if wrong != "both":
        assert report.session == str(MADE.session)
        assert not {"ForeignChunk"} & verdicts(report)


def test_without_documents_and_chunks_no_session_is_known() -> None:
    source = source_of()
    source.session = source.manifest_data = source.note = None
    source.chunks, source.listed = {}, None
    report = verify(source, access())
    assert report.session is None
    assert verdicts(report) == {"MissingManifest", "MissingCheckpoint"}
    assert report.root is None


def test_without_documents_the_first_chunk_names_the_session() -> None:
    source = source_of()
    source.session = source.manifest_data = source.note = None
    report = verify(source, access())
    assert report.session == str(MADE.session)
    source.chunks = {0: b"x"}
    assert verify(source, access()).session is None


# Sessions that are not whole, or not over -----------------------------------------------------


def test_lost_records_are_a_gap_and_everything_else_is_intact() -> None:
    made = make_session(frames=20, drop={7, 8, 9, 15}, seed=4)
    report = verify(source_of(made), access(made))
    assert verdicts(report) == {"Gap", "Unsigned"}
    assert report.outcome is Severity.INCOMPLETE
    assert report.exit_status == 1
    assert report.totals.missing == 4
    assert report.totals.chunks_ok == len(made.chunks)
    assert areas(report)["completeness"] == "incomplete"
    assert verdicts(verify(source_of(made), Access())) == {"Gap"}


def test_records_forged_before_a_missing_one_are_named_as_unsigned() -> None:
    honest = make_session(frames=30)
    opened = Open.model_validate_json(honest.records[0].payload)
    forged = [
        replace(record, kind=Kind.FRAMES, payload=b"forged") if 0 < record.seq < 20 else record
        for record in honest.records
    ]
    made = assemble(forged, opened, honest.data_key, drop={20})
    made = replace(made, auditor_identity=honest.auditor_identity)
    report = verify(source_of(made), access(made))
    assert verdicts(report) == {"Gap", "Unsigned"}
    assert areas(report)["recorder"] == "incomplete"
    assert any("records 0 to 19," in finding.detail for finding in report.findings)


def test_records_that_are_signed_before_the_gap_are_not_named() -> None:
    made = make_session(frames=30, keepalive_every=5, drop={14, 20})
    signed = [record.seq for record in made.records if record.kind is Kind.KEEPALIVE]
    report = verify(source_of(made), access(made))
    assert signed[:3] == [6, 12, 18]
    detail = next(one.detail for one in report.findings if one.verdict is Verdict.UNSIGNED)
    assert detail.startswith("records 12 to 13 and 1 more runs,")


def test_an_interruption_is_told_by_its_length() -> None:
    made = make_session(gap_at=9, seed=5)
    report = verify(source_of(made), access(made))
    assert verdicts(report) == {"Interruption"}
    assert "3.000 s" in report.findings[0].detail
    assert report.outcome is Severity.INCOMPLETE


def test_an_abandoned_session_names_what_nobody_signed() -> None:
    made = make_session(frames=13, end="abandon", seed=6)
    report = verify(source_of(made), access(made))
    assert verdicts(report) == {"Abandoned"}
    assert report.outcome is Severity.INCOMPLETE
    committed = max(record.seq for record in made.records if record.kind is Kind.KEEPALIVE)
    assert report.committed == committed
    assert [entry.what for entry in report.unchecked] == [
        f"records {committed} to {made.manifest.next_seq - 1}"
    ]


def open_source(chunks: int, made: MadeSession = MADE) -> MemorySource:
    source = source_of(made)
    source.manifest_data = source.note = None
    source.ended = False
    source.chunks = {i: data for i, data in source.chunks.items() if i < chunks}
    assert source.listed is not None
    source.listed = {i: entry for i, entry in source.listed.items() if i < chunks}
    return source


def test_a_session_that_has_not_ended_is_checked_as_far_as_it_goes() -> None:
    report = verify(open_source(3), access())
    assert verdicts(report) == {"StillOpen"}
    assert report.outcome is Severity.INCOMPLETE
    assert not report.ended
    assert report.totals.chunks_decrypted == 3
    assert report.recorder == str(RECORDER.verifier)
    assert report.committed is not None
    assert {Area.MANIFEST, Area.CHECKPOINT, Area.TREE} <= {e.area for e in report.unchecked}


def test_a_session_without_chunks_yet_is_open() -> None:
    assert verdicts(verify(open_source(0), access())) == {"StillOpen"}


def test_damage_in_an_open_session_is_found() -> None:
    source = open_source(3)
    source.chunks[1] = flip(source.chunks[1], -1)
    del source.chunks[0]
    expected = {("StillOpen", None), ("MissingFile", 0), ("LeafMismatch", 1), ("Undecryptable", 1)}
    assert found(verify(source, access())) == expected


def test_the_interruptions_of_an_open_session_come_from_its_records() -> None:
    made = make_session(gap_at=3, seed=8)
    assert verdicts(verify(open_source(2, made), access(made))) == {"StillOpen", "Interruption"}


def test_after_the_last_chunk_a_manifest_is_due() -> None:
    assert verdicts(verify(open_source(LAST + 1), access())) == {"MissingManifest"}


def test_deleting_the_documents_does_not_reopen_a_session_that_has_ended() -> None:
    source = open_source(3)
    source.ended = True
    report = verify(source, access())
    assert {"MissingManifest", "MissingCheckpoint", "MisplacedEnd"} == verdicts(report)


# Order and content, as only a holder of the key could forge them -------------------------------


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
