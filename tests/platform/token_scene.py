"""Tokens, good and made up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agents.platform import tokens
from agents.platform.settings import Settings
from agents.platform.token_keys import signing_key
from agents.platform.tokens import (
    TokenRefused,
    TokenVerifier,
    issue,
)
from schemas.access import Role

NOW = 1_700_000_000


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


def make(settings: Settings, **changes: Any) -> tokens.Issued:
    asked: dict[str, Any] = {
        "subject": "ada", "roles": [Role.AUDITOR], "owners": ["*"], "projects": ["north"],
        "now": NOW,
    }  # fmt: skip
    return issue(settings, **{**asked, **changes})


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(settings: Settings, header: Any, claims: Any) -> str:
    """A token as the installation's own key signs it, whatever it says."""
    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(signing_key(settings)[1].sign(text.encode()))}"


def good(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": signing_key(settings)[0]}
    return header, make(settings).claims.payload()


def refused(verifier: TokenVerifier, token: str) -> str:
    """The name of the error, which never shows anything of the token."""
    with pytest.raises(TokenRefused) as caught:
        verifier.verify(token)
    error: BaseException | None = caught.value
    while error is not None:
        for piece in (token, *token.split(".")):
            assert len(piece) < 8 or piece not in f"{error!s} {error!r}"
        error = None if error.__suppress_context__ else error.__context__
    assert caught.value.exit_status == 77
    return caught.value.code


def confused(settings: Settings, algorithm: str, claims: Any) -> list[str]:
    """HMACs under every public text of the key that a careless verifier may take for a secret."""
    kid, private = signing_key(settings)
    public = private.public_key()
    header = {"alg": algorithm, "typ": "at+jwt", "kid": kid}
    text = f"{part(header)}.{part(claims)}"
    secrets = [
        public.public_bytes_raw(),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        b"",
    ]
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    return [f"{text}.{part(hmac.digest(secret, text.encode(), digest))}" for secret in secrets]
