"""Each kind of damage to a document has its own verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from schemas.canonical import encode
from schemas.datakey import wrap
from schemas.manifests import checkpoint_of
from schemas.notes import Signer
from schemas.verdicts import Severity, Verdict
from schemas.verify import verify
from schemas.verify_documents import Access
from tests.factories import PROCESSOR, RECORDER, Identity, make_session, with_manifest
from tests.memory_source import MemorySource
from tests.schemas.verify_scene import (
    MADE,
    OTHER,
    STRANGER,
    TALLY,
    access,
    flip,
    source_of,
    verdicts,
)


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
