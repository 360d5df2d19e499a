"""JSON Web Keys of Ed25519 (RFC 7517, 8037), their thumbprints (RFC 7638), sets of them. Pure.

The files are described in docs/formats/token.md, "Signing keys".

FormatError
└── InvalidJwk        not a key of the one form that is used here
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, TypeVar

import rfc8785
from pydantic import AfterValidator, Field, model_validator

from schemas.canonical import Count, Strict, decode_any
from schemas.errors import FormatError

KID = r"[A-Za-z0-9_-]{43}"
"""A thumbprint: 32 bytes in base64url."""


class InvalidJwk(FormatError):
    """Bytes that are no Ed25519 JWK, or one whose `kid` is not its thumbprint."""


def to_base64url(data: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """The bytes of a text in its one canonical spelling; raises ValueError."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if to_base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def _key_bytes(text: str) -> str:
    if len(from_base64url(text)) != 32:
        raise ValueError("is not 32 bytes")
    return text


KeyBytes = Annotated[str, Field(max_length=43), AfterValidator(_key_bytes)]


def thumbprint(public: bytes) -> str:
    """The key id of a raw public key of 32 bytes."""
    known = f'{{"crv":"Ed25519","kty":"OKP","x":"{to_base64url(public)}"}}'
    return to_base64url(hashlib.sha256(known.encode()).digest())


class PublicJwk(Strict):
    """A public key. iat: when it was made; exp: from when on it is not used; in s since 1970."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    x: KeyBytes
    kid: str
    use: Literal["sig"] = "sig"
    alg: Literal["EdDSA"] = "EdDSA"
    iat: Count
    exp: Count | None = None

    @model_validator(mode="after")
    def _named_by_its_thumbprint(self) -> Self:
        if self.kid != thumbprint(self.public_bytes):
            raise ValueError("kid is not the key's thumbprint")
        return self

    @property
    def public_bytes(self) -> bytes:
        return from_base64url(self.x)

    def served(self) -> dict[str, Any]:
        """What a JWK set shows of it: registered members only."""
        return self.model_dump(include={"kty", "crv", "x", "kid", "use", "alg"})


class PrivateJwk(PublicJwk):
    """A key pair; `d` is the seed of RFC 8032."""

    d: KeyBytes = Field(repr=False)

    @property
    def seed(self) -> bytes:
        return from_base64url(self.d)

    def public_part(self) -> PublicJwk:
        return PublicJwk(**self.model_dump(exclude={"d"}))


Jwk = TypeVar("Jwk", bound=PublicJwk)


def read_jwk(model: type[Jwk], data: bytes) -> Jwk:
    """A key file; raises InvalidJwk, which shows nothing of the key."""
    try:
        return decode_any(model, data)
    except FormatError as error:
        raise InvalidJwk(error.what) from None


def write_jwk(key: PublicJwk) -> str:
    """A key file's text: canonical JSON, `exp` only where there is one."""
    return rfc8785.dumps(key.model_dump(exclude_none=True)).decode()


def jwk_set(keys: Iterable[PublicJwk]) -> dict[str, Any]:
    """A JWK set (RFC 7517, section 5), by key id."""
    return {"keys": [key.served() for key in sorted(keys, key=lambda one: one.kid)]}
