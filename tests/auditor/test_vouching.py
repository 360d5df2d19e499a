"""A film or a list of what was done comes of what trusted keys signed, or says that it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.auditor.bundle import save_bundle
from agents.auditor.reading import DamagedSession, open_session, read_records
from agents.auditor.vouching import NotVerified, vouch
from agents.cli import app
from schemas.notes import Signer
from schemas.verdicts import Report
from schemas.verify_documents import Access
from tests.factories import PROCESSOR, RECORDER, make_session
from tests.memory_source import MemorySource
from tests.vectors.make_activity import screen_payloads

PAYLOADS = [payload for _, payload in screen_payloads()]
MADE = make_session(codec="screen/2", payloads=PAYLOADS, per_chunk=4)
FORGED = make_session(
    codec="screen/2", payloads=PAYLOADS, per_chunk=4, seed=5,
    signer=Signer("desk-1.example/recorder", b"\x77" * 32),
    processor=Signer("lucid.example/processor", b"\x78" * 32),
)  # fmt: skip
TRUST = ("--trust", str(RECORDER.verifier), "--trust", str(PROCESSOR.verifier))
TRUSTED = Access((RECORDER.verifier, PROCESSOR.verifier), (MADE.auditor_identity.secret,))


class Place:
    """A folder with a bundle and what opens it; runs both commands on it."""

    def __init__(self, folder: Path, made: Any, source: MemorySource | None = None) -> None:
        self.folder, self.bundle = folder, folder / "a.lucid"
        self.identity = folder / "auditor.age"
        self.identity.write_text(made.auditor_identity.secret)
        self.identity.chmod(0o600)
        save_bundle(source or MemorySource.of(made), self.bundle, force=False)

    def run(self, command: str, *more: str) -> Any:
        """The finished command; `export` would write film.mp4."""
        film = [str(self.folder / "film.mp4")] if command == "export" else []
        return CliRunner().invoke(
            app, [command, str(self.bundle), *film, "--identity", str(self.identity), *more]
        )

    @property
    def film(self) -> bool:
        return (self.folder / "film.mp4").exists()


@pytest.mark.parametrize("command", ["export", "activity"])
def test_a_forged_bundle_gives_nothing_under_the_keys_that_are_trusted(
    command: str, tmp_path: Path
) -> None:
    place = Place(tmp_path, FORGED)
    done = place.run(command, *TRUST)
    assert isinstance(done.exception, NotVerified)
    assert done.exception.exit_status == 1
    assert "UntrustedSigner" in str(done.exception)
    assert "and 1 more" in str(done.exception)
    assert (done.stdout, place.film) == ("", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lucid", "auditor.age"]


@pytest.mark.parametrize("command", ["export", "activity"])
def test_without_trusted_keys_it_goes_on_and_says_so(command: str, tmp_path: Path) -> None:
    place = Place(tmp_path, FORGED)
    done = place.run(command, "--json")
    assert done.exit_code == 0
    assert done.stderr.count("\n") == 1
    assert "signatures were not checked" in done.stderr
    assert "--trust" in done.stderr
    found = json.loads(done.stdout)["signatures"]
    assert (found["checked"], found["outcome"], found["signers"]) == (False, None, [])
    assert "--trust" in found["why"]


@pytest.mark.parametrize("command", ["export", "activity"])
def test_what_verifies_is_given_out_without_a_warning(command: str, tmp_path: Path) -> None:
    place = Place(tmp_path, MADE)
    done = place.run(command, *TRUST, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["signatures"] == {
        "checked": True, "outcome": "ok", "signers": [str(PROCESSOR.verifier)], "why": None,
    }  # fmt: skip
    assert place.film is (command == "export")


def test_an_unpinned_recorder_or_an_altered_document_is_refused(tmp_path: Path) -> None:
    done = Place(tmp_path, MADE).run("export", *TRUST[2:])
    assert "UntrustedRecorder" in str(done.exception)
    (tmp_path / "other").mkdir()
    source = MemorySource.of(MADE)
    source.manifest_data = MADE.manifest_bytes.replace(b'"ada"', b'"bob"')
    done = Place(tmp_path / "other", MADE, source).run("export", *TRUST)
    assert "ManifestMismatch" in str(done.exception)


def test_what_is_incomplete_and_true_is_given_out(tmp_path: Path) -> None:
    made = make_session(codec="screen/2", payloads=PAYLOADS, per_chunk=4, end="abandon")
    done = Place(tmp_path, made).run("export", *TRUST, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["signatures"]["outcome"] == "incomplete"


def running() -> MemorySource:
    """A session that has not ended: no manifest, no checkpoint, no last chunk."""
    source = MemorySource.of(MADE)
    source.manifest_data = source.note = None
    source.ended = False
    del source.chunks[max(source.chunks)]
    assert source.listed is not None
    source.listed = {index: source.listed[index] for index in source.chunks}
    return source


def test_a_running_session_is_refused_only_to_who_named_keys(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told: list[Report] = []
    session = open_session(running(), TRUSTED.identities)
    given, signatures = vouch(session, TRUSTED, demanded=False, refused=told.append)
    assert "has not ended" in capfd.readouterr().err
    assert (signatures.checked, signatures.outcome) == (False, "incomplete")
    assert list(read_records(given))[-1].seq == MADE.sealed[-2][-1].seq
    assert told == []
    with pytest.raises(NotVerified, match="has not ended"):
        vouch(session, TRUSTED, demanded=True, refused=told.append)
    assert [one.session for one in told] == [str(MADE.session)]


@pytest.mark.parametrize("index", [0, 1])
def test_a_chunk_that_changes_after_the_check_is_not_read(index: int) -> None:
    source = MemorySource.of(MADE)
    session = open_session(source, TRUSTED.identities)
    given, _ = vouch(session, TRUSTED, demanded=True, refused=lambda _: None)
    source.chunks[index] = MADE.chunks[index].data[:-1] + b"\0"
    assert source.chunks[index] != MADE.chunks[index].data
    with pytest.raises(DamagedSession, match=f"chunk {index} changed after it was verified"):
        list(read_records(given))
    with pytest.raises(DamagedSession, match="chunk 0 changed"):
        open_session(MemorySource.of(MADE), TRUSTED.identities, {0: "00" * 32})
