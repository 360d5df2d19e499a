"""Keys that sign tokens: made, rotated and retired, seen by verifiers without a restart."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from agents.platform.keys import KeyMissing, KeyPermissions, KeyUnreadable
from agents.platform.settings import Settings
from agents.platform.token_keys import (
    LAST_TOKENS,
    LOOK_AGAIN_EVERY,
    LOOK_EVERY,
    KeyInUse,
    SigningKeys,
    keys_folder,
    list_keys,
    retire,
    rotate,
    signing_key,
)
from schemas.jwks import InvalidJwk, PublicJwk, from_base64url, read_jwk, thumbprint

NOW = 1_700_000_000


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(home=tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    # RFC 8037, appendix A.3.
    public = from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    assert thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_files_are_private_and_named_by_the_key(settings: Settings) -> None:
    kid = rotate(settings, now=NOW).kid
    folder = keys_folder(settings)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.keys_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{kid}.jwk").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / f"{kid}.pub.jwk").stat().st_mode) == 0o644
    public = json.loads((folder / f"{kid}.pub.jwk").read_text())
    assert public.keys() == {"kty", "crv", "x", "kid", "use", "alg", "iat"}
    assert signing_key(settings)[0] == kid


def test_a_rotation_leaves_one_key_that_signs(settings: Settings) -> None:
    first, second = rotate(settings, now=NOW).kid, rotate(settings, now=NOW + 5).kid
    found = {key.kid: key for key in list_keys(settings)}
    assert (found[first].signs, found[second].signs) == (False, True)
    assert found[first].until == NOW + 5 + LAST_TOKENS
    assert found[second].until is None
    assert signing_key(settings)[0] == second
    assert [path.name for path in keys_folder(settings).glob("*.jwk")
            if not path.name.endswith(".pub.jwk")] == [f"{second}.jwk"]  # fmt: skip
    rotate(settings, now=NOW + 60)
    assert {key.kid: key.until for key in list_keys(settings)}[first] == NOW + 5 + LAST_TOKENS


def test_a_rotation_leaves_the_keys_of_other_hosts_alone(
    settings: Settings, tmp_path: Path
) -> None:
    other = Settings.load(home=tmp_path / "other")
    theirs = rotate(other, now=NOW).kid
    ours = rotate(settings, now=NOW).kid
    name = f"{theirs}.pub.jwk"
    (keys_folder(settings) / name).write_text((keys_folder(other) / name).read_text())
    rotate(settings, now=NOW + 5)
    found = {key.kid: key.until for key in list_keys(settings)}
    assert found[theirs] is None
    assert found[ours] == NOW + 5 + LAST_TOKENS


def test_a_key_is_retired_once_its_tokens_have_ended(settings: Settings) -> None:
    first = rotate(settings, now=NOW).kid
    with pytest.raises(KeyInUse, match="signs tokens"):
        retire(settings, first, now=NOW)
    rotate(settings, now=NOW)
    with pytest.raises(KeyInUse, match="may be valid for 1 s"):
        retire(settings, first, now=NOW + LAST_TOKENS - 1)
    retire(settings, first, now=NOW + LAST_TOKENS)
    assert first not in {key.kid for key in list_keys(settings)}
    with pytest.raises(KeyMissing, match="lucid token keys list"):
        retire(settings, first)


def test_a_public_key_of_another_host_is_in_use_as_long_as_nobody_says_otherwise(
    settings: Settings,
) -> None:
    kid = rotate(settings, now=NOW).kid
    (keys_folder(settings) / f"{kid}.jwk").unlink()
    with pytest.raises(KeyInUse, match="may be valid"):
        retire(settings, kid)
    retire(settings, kid, force=True)
    assert list_keys(settings) == []


def test_a_key_in_wrong_hands_goes_at_once(settings: Settings) -> None:
    kid = rotate(settings).kid
    retire(settings, kid, force=True)
    assert list_keys(settings) == []
    with pytest.raises(KeyMissing, match="rotate"):
        signing_key(settings)


def test_a_private_file_that_others_may_read_is_refused(settings: Settings) -> None:
    kid = rotate(settings).kid
    (keys_folder(settings) / f"{kid}.jwk").chmod(0o640)
    with pytest.raises(KeyPermissions, match="chmod 600"):
        signing_key(settings)


def test_a_damaged_private_file_is_told_without_quoting_it(settings: Settings) -> None:
    kid = rotate(settings).kid
    path = keys_folder(settings) / f"{kid}.jwk"
    good = json.loads(path.read_text())
    other = "A" * 43
    for changes in ({"d": other}, {"x": other}, {"kid": other}, {"d": "x"}, {"more": 1}, None):
        path.write_text(json.dumps({**good, **changes}) if changes else "nonsense " + good["d"])
        with pytest.raises(KeyUnreadable) as caught:
            signing_key(settings)
        assert str(path.parent) in str(caught.value)
        assert good["d"] not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(settings: Settings) -> None:
    settings.keys_dir.mkdir()
    (settings.keys_dir / "tokens").write_text("a file")
    with pytest.raises(KeyUnreadable, match="tokens"):
        rotate(settings)
    with pytest.raises(KeyUnreadable, match="tokens"):
        list_keys(settings)
    assert SigningKeys(keys_folder(settings)).served() == {"keys": []}


@pytest.mark.parametrize("change", [{"crv": "Ed448"}, {"kty": "RSA"}, {"alg": "HS256"},
                                    {"kid": "A" * 43}, {"x": "AAAA"}, {"exp": -1}])  # fmt: skip
def test_another_kind_of_key_is_refused(settings: Settings, change: dict[str, object]) -> None:
    kid = rotate(settings).kid
    good = json.loads((keys_folder(settings) / f"{kid}.pub.jwk").read_text())
    with pytest.raises(InvalidJwk):
        read_jwk(PublicJwk, json.dumps({**good, **change}).encode())


# A verifier's view ------------------------------------------------------------------------------


def test_an_unknown_key_is_looked_for_once_a_second(settings: Settings, clock: Clock) -> None:
    keys = SigningKeys(keys_folder(settings), clock=clock)
    first = rotate(settings).kid
    assert keys.find(first) is not None
    second = rotate(settings).kid
    assert keys.find(second) is None
    clock.now += LOOK_AGAIN_EVERY
    assert keys.find(second) is not None
    assert keys.find(first) is not None


def test_a_retired_key_is_forgotten_within_five_seconds(settings: Settings, clock: Clock) -> None:
    keys = SigningKeys(keys_folder(settings), clock=clock)
    kid = rotate(settings).kid
    assert keys.find(kid) is not None
    retire(settings, kid, force=True)
    clock.now += LOOK_EVERY
    assert keys.find(kid) is None


def test_an_old_key_ends_by_itself(settings: Settings, clock: Clock) -> None:
    first, second = rotate(settings, now=NOW).kid, rotate(settings, now=NOW).kid
    wall = Clock()
    keys = SigningKeys(keys_folder(settings), clock=clock, wall=wall)
    wall.now = NOW + LAST_TOKENS - 1
    assert keys.find(first) is not None
    assert {key["kid"] for key in keys.served()["keys"]} == {first, second}
    wall.now = NOW + LAST_TOKENS
    assert keys.find(first) is None
    assert [key["kid"] for key in keys.served()["keys"]] == [second]


def test_a_file_that_is_no_key_does_not_hide_the_others(settings: Settings, clock: Clock) -> None:
    kid = rotate(settings).kid
    folder = keys_folder(settings)
    (folder / "nonsense.pub.jwk").write_text("nonsense")
    (folder / f"{'A' * 43}.pub.jwk").write_text((folder / f"{kid}.pub.jwk").read_text())
    (folder / "a.b.pub.jwk").write_text("")
    keys = SigningKeys(folder, clock=clock)
    served = keys.served()["keys"]
    assert [one["kid"] for one in served] == [kid]
    assert served[0].keys() == {"kty", "crv", "x", "kid", "use", "alg"}
    assert keys.find("A" * 43) is None
