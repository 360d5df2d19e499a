"""What `lucid verify` says of a bundle, in one line and in its exit status."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from agents.auditor.bundle import save_bundle
from agents.cli import app
from tests.factories import PROCESSOR, RECORDER, make_session
from tests.memory_source import MemorySource

MADE = make_session()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "a.lucid"
    save_bundle(MemorySource.of(MADE), path, force=False)
    return path


def headline(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", *args])
    return done.exit_code, done.stdout.splitlines()[0].partition(": ")[2]


def test_what_was_not_checked_is_told_in_the_first_line(bundle: Path, tmp_path: Path) -> None:
    identity = tmp_path / "auditor.age"
    identity.write_text(MADE.auditor_identity.secret)
    identity.chmod(0o600)
    trusted = ["--trust", str(RECORDER.verifier), "--trust", str(PROCESSOR.verifier)]
    assert headline(str(bundle), *trusted, "--identity", str(identity)) == (0, "ok")
    assert headline(str(bundle), *trusted) == (0, "ok, as far as it was checked")
    assert headline(str(bundle)) == (0, "ok, as far as it was checked")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bundle_without_a_chunk_is_written_and_is_no_success(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = MemorySource.of(MADE)

    async def found(*_: object) -> MemorySource:
        return source

    monkeypatch.setenv("LUCID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("agents.auditor.commands.find_session", found)
    audited = SimpleNamespace(written=lambda *_: None)
    monkeypatch.setattr("agents.auditor.commands.Export", lambda *_: audited)
    arguments = ["bundle", str(MADE.session), *(["--json"] if as_json else []), "-o"]
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "whole.lucid")]).exit_code == 0
    del source.chunks[1]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "less.lucid")])
    assert done.exit_code == 1
    assert ('"missing": [\n    1' if as_json else "chunk 1 is not in the store") in done.stdout
    assert (tmp_path / "less.lucid").exists()
