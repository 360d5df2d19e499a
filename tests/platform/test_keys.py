"""Identities on disk: made once, private from the first moment, never shown."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.platform.key_commands import app
from agents.platform.keys import (
    KeyMissing,
    KeyPermissions,
    KeyUnreadable,
    init_keys,
    load_identities,
    load_recipients,
    load_signer,
    load_trusted,
    load_verifiers,
    show_keys,
)
from agents.platform.settings import Settings
from schemas.datakey import unwrap, wrap
from schemas.notes import open_note


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(home=tmp_path, host="desk 1")


def test_keys_are_made_once_and_work_together(settings: Settings) -> None:
    first = init_keys(settings)
    assert init_keys(settings) == first
    wrapped = wrap(bytes(32), load_recipients(settings))
    for name in ("processor.age", "auditor.age"):
        assert unwrap(wrapped, load_identities(settings.keys_dir / name)) == bytes(32)
    signer = load_signer(settings, "recorder")
    assert signer.name == "desk-1/recorder"
    assert any(
        verifier.public == signer.verifier.public and open_note(signer.sign("a\n"), verifier)
        for verifier in load_trusted(settings)
        if verifier.name == signer.name
    )


def test_private_files_are_private(settings: Settings) -> None:
    init_keys(settings)
    assert stat.S_IMODE(settings.keys_dir.stat().st_mode) == 0o700
    assert "/node+" not in (settings.keys_dir / "trusted.txt").read_text()
    private = [*settings.keys_dir.glob("*.key"), *settings.keys_dir.glob("*.age")]
    assert len(private) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_a_private_file_that_others_may_read_is_refused(settings: Settings) -> None:
    init_keys(settings)
    path = settings.keys_dir / "recorder.key"
    path.chmod(0o644)
    with pytest.raises(KeyPermissions, match="chmod 600"):
        load_signer(settings, "recorder")


def test_a_missing_key_says_how_to_make_one(settings: Settings) -> None:
    with pytest.raises(KeyMissing, match="lucid keys init"):
        load_signer(settings, "recorder")
    with pytest.raises(KeyMissing):
        show_keys(settings)
    assert load_trusted(settings) == []


@pytest.mark.parametrize("name", ["recorder.key", "processor.age", "recipients.txt"])
@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\xfe", b"age1nonsense\n"])
def test_a_damaged_key_is_told_without_quoting_it(
    name: str, content: bytes, settings: Settings
) -> None:
    init_keys(settings)
    path = settings.keys_dir / name
    path.write_bytes(content)
    loads = {
        "recorder.key": lambda: load_signer(settings, "recorder"),
        "processor.age": lambda: load_identities(path),
        "recipients.txt": lambda: load_recipients(settings),
    }
    with pytest.raises(KeyUnreadable) as caught:
        loads[name]()
    assert str(settings.keys_dir) in str(caught.value)


def test_only_public_parts_are_printed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_HOME", str(settings.home))
    for arguments in (["init"], ["show"], ["show", "--json"], ["init", "recorder", "--json"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0
        assert "recorder" in done.output
        assert "SECRET" not in done.output
        assert "PRIVATE" not in done.output


def test_a_host_makes_only_the_keys_it_needs(settings: Settings) -> None:
    assert {key.role for key in init_keys(settings, ["recorder"])} == {"recorder"}


def test_a_storage_has_a_key_that_signs_and_opens_nothing(settings: Settings) -> None:
    init_keys(settings, ["storage"])
    names = {path.name for path in settings.keys_dir.iterdir()}
    assert names == {"storage.key", "storage.vkey", "trusted.txt"}
    assert load_signer(settings, "storage").name == "desk-1/storage"


def test_a_private_key_given_as_a_public_one_is_not_quoted(settings: Settings) -> None:
    init_keys(settings)
    for name in ("recorder.key", "auditor.age", "token.pem"):
        path = settings.keys_dir / name
        if name == "token.pem":
            path.write_text("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n")
        secret = path.read_text().strip()
        with pytest.raises(KeyUnreadable, match="a private key is not a verifier key") as caught:
            load_verifiers(path)
        assert secret.splitlines()[0][-20:] not in str(caught.value)
        (settings.keys_dir / "recipients.txt").write_text(secret + "\n")
        with pytest.raises(KeyUnreadable, match="a private key is not an age recipient"):
            load_recipients(settings)


def test_a_public_file_given_as_an_identity_is_told_to_hold_none(settings: Settings) -> None:
    init_keys(settings)
    with pytest.raises(KeyUnreadable, match="holds no age X25519 identity"):
        load_identities(settings.keys_dir / "trusted.txt")
    identity = settings.keys_dir / "auditor.age"
    identity.chmod(0o644)
    with pytest.raises(KeyPermissions, match="chmod 600"):
        load_identities(identity)


def test_an_edited_list_without_its_last_line_end_keeps_each_key_a_line(settings: Settings) -> None:
    init_keys(settings, ["recorder"])
    trusted = settings.keys_dir / "trusted.txt"
    trusted.write_text(trusted.read_text().rstrip())
    init_keys(settings, ["processor"])
    assert [one.name.partition("/")[2] for one in load_trusted(settings)] == [
        "recorder",
        "processor",
    ]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyUnreadable, match=r"cannot make the folder .* LUCID_HOME"):
        init_keys(Settings.load(home=tmp_path / "file"))


def test_a_key_that_a_full_disk_did_not_take_is_not_left_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(KeyUnreadable, match=r"cannot write .*recorder\.key: No space left"):
            init_keys(settings)
    assert list(settings.keys_dir.iterdir()) == []
    assert init_keys(settings)


def test_an_empty_key_file_is_named_with_what_to_do(settings: Settings) -> None:
    settings.keys_dir.mkdir()
    (settings.keys_dir / "recorder.key").touch(mode=0o600)
    with pytest.raises(KeyUnreadable, match=r"recorder\.key: .* remove it, then run"):
        init_keys(settings)
