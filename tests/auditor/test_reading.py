"""Reading a session back: every record once and in order, or the first damage by its chunk."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.auditor.access import load_access
from agents.auditor.bundle import BundleUnreadable, open_bundle, save_bundle
from agents.auditor.reading import (
    DamagedSession,
    NoKey,
    NothingToRead,
    frame_payloads,
    open_session,
    read_records,
)
from agents.platform.verification import run_verification
from schemas.bundle import BundleError
from schemas.datakey import NoIdentity
from schemas.frames import Kind
from tests.factories import Identity, make_session
from tests.memory_source import MemorySource

MADE = make_session(frames=20, per_chunk=6)
OTHER = make_session(frames=20, per_chunk=6, seed=9)
SECRETS = [MADE.auditor_identity.secret]


def test_every_record_once_and_in_order() -> None:
    session = open_session(MemorySource.of(MADE), SECRETS)
    found = list(read_records(session))
    assert [(one.kind, one.seq, one.payload) for one in found] == [
        (one.kind, one.seq, one.payload) for one in MADE.records
    ]
    frames = [(one.time, one.payload) for one in MADE.records if one.kind is Kind.FRAMES]
    assert list(frame_payloads(session)) == frames


def test_an_open_session_is_read_as_far_as_it_goes() -> None:
    source = MemorySource.of(MADE)
    source.manifest_data = None
    last = max(source.chunks)
    del source.chunks[last]
    found = list(read_records(open_session(source, SECRETS)))
    assert found[-1].seq == MADE.sealed[last - 1][-1].seq


def test_without_a_key() -> None:
    source = MemorySource.of(MADE)
    with pytest.raises(NoKey, match="--identity"):
        open_session(source, [])
    with pytest.raises(NoIdentity):
        open_session(source, [Identity.new().secret])
    source.wrapped = None
    with pytest.raises(NoKey, match="wrapped key"):
        open_session(source, SECRETS)
    source.chunks.clear()
    with pytest.raises(NothingToRead, match="lucid verify"):
        open_session(source, SECRETS)


def damaged(source: MemorySource) -> str:
    with pytest.raises(DamagedSession) as caught:
        list(read_records(open_session(source, SECRETS)))
    return str(caught.value)


@pytest.mark.parametrize("index", [0, 2])
def test_damage_names_its_chunk(index: int) -> None:
    source = MemorySource.of(MADE)
    data = MADE.chunks[index].data
    for bad in (data[:-1], data[:50], data + b"x", data[:400] + b"\0\0\0" + data[403:]):
        source.chunks[index] = bad
        assert f"chunk {index}" in damaged(source)


def test_missing_swapped_and_foreign_chunks() -> None:
    source = MemorySource.of(MADE)
    del source.chunks[1]
    assert "chunk 1 is missing" in damaged(source)
    source.chunks[1] = MADE.chunks[2].data
    assert "chunk 1 is not the one that belongs there" in damaged(source)
    source.chunks[1] = OTHER.chunks[1].data
    assert "chunk 1 is not the one that belongs there" in damaged(source)
    source.chunks[0] = OTHER.chunks[0].data
    assert "is of session" in damaged(source)


def test_a_bundle_holds_what_the_store_held(tmp_path: Path) -> None:
    path = tmp_path / "s.lucid"
    written = save_bundle(MemorySource.of(MADE), path, force=False)
    assert (written.chunks, written.size) == (len(MADE.chunks), path.stat().st_size)
    trust = [str(MADE.recorder.verifier), str(MADE.processor.verifier)]
    identity = tmp_path / "a.age"
    identity.write_text(SECRETS[0])
    identity.chmod(0o600)
    with open_bundle(path) as bundle:
        found = list(read_records(open_session(bundle, SECRETS)))
        assert found[-1].payload == MADE.records[-1].payload
        report = run_verification(bundle, load_access([identity], trust, None))
    assert report.exit_status == 0, report.findings


def test_a_bundle_that_is_not_there_or_none(tmp_path: Path) -> None:
    with pytest.raises(BundleUnreadable, match="none") as caught, open_bundle(tmp_path / "none"):
        pass
    assert caught.value.exit_status == 66
    (tmp_path / "text").write_text("not a bundle")
    with pytest.raises(BundleError), open_bundle(tmp_path / "text"):
        pass


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_report_does_not_depend_on_the_number_of_threads(workers: int) -> None:
    source = MemorySource.of(MADE)
    source.chunks[1] = OTHER.chunks[1].data
    access = load_access([], [str(MADE.processor.verifier)], None)
    steps: list[tuple[int, int]] = []
    found = run_verification(source, access, lambda *step: steps.append(step), workers)
    assert found == run_verification(source, access)
    assert steps[-1] == (len(MADE.chunks), len(MADE.chunks))


def test_a_chunk_that_cannot_be_read_is_a_verdict_and_the_others_are_checked() -> None:
    class Failing(MemorySource):
        def chunk(self, index: int) -> bytes | None:
            if index == 1:
                raise OSError(5, "Input/output error")
            return super().chunk(index)

    report = run_verification(Failing.of(MADE), load_access([], [], None))
    assert report.exit_status == 1
    assert [one.chunk for one in report.findings if one.chunk is not None] == [1]
    assert "Input/output error" in report.findings[0].detail
    assert report.totals.chunks_ok == len(MADE.chunks) - 1
