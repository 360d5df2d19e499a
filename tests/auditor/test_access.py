"""Which keys a verification uses: those that are named, else those of the keys folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.auditor.access import InvalidTrust, load_access
from agents.platform.keys import KeyProblem
from agents.platform.settings import Settings
from tests.factories import PROCESSOR, RECORDER, Identity


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "one.age"
    path.write_text(Identity.new().secret + "\n")
    path.chmod(0o600)
    return path


def test_what_is_named_is_used(tmp_path: Path, identity: Path) -> None:
    file = tmp_path / "trusted.txt"
    file.write_text(f"{RECORDER.verifier}\n")
    access = load_access([identity], [str(file), str(PROCESSOR.verifier)], None)
    assert list(access.trusted) == [RECORDER.verifier, PROCESSOR.verifier]
    assert [secret.strip() for secret in access.identities] == [identity.read_text().strip()]
    assert access.demanded


def test_nothing_named_and_no_folder_is_no_key(tmp_path: Path) -> None:
    access = load_access([], [], Settings.load(home=tmp_path))
    assert (list(access.trusted), list(access.identities), access.demanded) == ([], [], False)


def test_an_identity_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match=r"none\.age"):
        load_access([tmp_path / "none.age"], [], None)


def test_a_key_that_is_none_is_told_from_a_private_one() -> None:
    with pytest.raises(InvalidTrust, match="neither a verifier key nor a file"):
        load_access([], ["nonsense"], None)
    with pytest.raises(InvalidTrust, match="private key") as caught:
        load_access([], [RECORDER.to_text()], None)
    assert RECORDER.to_text().rpartition("+")[2] not in str(caught.value)


def test_an_identity_given_as_a_trusted_key_is_not_quoted(identity: Path) -> None:
    secret = identity.read_text().strip()
    with pytest.raises(InvalidTrust, match="private key") as caught:
        load_access([], [secret], None)
    assert secret[-20:] not in str(caught.value)
    with pytest.raises(KeyProblem, match="a private key is not a verifier key") as in_file:
        load_access([], [str(identity)], None)
    assert secret[-20:] not in str(in_file.value)
