"""Tokens: issued for minutes, and every other thing that looks like one is refused by type."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.platform import tokens
from agents.platform.keys import KeyMissing
from agents.platform.settings import Settings
from agents.platform.token_keys import LEEWAY, LOOK_EVERY, keys_folder, retire, rotate, signing_key
from agents.platform.tokens import (
    MAX_TOKEN,
    IssueRefused,
    TokenRefused,
    TokenVerifier,
    write_token,
)
from schemas.access import MAX_LIFETIME, Role
from schemas.jwks import PrivateJwk, read_jwk, write_jwk
from tests.platform.token_scene import NOW, Clock, confused, good, make, part, refused, sign


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings.load(home=tmp_path)
    rotate(found, now=NOW)
    return found


@pytest.fixture
def wall() -> Clock:
    return Clock()


@pytest.fixture
def verifier(settings: Settings, wall: Clock) -> TokenVerifier:
    return TokenVerifier(settings, wall=wall)


# Issued and verified ---------------------------------------------------------------------------


def test_a_token_is_verified_to_what_it_was_issued_for(
    settings: Settings, verifier: TokenVerifier
) -> None:
    issued = make(settings, seconds=MAX_LIFETIME)
    claims = verifier.verify(issued.token)
    assert claims == issued.claims
    assert (claims.subject, claims.roles, claims.owners) == ("ada", (Role.AUDITOR,), ("*",))
    assert claims.expires == NOW + MAX_LIFETIME
    assert issued.token not in repr(issued)
    assert make(settings).claims.jti != issued.claims.jti


def test_another_tool_verifies_with_the_served_keys(
    settings: Settings, verifier: TokenVerifier
) -> None:
    issued = make(settings)
    header = jwt.get_unverified_header(issued.token)
    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": issued.kid}
    key = jwt.PyJWKSet.from_dict(verifier.jwks())[header["kid"]]
    found = jwt.decode(issued.token, key, algorithms=["EdDSA"], audience="lucid-api",
                       issuer="lucid", options={"verify_exp": False})  # fmt: skip
    assert found == issued.claims.payload()


def test_the_example_of_the_page_verifies(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/formats/token.md").read_text().split("## Example")[1]
    key, claims, token = (block.strip() for block in re.findall(r"```\w*\n(.*?)```", page, re.S))
    settings = Settings.load(home=tmp_path)
    pair = read_jwk(PrivateJwk, key.encode())
    folder = keys_folder(settings)
    folder.mkdir(parents=True)
    (folder / f"{pair.kid}.pub.jwk").write_text(write_jwk(pair.public_part()))
    wall = Clock()
    wall.now = json.loads(claims)["iat"]
    found = TokenVerifier(settings, wall=wall).verify(token.replace("\n", ""))
    assert found.payload() == json.loads(claims)
    (folder / f"{pair.kid}.jwk").touch(0o600)
    (folder / f"{pair.kid}.jwk").write_text(key)
    assert signing_key(settings)[0] == pair.kid


@pytest.mark.parametrize("seconds", [0, -1, MAX_LIFETIME + 1])
def test_nothing_is_issued_for_longer_than_half_an_hour(settings: Settings, seconds: int) -> None:
    with pytest.raises(IssueRefused, match="30 minutes"):
        make(settings, seconds=seconds)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"subject": ""}, "sub"),
        ({"roles": []}, "roles"),
        ({"owners": ["*", "ada"]}, "owners"),
        ({"projects": ["a\n"]}, "projects"),
        ({"owners": ["a" * 1000] + [f"{n}{'b' * 990}" for n in range(9)]}, "characters"),
    ],
)
def test_nothing_is_issued_that_would_be_refused(
    settings: Settings, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(IssueRefused, match=what):
        make(settings, **changes)


def test_a_token_is_written_to_a_private_new_file(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_token(path, "abc")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("abc\n", 0o600)
    with pytest.raises(IssueRefused, match="exists"):
        write_token(path, "abc")
    with pytest.raises(IssueRefused, match="cannot write"):
        write_token(tmp_path / "no" / "t", "abc")


async def test_a_verifier_without_keys_is_not_healthy(settings: Settings, tmp_path: Path) -> None:
    await TokenVerifier(settings).healthy()
    with pytest.raises(KeyMissing, match=r"\.pub\.jwk"):
        await TokenVerifier(Settings.load(home=tmp_path / "empty")).healthy()


# Time ------------------------------------------------------------------------------------------


def test_a_token_ends_with_its_leeway(
    settings: Settings, verifier: TokenVerifier, wall: Clock
) -> None:
    token = make(settings, seconds=60).token
    wall.now = NOW + 60 + LEEWAY - 0.1
    verifier.verify(token)
    wall.now = NOW + 60 + LEEWAY
    assert refused(verifier, token) == "TokenExpired"
    wall.now = NOW - LEEWAY
    verifier.verify(token)
    wall.now = NOW - LEEWAY - 0.1
    assert refused(verifier, token) == "TokenNotYetValid"


def test_a_token_that_begins_later_is_not_taken_before(
    settings: Settings, verifier: TokenVerifier
) -> None:
    header, claims = good(settings)
    token = sign(settings, header, {**claims, "nbf": NOW + LEEWAY + 1})
    assert refused(verifier, token) == "TokenNotYetValid"


def test_a_token_that_was_good_ends_with_its_time_and_with_its_key(
    settings: Settings, wall: Clock
) -> None:
    now = Clock()
    verifier = TokenVerifier(settings, wall=wall, clock=now)
    issued = make(settings, seconds=60)
    assert verifier.verify(issued.token) == verifier.verify(issued.token) == issued.claims
    other = issued.token[:-2] + ("AA" if issued.token[-2:] != "AA" else "BA")
    assert refused(verifier, other) == "TokenForged"
    wall.now = NOW + 60 + LEEWAY
    assert refused(verifier, issued.token) == "TokenExpired"
    wall.now = NOW
    verifier.verify(issued.token)
    rotate(settings, now=NOW)
    retire(settings, issued.kid, force=True, now=NOW)
    now.now += LOOK_EVERY
    assert refused(verifier, issued.token) == "UnknownSigningKey"


def test_few_tokens_are_remembered(
    settings: Settings, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_REMEMBERED", 2)
    several = [make(settings).token for _ in range(4)]
    for token in [*several, *several]:
        verifier.verify(token)
    assert len(verifier._good) == 2


# Forgeries -------------------------------------------------------------------------------------


def test_a_changed_bit_anywhere_is_refused(settings: Settings, verifier: TokenVerifier) -> None:
    token = make(settings).token
    for at in range(0, len(token), 7):
        other = "A" if token[at] != "A" else "B"
        refused(verifier, token[:at] + other + token[at + 1 :])


def test_the_signature_of_another_key_is_a_forgery(
    settings: Settings, verifier: TokenVerifier
) -> None:
    header, claims = good(settings)
    text = f"{part(header)}.{part(claims)}"
    stranger = part(Ed25519PrivateKey.generate().sign(text.encode()))
    for signature in (stranger, part(bytes(64)), part(bytes(63)), ""):
        assert refused(verifier, f"{text}.{signature}") == "TokenForged"


def test_parts_of_two_tokens_do_not_fit(settings: Settings, verifier: TokenVerifier) -> None:
    one, two = make(settings).token.split("."), make(settings, subject="bob").token.split(".")
    assert refused(verifier, ".".join([one[0], two[1], one[2]])) == "TokenForged"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_no_shared_secret(
    settings: Settings, verifier: TokenVerifier, algorithm: str
) -> None:
    for token in confused(settings, algorithm, good(settings)[1]):
        assert refused(verifier, token) == "TokenAlgorithmRefused"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "eddsa", "Ed25519", "ES256",
                                       None, 1, ["EdDSA"], {"a": 1}])  # fmt: skip
@pytest.mark.parametrize("signed", [True, False])
def test_no_other_algorithm_is_taken(
    settings: Settings, verifier: TokenVerifier, algorithm: Any, signed: bool
) -> None:
    header, claims = good(settings)
    token = sign(settings, {**header, "alg": algorithm}, claims)
    if not signed:
        token = token[: token.rindex(".") + 1]
    assert refused(verifier, token) == "TokenAlgorithmRefused"


def test_a_token_of_an_rsa_key_is_refused(settings: Settings, verifier: TokenVerifier) -> None:
    header, claims = good(settings)
    private = rsa.generate_private_key(65537, 2048)
    token = jwt.encode(claims, private, algorithm="RS256", headers={**header, "alg": "RS256"})
    assert refused(verifier, token) == "TokenAlgorithmRefused"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "AT+JWT", "application/at+jwt", "", None, 1])
def test_another_type_is_refused(settings: Settings, verifier: TokenVerifier, kind: Any) -> None:
    header, claims = good(settings)
    assert refused(verifier, sign(settings, {**header, "typ": kind}, claims)) == "TokenTypeRefused"


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"jku": "http://127.0.0.1/keys"},
        {"jwk": {"kty": "OKP"}},
        {"x5u": "http://127.0.0.1/"},
        {"cty": "JWT"},
        {"zip": "DEF"},
        {"kid": None},
        {"kid": "../../processor"},
        {"kid": "A" * 43 + "\n"},
        {"kid": ["A" * 43]},
    ],
)
def test_odd_headers_are_refused(
    settings: Settings, verifier: TokenVerifier, more: dict[str, Any]
) -> None:
    header, claims = good(settings)
    assert refused(verifier, sign(settings, {**header, **more}, claims)) == "TokenHeaderRefused"


@pytest.mark.parametrize("name", ["typ", "kid"])
def test_no_header_may_be_left_out(settings: Settings, verifier: TokenVerifier, name: str) -> None:
    header, claims = good(settings)
    del header[name]
    assert refused(verifier, sign(settings, header, claims)) == "TokenHeaderRefused"


@pytest.mark.parametrize("first", ['"alg":"none"', '"typ":"JWT"', '"kid":"x"', '"alg":"EdDSA"'])
def test_a_header_that_says_something_twice_is_refused(
    settings: Settings, verifier: TokenVerifier, first: str
) -> None:
    header, claims = good(settings)
    doubled = f"{{{first},{json.dumps(header)[1:]}".encode()
    assert refused(verifier, sign(settings, doubled, claims)) == "TokenMalformed"


def test_a_claim_that_stands_twice_is_refused(settings: Settings, verifier: TokenVerifier) -> None:
    header, claims = good(settings)
    doubled = b'{"roles":["admin"],' + json.dumps(claims).encode()[1:]
    assert refused(verifier, sign(settings, header, doubled)) == "TokenClaimsRefused"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "other"}, "WrongIssuer"),
        ({"aud": "other"}, "WrongAudience"),
        ({"aud": ["lucid-api"]}, "TokenClaimsRefused"),
        ({"exp": NOW + MAX_LIFETIME + 1}, "TokenClaimsRefused"),
        ({"iat": NOW - 10**6, "nbf": NOW - 10**6}, "TokenClaimsRefused"),
        ({"scope": "all"}, "TokenClaimsRefused"),
        ({"roles": ["root"]}, "TokenClaimsRefused"),
        ({"exp": None}, "TokenClaimsRefused"),
        ({"exp": "never-ending"}, "TokenClaimsRefused"),
    ],
)
def test_claims_of_the_right_key_are_checked_all_the_same(
    settings: Settings, verifier: TokenVerifier, changes: dict[str, Any], code: str
) -> None:
    header, claims = good(settings)
    assert refused(verifier, sign(settings, header, {**claims, **changes})) == code


def test_the_installations_names_are_settings(tmp_path: Path, wall: Clock) -> None:
    settings = Settings.load(home=tmp_path, token_issuer="house", token_audience="api-2")
    rotate(settings, now=NOW)
    token = make(settings).token
    assert TokenVerifier(settings, wall=wall).verify(token).issuer == "house"
    assert refused(TokenVerifier(Settings.load(home=tmp_path), wall=wall), token) == "WrongIssuer"


def test_the_token_of_another_installation_is_refused(tmp_path: Path, wall: Clock) -> None:
    here, there = (Settings.load(home=tmp_path / name) for name in ("here", "there"))
    rotate(here, now=NOW)
    rotate(there, now=NOW)
    token = make(there).token
    assert refused(TokenVerifier(here, wall=wall), token) == "UnknownSigningKey"


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b", "a.b.c.d", "a.b.c.d.e", "a..c", " a.b.c", "a.b.c\n", "ä.b.c", "a=.b.c",
     "e30.e30.", "e30.e30.AA", "bnVsbA.e30.AA", "W10.e30.AA", "_w.e30.AA", "e31.e30.AA",
     part(b"[" * 3000) + ".e30.AA", part(b"{}{}") + ".e30.AA", "e30 .e30.AA", "\x00.\x00.\x00"],
)  # fmt: skip
def test_what_is_no_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    assert refused(verifier, token) in ("TokenMalformed", "TokenAlgorithmRefused")


def test_a_long_token_is_not_read(verifier: TokenVerifier) -> None:
    assert refused(verifier, "a" * (MAX_TOKEN + 1)) == "TokenTooLong"
    assert refused(verifier, "a" * (1 << 20)) == "TokenTooLong"


@given(st.text(max_size=300) | st.from_regex(r"\A[\w-]{1,40}\.[\w-]{1,40}\.[\w-]{0,40}\Z"))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_refused(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(TokenRefused):
        verifier.verify(token)
