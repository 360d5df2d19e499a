"""The keys that sign access tokens: files of KEYS/tokens, made, listed and taken away.

    KEYS/tokens/KID.jwk            private, mode 0600: the newest one signs
    KEYS/tokens/KID.pub.jwk        public: a verifier needs nothing else

    rotate(settings)               a new key signs from now on, the others only verify
    retire(settings, kid)          a key's files are deleted
    SigningKeys(folder).find(kid)  what a verifier asks; sees changes of the folder by itself

The format is docs/formats/token.md, "Signing keys".

KeyProblem                         (agents/platform/keys.py)
└── KeyInUse                       tokens that a key signed may still be valid
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agents.platform.keys import (
    KeyMissing,
    KeyProblem,
    KeyUnreadable,
    create_key_file,
    read_key_file,
)
from agents.platform.settings import Settings
from agents.platform.stack.locks import file_lock
from schemas.access import MAX_LIFETIME
from schemas.jwks import (
    InvalidJwk,
    Jwk,
    PrivateJwk,
    PublicJwk,
    jwk_set,
    read_jwk,
    thumbprint,
    to_base64url,
    write_jwk,
)

log = structlog.get_logger(__name__)

FOLDER = "tokens"
LEEWAY = 10
"""Seconds by which the clocks of issuer and verifier may differ."""
LAST_TOKENS = MAX_LIFETIME + 2 * LEEWAY
"""Seconds after which the last token of a key that signs no more has surely ended."""
LOOK_EVERY = 5.0
LOOK_AGAIN_EVERY = 1.0
_PRIVATE, _PUBLIC = ".jwk", ".pub.jwk"
_HINT = "`lucid token keys rotate` makes one"


class KeyInUse(KeyProblem):
    """A key that signs, or whose tokens may still be valid."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One line of `lucid token keys list`. until: when it verifies no more, if that is known."""

    kid: str
    made: int
    until: int | None
    signs: bool


def keys_folder(settings: Settings) -> Path:
    return settings.keys_dir / FOLDER


# Files ----------------------------------------------------------------------------------------


def _names(folder: Path, ending: str) -> list[str]:
    """Key ids of the files with an ending; raises KeyUnreadable."""
    try:
        found = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyUnreadable(f"cannot read the folder {folder}: {error}") from error
    names = (name.removesuffix(ending) for name in found if name.endswith(ending))
    return sorted(name for name in names if "." not in name)


def _load(folder: Path, kid: str, model: type[Jwk], *, private: bool) -> Jwk:
    path = folder / f"{kid}{_PRIVATE if private else _PUBLIC}"
    try:
        key = read_jwk(model, read_key_file(path, private=private, hint=_HINT).encode())
    except InvalidJwk as error:
        raise KeyUnreadable(f"{path}: {error}") from None
    if key.kid != kid:
        raise KeyUnreadable(f"{path} holds another key than its name says")
    return key


def _replace(path: Path, text: str) -> None:
    """Write a public file so that it is seen whole, old or new."""
    descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other commands from changing the folder; makes it."""
    try:
        for each in (folder.parent, folder):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(folder / ".lock", wait_seconds=30, waiting=lambda: None):
            yield
    except OSError as error:
        raise KeyUnreadable(f"cannot write to {folder}: {error}") from error


# Changing -------------------------------------------------------------------------------------


def rotate(settings: Settings, *, now: int | None = None) -> TokenKey:
    """Make a key that signs from now on; those that did verify until their last tokens end.

    Public keys of other hosts stay as they are. Verifiers see the new public key before
    anything is signed with it. Raises KeyProblem.
    """
    folder, when = keys_folder(settings), _now(now)
    key = _new_key(when)
    with _alone(folder):
        _replace(folder / f"{key.kid}{_PUBLIC}", write_jwk(key.public_part()))
        create_key_file(folder / f"{key.kid}{_PRIVATE}", lambda: write_jwk(key))
        for kid in _names(folder, _PRIVATE):
            if kid != key.kid:
                _stop_signing(folder, kid, when)
    return TokenKey(key.kid, when, None, True)


def _new_key(now: int) -> PrivateJwk:
    while True:
        pair = Ed25519PrivateKey.generate()
        public = pair.public_key().public_bytes_raw()
        kid = thumbprint(public)
        # A command line would take it for an option.
        if not kid.startswith("-"):
            return PrivateJwk(
                x=to_base64url(public), kid=kid, iat=now, d=to_base64url(pair.private_bytes_raw())
            )


def _stop_signing(folder: Path, kid: str, now: int) -> None:
    public = _load(folder, kid, PublicJwk, private=False)
    if public.exp is None:
        ended = public.model_copy(update={"exp": now + LAST_TOKENS})
        _replace(folder / f"{kid}{_PUBLIC}", write_jwk(ended))
    (folder / f"{kid}{_PRIVATE}").unlink(missing_ok=True)


def retire(settings: Settings, kid: str, *, force: bool = False, now: int | None = None) -> None:
    """Delete a key's files: nothing that it signed is taken any more.

    Raises KeyMissing, and KeyInUse without `force` while tokens of it may be valid.
    """
    folder = keys_folder(settings)
    with _alone(folder):
        if kid not in {*_names(folder, _PUBLIC), *_names(folder, _PRIVATE)}:
            raise KeyMissing(f"there is no token key {kid[:60]!r}", hint="`lucid token keys list`")
        if not force:
            _check_unused(folder, kid, _now(now))
        # The private part first: what nobody verifies any more is not to be signed, either.
        for ending in (_PRIVATE, _PUBLIC):
            (folder / f"{kid}{ending}").unlink(missing_ok=True)


def _check_unused(folder: Path, kid: str, now: int) -> None:
    if (folder / f"{kid}{_PRIVATE}").exists():
        raise KeyInUse(
            f"key {kid} signs tokens", hint="`lucid token keys rotate` first, or give --force"
        )
    ends = _load(folder, kid, PublicJwk, private=False).exp
    if ends is None or ends > now:
        raise KeyInUse(
            f"tokens of key {kid} may be valid"
            + ("" if ends is None else f" for {ends - now} s more"),
            hint="Wait, or give --force to refuse all of them from now on",
        )


def _now(now: int | None) -> int:
    return int(time.time()) if now is None else now


# Reading --------------------------------------------------------------------------------------


def list_keys(settings: Settings) -> list[TokenKey]:
    """All keys, the oldest first; raises KeyProblem for a file that is none."""
    folder = keys_folder(settings)
    private = [_load(folder, kid, PrivateJwk, private=True) for kid in _names(folder, _PRIVATE)]
    public = [_load(folder, kid, PublicJwk, private=False) for kid in _names(folder, _PUBLIC)]
    signs = max(private, key=lambda key: (key.iat, key.kid)).kid if private else ""
    found = [TokenKey(key.kid, key.iat, key.exp, key.kid == signs) for key in public]
    return sorted(found, key=lambda key: (key.made, key.kid))


def signing_key(settings: Settings) -> tuple[str, Ed25519PrivateKey]:
    """The newest private key, and its id; raises KeyProblem."""
    folder = keys_folder(settings)
    found = [_load(folder, kid, PrivateJwk, private=True) for kid in _names(folder, _PRIVATE)]
    if not found:
        raise KeyMissing(f"there is no key in {folder} that signs tokens", hint=_HINT)
    newest = max(found, key=lambda key: (key.iat, key.kid))
    pair = Ed25519PrivateKey.from_private_bytes(newest.seed)
    if pair.public_key().public_bytes_raw() != newest.public_bytes:
        raise KeyUnreadable(f"{folder / newest.kid}{_PRIVATE}: d and x are of two keys")
    return newest.kid, pair


class SigningKeys:
    """The public keys of a folder, as a verifier sees them.

    The folder is looked at again every 5 s, and for an unknown key id, at most once a second.
    A file that is no key is left out, and logged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._clock, self._wall = folder, clock, wall
        self._keys: Mapping[str, tuple[PublicJwk, Ed25519PublicKey]] = {}
        self._looked = float("-inf")

    def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key of that id, unless it is unknown or over."""
        age = self._clock() - self._looked
        if age >= LOOK_EVERY or (kid not in self._keys and age >= LOOK_AGAIN_EVERY):
            self._look()
        found = self._keys.get(kid)
        return found[1] if found is not None and self._counts(found[0]) else None

    def served(self) -> dict[str, Any]:
        """The JWK set of the keys that may still be needed."""
        if self._clock() - self._looked >= LOOK_AGAIN_EVERY:
            self._look()
        return jwk_set(key for key, _ in self._keys.values() if self._counts(key))

    def _counts(self, key: PublicJwk) -> bool:
        return key.exp is None or key.exp > self._wall()

    def _look(self) -> None:
        self._looked = self._clock()
        found = {}
        try:
            names = _names(self._folder, _PUBLIC)
        except KeyUnreadable as error:
            log.error("token keys cannot be read", error=error)
            names = []
        for kid in names:
            try:
                key = _load(self._folder, kid, PublicJwk, private=False)
                found[kid] = key, Ed25519PublicKey.from_public_bytes(key.public_bytes)
            except (KeyProblem, ValueError, UnsupportedAlgorithm) as error:
                log.warning("a token key is left out", file=kid + _PUBLIC, error=str(error))
        self._keys = found
