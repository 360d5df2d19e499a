"""A session's data key: made by the recorder, wrapped with age, the source of all other keys.

Subkeys are HKDF-SHA256 (RFC 5869) of the data key with the session id as salt, so a
data key that met two sessions by mistake would still give unrelated subkeys.

LucidError
├── NoIdentity          no identity given opens the wrapped key
└── FormatError
    ├── InvalidRecipient    text that is not an age X25519 recipient
    ├── InvalidIdentity     text that is not an age X25519 identity
    └── WrongKey            the wrapped key opens, and is another session's
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import pyrage

from schemas.errors import FormatError, LucidError, quoted

KEY_SIZE = 32
MAX_WRAPPED = 64 * 1024  # some 400 recipients


class NoIdentity(LucidError):
    """None of the identities is among the recipients of the wrapped key."""

    exit_status = 77  # EX_NOPERM of sysexits.h


class InvalidRecipient(FormatError):
    """Not an age X25519 recipient."""


class InvalidIdentity(FormatError):
    """Not an age X25519 identity."""


class WrongKey(FormatError):
    """A data key that does not match the commitment in a chunk's header."""


@dataclass(frozen=True, slots=True, repr=False)
class DataKey:
    """The subkeys of one session, 32 bytes each.

    seal: XChaCha20-Poly1305. nonce: keyed hash that makes nonces. chain: keyed hash of
    the record chain. commitment: public; it names the key, as the cipher does not.
    """

    seal: bytes
    nonce: bytes
    chain: bytes
    commitment: bytes


def new_data_key() -> bytes:
    """32 random bytes."""
    return os.urandom(KEY_SIZE)


def derive(data_key: bytes, session: UUID) -> DataKey:
    """All subkeys of a session. `data_key` is 32 bytes; anything else is a WrongKey."""
    if len(data_key) != KEY_SIZE:
        raise WrongKey(f"the data key of session {session} has {len(data_key)} bytes, not 32")
    extracted = hmac.digest(session.bytes, data_key, "sha256")

    def expand(label: bytes) -> bytes:
        return hmac.digest(extracted, b"lucid/1 " + label + b"\x01", "sha256")

    return DataKey(expand(b"seal"), expand(b"nonce"), expand(b"chain"), expand(b"commitment"))


def check_recipient(text: str) -> str:
    """`text` if it is an age X25519 recipient; raises InvalidRecipient."""
    try:
        pyrage.x25519.Recipient.from_str(text)
    except Exception as error:
        raise InvalidRecipient(
            f"{quoted(text)} is not an age recipient", hint="Recipients start with age1"
        ) from error
    return text


def wrap(data_key: bytes, recipients: Sequence[str]) -> bytes:
    """The data key as an age file (age-encryption.org/v1) for every recipient."""
    parsed = [pyrage.x25519.Recipient.from_str(check_recipient(text)) for text in recipients]
    if not parsed:
        raise InvalidRecipient("a data key needs at least one recipient")
    return bytes(pyrage.encrypt(data_key, parsed))


def unwrap(wrapped: bytes, identities: Sequence[str]) -> bytes:
    """The data key; raises NoIdentity or InvalidIdentity."""
    try:
        parsed = [pyrage.x25519.Identity.from_str(text.strip()) for text in identities]
    except Exception as error:
        raise InvalidIdentity(
            "an identity is not an age X25519 identity", hint="It starts with AGE-SECRET-KEY-1"
        ) from error
    try:
        return bytes(pyrage.decrypt(wrapped, parsed))
    except Exception as error:
        raise NoIdentity(
            f"the wrapped key does not open: {error}",
            hint="Use the identity of the processor or of an auditor the session was made for",
        ) from error
