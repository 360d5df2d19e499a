"""Access tokens: JWTs of Ed25519, issued for at most 30 minutes and read strictly.

    issued = issue(settings, subject="ada", roles=[Role.AUDITOR], owners=["*"], projects=["*"])
    verifier = TokenVerifier(settings)
    claims = verifier.verify(token)          raises a TokenRefused
    verifier.jwks()                          the JWK set that others verify with

Whether a token was revoked is asked elsewhere (agents/platform/revocation.py). The format is
docs/formats/token.md. What an error says never holds the token, or anything out of it.

LucidError
└── TokenRefused
    ├── TokenTooLong             over 8,192 characters; nothing of it was read
    ├── TokenMalformed           not three parts of base64url, or not JSON
    ├── TokenAlgorithmRefused    any algorithm but EdDSA, `none` among them
    ├── TokenTypeRefused         another JWT than an access token
    ├── TokenHeaderRefused       `crit`, or another member than alg, kid and typ
    ├── UnknownSigningKey        no key of that id, or none any more
    ├── TokenForged              the signature is not that key's
    ├── TokenClaimsRefused       claims that are missing, unknown, too long, too long-lived
    ├── WrongIssuer
    ├── WrongAudience
    ├── TokenNotYetValid
    ├── TokenExpired
    └── TokenRevoked             (agents/platform/revocation.py)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.exceptions import InvalidAlgorithmError, PyJWTError
from pydantic import ValidationError

from agents.platform.keys import KeyMissing
from agents.platform.settings import Settings
from agents.platform.token_keys import LEEWAY, SigningKeys, keys_folder, signing_key
from schemas.access import MAX_LIFETIME, Claims, ClaimsRefused, Role, read_claims, unique_members
from schemas.errors import LucidError
from schemas.jwks import KID, from_base64url

ALGORITHM = "EdDSA"
TYPE = "at+jwt"
MAX_TOKEN = 8192
HEADER = "Authorization: Bearer "
MAX_REMEMBERED = 1000
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_KID = re.compile(KID)
_HINT = "`lucid token issue` makes a token"


class TokenRefused(LucidError):
    """Somebody showed a token that is not taken."""

    exit_status = 77  # EX_NOPERM of sysexits.h


class TokenTooLong(TokenRefused):
    """A token of more characters than any that is issued."""


class TokenMalformed(TokenRefused):
    """What was shown is not a JWT."""


class TokenFileUnreadable(TokenMalformed):
    """There is no file to read a token from."""

    exit_status = 66  # EX_NOINPUT of sysexits.h


class TokenAlgorithmRefused(TokenRefused):
    """A token that is signed in another way, or not at all."""


class TokenTypeRefused(TokenRefused):
    """A JWT that was made for something else."""


class TokenHeaderRefused(TokenRefused):
    """A header with other members than Lucid knows."""


class UnknownSigningKey(TokenRefused):
    """A token of a key that is not, or no longer, a key of this installation."""


class TokenForged(TokenRefused):
    """A signature that was not made with the key that the token names."""


class TokenClaimsRefused(TokenRefused):
    """Claims that an access token of Lucid never has."""


class WrongIssuer(TokenRefused):
    """A token of somebody else."""


class WrongAudience(TokenRefused):
    """A token for somebody else."""


class TokenNotYetValid(TokenRefused):
    """A token from the future."""


class TokenExpired(TokenRefused):
    """A token whose time is over."""


class IssueRefused(LucidError):
    """No such token is issued: it would live too long, or hold what no token may hold."""

    exit_status = 64  # EX_USAGE of sysexits.h


class TokenFileUnwritable(IssueRefused):
    """The file for a new token cannot be made."""

    exit_status = 73  # EX_CANTCREAT of sysexits.h


# Issuing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token. Whoever has `token` is, until it ends, who it says."""

    token: str = field(repr=False)
    kid: str
    claims: Claims


def issue(
    settings: Settings,
    *,
    subject: str,
    roles: Sequence[Role],
    owners: Sequence[str],
    projects: Sequence[str],
    seconds: int = 900,
    client: str = "lucid",
    now: int | None = None,
) -> Issued:
    """Sign a token that is valid for so many seconds from now on.

    Raises IssueRefused, and KeyProblem without a key that signs.
    """
    when = int(time.time()) if now is None else now
    if not 0 < seconds <= MAX_LIFETIME:
        raise IssueRefused(
            "no token is issued for this long",
            hint=f"Tokens live 1 to {MAX_LIFETIME // 60} minutes",
        )
    kid, key = signing_key(settings)
    try:
        claims = Claims(
            issuer=settings.token_issuer, audience=settings.token_audience, subject=subject,
            client=client, issued=when, not_before=when, expires=when + seconds,
            jti=str(uuid4()), roles=tuple(roles), owners=tuple(owners), projects=tuple(projects),
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise IssueRefused(f"no such token is issued: {place}: {first['msg']}") from error
    token = jwt.encode(
        claims.payload(), key, algorithm=ALGORITHM, headers={"typ": TYPE, "kid": kid}
    )
    if len(token) > MAX_TOKEN:
        raise IssueRefused(
            f"a token of {len(token)} characters is over {MAX_TOKEN}", hint="Shorten its scope"
        )
    return Issued(token, kid, claims)


def header_of(token: str) -> str:
    """The line of a request that carries a token."""
    return HEADER + token


def write_token(path: Path, token: str) -> None:
    """Write a new file that nobody else may read, whole or not; raises TokenFileUnwritable.

    token: or its header line, see `header_of`.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise TokenFileUnwritable(f"{path} exists already", hint="Name another file") from error
    except OSError as error:
        raise TokenFileUnwritable(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise TokenFileUnwritable(f"cannot write {path}: {error.strerror}") from error


def read_token(path: Path) -> str:
    """The token or header line of a file, `-` for standard input; raises TokenMalformed."""
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            text = file.read(len(HEADER) + MAX_TOKEN + 3).strip().decode("ascii")
    except OSError as error:
        raise TokenFileUnreadable(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise TokenMalformed(f"{path} holds no token") from None
    return text.removeprefix(HEADER)


# Verifying ------------------------------------------------------------------------------------


class TokenVerifier:
    """Reads tokens by the keys of the keys folder; sees new and retired keys by itself."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._issuer, self._audience = settings.token_issuer, settings.token_audience
        self._folder = keys_folder(settings)
        self._keys = SigningKeys(self._folder, clock=clock, wall=wall)
        self._wall = wall
        self._jws = jwt.PyJWS(algorithms=[ALGORITHM])
        self._good: OrderedDict[bytes, tuple[str, Ed25519PublicKey, Claims]] = OrderedDict()

    def verify(self, token: str) -> Claims:
        """The claims of a valid token; raises a TokenRefused.

        A signature that was good stays so as long as its key is served; times are checked anew.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        if (known := self._good.get(digest)) is not None and self._keys.find(known[0]) == known[1]:
            self._check(known[2])
            return known[2]
        kid, key, claims = self._read(token)
        self._check(claims)
        self._good[digest] = (kid, key, claims)
        if len(self._good) > MAX_REMEMBERED:
            self._good.popitem(last=False)
        return claims

    def _read(self, token: str) -> tuple[str, Ed25519PublicKey, Claims]:
        kid = self._key_id(_read_header(token))
        key = self._keys.find(kid)
        if key is None:
            raise UnknownSigningKey("the token's key is none of this installation's", hint=_HINT)
        try:
            payload = self._jws.decode(token, key, algorithms=[ALGORITHM])
        except InvalidAlgorithmError:
            raise TokenAlgorithmRefused("the token is not signed with EdDSA") from None
        except (PyJWTError, ValueError):
            raise TokenForged("the token's signature is not its key's") from None
        try:
            claims = read_claims(payload)
        except ClaimsRefused as error:
            raise TokenClaimsRefused(f"the token's claims are refused: {error.what}") from None
        return kid, key, claims

    @staticmethod
    def _key_id(header: dict[str, Any]) -> str:
        if header.get("alg") != ALGORITHM:
            raise TokenAlgorithmRefused("the token is not signed with EdDSA")
        if "typ" in header and header["typ"] != TYPE:
            raise TokenTypeRefused(f"the token is not of type {TYPE}")
        if header.keys() != {"alg", "kid", "typ"}:
            raise TokenHeaderRefused("the token's header has other members than alg, kid and typ")
        if not isinstance(header["kid"], str) or not _KID.fullmatch(header["kid"]):
            raise TokenHeaderRefused("the token's kid is no key id")
        return header["kid"]

    def _check(self, claims: Claims) -> None:
        now = self._wall()
        if claims.issuer != self._issuer:
            raise WrongIssuer("the token is not of this installation's issuer")
        if claims.audience != self._audience:
            raise WrongAudience("the token is for another audience")
        if max(claims.issued, claims.not_before) > now + LEEWAY:
            raise TokenNotYetValid("the token is not valid yet", hint="Compare the clocks")
        if claims.expires <= now - LEEWAY:
            raise TokenExpired("the token has expired", hint=_HINT)

    def jwks(self) -> dict[str, Any]:
        """The JWK set (RFC 7517) of the keys that tokens may be signed with."""
        return self._keys.served()

    async def healthy(self) -> None:
        """Raise KeyMissing when there is no key to verify with."""
        if not self.jwks()["keys"]:
            raise KeyMissing(
                f"there is no key in {self._folder} that verifies tokens",
                hint="`lucid token keys rotate` makes one, or copy the .pub.jwk files there",
            )


def _read_header(token: str) -> dict[str, Any]:
    """The header, unverified: it only says which checks to make. Raises TokenMalformed."""
    if len(token) > MAX_TOKEN:
        raise TokenTooLong(f"the token has more than {MAX_TOKEN} characters")
    if not _COMPACT.fullmatch(token):
        raise TokenMalformed("the token is not three parts of base64url")
    try:
        text = from_base64url(token.partition(".")[0]).decode("utf-8")
        header = json.loads(text, object_pairs_hook=unique_members)
    except (ValueError, RecursionError):
        raise TokenMalformed("the token's header is not JSON with each member once") from None
    if not isinstance(header, dict):
        raise TokenMalformed("the token's header is not a JSON object")
    return header
