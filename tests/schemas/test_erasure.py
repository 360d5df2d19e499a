"""An erased session is its own outcome: what is left of it is right, and says who erased it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from schemas.erasure import (
    UNKNOWN,
    Erasure,
    InvalidErasure,
    digest,
    read_erasure,
    read_headers,
    read_leaves,
    sign_erasure,
    write_leaves,
)
from schemas.errors import FormatError
from schemas.notes import Signer
from schemas.verdicts import Area, Report, Severity, Verdict
from schemas.verify import verify
from schemas.verify_documents import Access
from tests.factories import DAY, START, STORAGE, MadeSession, make_session
from tests.memory_source import MemorySource

MADE = make_session(frames=20, seed=31)
OTHER = make_session(frames=20, seed=32)
LAST = len(MADE.chunks) - 1


def access(made: MadeSession = MADE) -> Access:
    return Access(
        trusted=(made.processor.verifier, made.recorder.verifier, STORAGE.verifier),
        identities=(made.auditor_identity.secret,),
        demanded=True,
    )


def erased(made: MadeSession = MADE, stage: str = "content", **changes: object) -> MemorySource:
    source = MemorySource.of(made)
    source.erase(made, stage, **changes)  # type: ignore[arg-type]
    return source


def failed(report: Report) -> set[str]:
    return {one.verdict for one in report.findings if one.severity is Severity.FAILED}


def test_an_erased_session_is_neither_ok_nor_damaged() -> None:
    report = verify(erased(), access())
    assert report.outcome is Severity.ERASED
    assert report.exit_status == 0
    assert [one.verdict for one in report.findings] == [Verdict.ERASED]
    assert "by root on store under the default policy, which keeps it for 30 d" in (
        report.findings[0].detail
    )
    assert report.root == MADE.manifest.root
    assert report.signers
    assert report.recorder == MADE.manifest.recorder
    assert report.totals.chunks_expected == report.totals.chunks_ok == len(MADE.chunks)
    assert (report.totals.chunks_found, report.totals.chunks_decrypted) == (0, 0)
    assert report.totals.sealed_bytes == MADE.manifest.tally.sealed_bytes
    areas = {line.area: line.result for line in report.areas}
    assert areas.pop(Area.CONTENT) == "erased"
    assert set(areas.values()) == {"ok"}
    assert report.erasure is not None
    assert report.erasure.signers == [str(STORAGE.verifier)]
    assert (report.erasure.stage, report.erasure.keep_days) == ("content", 30)


def test_without_metadata_checkpoint_and_leaves_still_prove_what_there_was() -> None:
    report = verify(erased(stage="metadata"), access())
    assert report.outcome is Severity.ERASED
    assert report.exit_status == 0
    assert [one.verdict for one in report.findings] == [Verdict.ERASED, Verdict.ERASED]
    assert report.root == MADE.manifest.root
    assert report.erasure is not None
    assert report.erasure.stage == "metadata"
    assert {one.area for one in report.unchecked} == {Area.MANIFEST, Area.CONTENT}


def test_what_was_incomplete_stays_so_and_the_exit_status_says_it() -> None:
    made = make_session(frames=20, seed=33, gap_at=4)
    report = verify(erased(made), access(made))
    assert report.outcome is Severity.ERASED
    assert report.exit_status == 1
    assert Verdict.INTERRUPTION in {one.verdict for one in report.findings}
    gone = make_session(frames=20, seed=34, drop=[5])
    assert Verdict.GAP in {one.verdict for one in verify(erased(gone), access(gone)).findings}


def test_files_that_merely_vanished_are_missing() -> None:
    source = MemorySource.of(MADE)
    source.chunks, source.wrapped = {}, None
    report = verify(source, access())
    assert report.outcome is Severity.FAILED
    assert report.erasure is None
    assert Verdict.MISSING_FILE in {one.verdict for one in report.findings}


def test_without_a_trusted_key_the_signer_is_unchecked() -> None:
    report = verify(erased(), Access())
    assert report.outcome is Severity.ERASED
    assert "who erased it (signer not pinned)" in {one.what for one in report.unchecked}


def test_content_that_is_still_there_is_told() -> None:
    source = erased()
    source.chunks = {1: MADE.chunks[1].data}
    source.wrapped = MADE.wrapped
    report = verify(source, access())
    assert report.exit_status == 1
    still = [one for one in report.findings if one.verdict is Verdict.NOT_ERASED]
    assert {one.chunk for one in still} == {None, 1}
    late = erased(stage="metadata")
    late.manifest_data = MADE.manifest_bytes
    assert "the manifest is still there" in {one.detail for one in verify(late, access()).findings}


def forge(source: MemorySource) -> None:
    assert source.erased is not None
    at = source.erased.content.index(b'"by":"root"') + 6
    content = source.erased.content[:at] + b"toor" + source.erased.content[at + 4 :]
    source.erased = replace(source.erased, content=content)


def other_leaves(source: MemorySource) -> None:
    assert source.erased is not None
    source.erased = replace(source.erased, leaves=write_leaves(OTHER.leaves))


def changed_headers(source: MemorySource) -> None:
    assert source.erased is not None
    assert source.erased.headers is not None
    source.erased = replace(source.erased, headers=source.erased.headers[:-1] + b"\xff")


def no_leaves(source: MemorySource) -> None:
    assert source.erased is not None
    source.erased = replace(source.erased, leaves=None)


def rubbish(source: MemorySource) -> None:
    assert source.erased is not None
    source.erased = replace(source.erased, content=b"\xff")


def other_catalog(source: MemorySource) -> None:
    assert source.listed is not None
    source.listed[0] = source.listed[1]


@pytest.mark.parametrize(
    ("damage", "verdict"),
    [
        (forge, Verdict.FORGED_ERASURE),
        (other_leaves, Verdict.ERASURE_MISMATCH),
        (changed_headers, Verdict.ERASURE_MISMATCH),
        (no_leaves, Verdict.ERASURE_MISMATCH),
        (rubbish, Verdict.MALFORMED_ERASURE),
        (other_catalog, Verdict.CATALOG_MISMATCH),
    ],
)
def test_what_is_left_cannot_be_changed(
    damage: Callable[[MemorySource], None], verdict: Verdict
) -> None:
    source = erased()
    damage(source)
    report = verify(source, access())
    assert verdict in failed(report)
    assert report.outcome is Severity.FAILED


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"signer": Signer("someone.example/storage", b"\x09" * 32)}, Verdict.UNTRUSTED_ERASURE),
        ({"signer": MADE.processor}, Verdict.UNTRUSTED_ERASURE),
        ({"decided": START + 30 * DAY - 1}, Verdict.ERASED_EARLY),
        ({"session": str(OTHER.session)}, Verdict.ERASURE_MISMATCH),
        ({"manifest_hash": "00" * 32}, Verdict.ERASURE_MISMATCH),
        ({"root": None}, Verdict.ERASURE_MISMATCH),
        ({"chunks": 1}, Verdict.ERASURE_MISMATCH),
    ],
)
def test_a_record_that_is_not_right_excuses_nothing(
    changes: dict[str, object], verdict: Verdict
) -> None:
    report = verify(erased(**changes), access())
    assert verdict in failed(report)
    assert report.exit_status == 1


def test_a_record_of_another_stage_is_refused() -> None:
    source = erased(stage="metadata")
    assert source.erased is not None
    assert source.erased.metadata is not None
    source.erased = replace(source.erased, content=source.erased.metadata)
    assert Verdict.MALFORMED_ERASURE in failed(verify(source, access()))


def test_the_first_moment_that_the_policy_allows_is_not_early() -> None:
    assert verify(erased(decided=START + 30 * DAY), access()).outcome is Severity.ERASED


def test_a_storages_key_signs_no_checkpoint() -> None:
    """It is trusted for erasures: the storage operator must not be able to seal."""
    source = MemorySource.of(make_session(frames=4, seed=35, processor=STORAGE))
    report = verify(source, Access(trusted=(STORAGE.verifier,)))
    assert Verdict.UNTRUSTED_SIGNER in failed(report)


def test_a_chunk_that_was_missing_before_is_still_missing() -> None:
    leaves = [MADE.leaves[0], UNKNOWN, *MADE.leaves[2:]]
    source = erased(leaves_hash=digest(write_leaves(leaves)))
    assert source.erased is not None
    source.erased = replace(source.erased, leaves=write_leaves(leaves))
    assert source.listed is not None
    del source.listed[1]
    report = verify(source, access())
    assert {(one.verdict, one.chunk) for one in report.findings} >= {(Verdict.MISSING_CHUNK, 1)}
    assert report.root is None


def test_headers_of_another_session_are_foreign() -> None:
    headers = b"".join(chunk.data[:216] for chunk in OTHER.chunks)
    source = erased(headers_hash=digest(headers))
    assert source.erased is not None
    source.erased = replace(source.erased, headers=headers)
    assert Verdict.FOREIGN_CHUNK in failed(verify(source, access()))


def test_leaves_that_are_no_leaves_are_malformed_though_the_record_names_them() -> None:
    source = erased(leaves_hash=digest(b"x\n"))
    assert source.erased is not None
    source.erased = replace(source.erased, leaves=b"x\n")
    assert Verdict.MALFORMED_ERASURE in failed(verify(source, access()))


def test_the_record_is_read_as_it_was_written() -> None:
    source = erased()
    assert source.erased is not None
    record = read_erasure(source.erased.content)
    assert sign_erasure(record, STORAGE) == source.erased.content
    assert source.erased.leaves is not None
    assert read_leaves(source.erased.leaves) == MADE.leaves
    assert source.erased.headers is not None
    assert list(read_headers(source.erased.headers)) == list(range(len(MADE.chunks)))
    assert read_leaves(b"") == []


@pytest.mark.parametrize("data", [b"", b"\xff", b"a\n\n", STORAGE.sign("lucid/erasure/2\n{}\n")])
def test_other_notes_are_refused(data: bytes | str) -> None:
    note = data.encode() if isinstance(data, str) else data
    with pytest.raises(FormatError):
        read_erasure(note)


def test_leaves_and_headers_are_read_strictly() -> None:
    good = b"".join(chunk.data[:216] for chunk in MADE.chunks)
    for bad in (b"ab", b"ab\n", b"AB" * 32 + b"\n", b"ab" * 32):
        with pytest.raises(InvalidErasure):
            read_leaves(bad)
    for bad in (good[:-1], good + good[:216], b"\0" * 216):
        with pytest.raises(FormatError):
            read_headers(bad)


def test_a_record_has_its_bounds() -> None:
    source = erased()
    assert source.erased is not None
    fields = read_erasure(source.erased.content).model_dump()
    for wrong in ({"keep_days": 0}, {"keep_days": 366}, {"by": ""}, {"stage": "all"}):
        with pytest.raises(ValueError):
            Erasure(**{**fields, **wrong})
