"""Sessions that are not whole, or not over, say so; what is there is checked."""

from __future__ import annotations

from dataclasses import replace

from schemas.controls import Open
from schemas.frames import Kind
from schemas.verdicts import Area, Severity, Verdict
from schemas.verify import verify
from schemas.verify_documents import Access
from tests.factories import (
    RECORDER,
    assemble,
    make_session,
)
from tests.schemas.verify_scene import (
    LAST,
    access,
    areas,
    flip,
    found,
    open_source,
    source_of,
    verdicts,
)


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
