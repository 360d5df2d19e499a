"""Signed notes and checkpoints: the two C2SP formats that carry Lucid's signatures.

Sources: C2SP signed-note (c2sp.org/signed-note) and tlog-checkpoint
(c2sp.org/tlog-checkpoint), with Ed25519 signatures (type 0x01). A recorder signs its
commitments, a processor its checkpoints; anything that reads signed notes can check both.

FormatError
├── InvalidNote           text that is not a signed note, a checkpoint or a commitment
├── InvalidKey            text that is not a note key
└── InvalidSignature      the named key signed nothing here, or not this text
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import nacl.bindings
import nacl.exceptions

from schemas.errors import FormatError, quoted
from schemas.sessions import InvalidSessionId, parse_session_id

ED25519 = b"\x01"
MAX_NOTE = 16 * 1024
CAPTURE = "lucid/capture/1"
_ORIGIN = "lucid/session/"
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")  # all but the line feed
_NAME = re.compile(r"[^\s+\x00-\x1f]{1,200}")


class InvalidNote(FormatError):
    """Not a signed note, or its text is not a checkpoint or commitment."""


class InvalidKey(FormatError):
    """Not a verifier or signer key of a signed note."""


class InvalidSignature(FormatError):
    """A signature is missing or does not hold."""


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def unbase64(text: str) -> bytes:
    """Decode canonical base64; raises InvalidNote."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise InvalidNote(f"{quoted(text)} is not canonical base64")
    return data


@dataclass(frozen=True, slots=True)
class Verifier:
    """A name and its Ed25519 public key; its text form is a `vkey`."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read `name+hash+base64`; raises InvalidKey."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            data = unbase64(encoded)
        except InvalidNote:
            data = b""
        if not _NAME.fullmatch(name) or data[:1] != ED25519 or len(data) != 33:
            raise InvalidKey(f"{quoted(text)} is not a verifier key")
        if key_id != _key_id(name, data[1:]).hex():
            raise InvalidKey(f"the verifier key of {name} has key id {key_id}, not its own")
        return cls(name, data[1:])

    def __str__(self) -> str:
        encoded = base64.b64encode(ED25519 + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @property
    def key_id(self) -> bytes:
        return _key_id(self.name, self.public)


@lru_cache(maxsize=64)
def _key_pair(seed: bytes) -> tuple[bytes, bytes]:
    """Public and secret key of a seed, which take as long to make as a signature each time."""
    public, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
    return public, secret


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """A name and its Ed25519 seed (32 bytes); its text form is a secret."""

    name: str
    seed: bytes

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read `PRIVATE+KEY+name+hash+base64`; raises InvalidKey, which quotes nothing."""
        parts = text.strip().split("+", 4)
        try:
            data = unbase64(parts[4]) if len(parts) == 5 else b""
        except InvalidNote:
            data = b""
        if parts[:2] != ["PRIVATE", "KEY"] or data[:1] != ED25519 or len(data) != 33:
            raise InvalidKey("the text is not a signing key")
        signer = cls(parts[2], data[1:])
        if parts[3] != signer.verifier.key_id.hex():
            raise InvalidKey(f"the signing key of {signer.name} does not match its key id")
        return signer

    def to_text(self) -> str:
        """The secret text form, as it is kept in a file of mode 0600."""
        encoded = base64.b64encode(ED25519 + self.seed).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{encoded}"

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.name, _key_pair(self.seed)[0])

    def subkey(self, label: bytes) -> bytes:
        """32 secret bytes for another purpose, which only the holder of this key can make."""
        return hmac.digest(self.seed, b"lucid/1 subkey " + label, "sha256")

    def sign(self, text: str) -> str:
        """The note: `text` (which ends in a newline), an empty line, one signature."""
        if not text.endswith("\n"):
            raise InvalidNote("a note's text ends in a newline")
        _, secret = _key_pair(self.seed)
        signature = nacl.bindings.crypto_sign(text.encode(), secret)[:64]
        encoded = base64.b64encode(self.verifier.key_id + signature).decode()
        return f"{text}\n— {self.name} {encoded}\n"


def open_note(note: str, verifier: Verifier) -> str:
    """The text of a note that `verifier` signed; raises InvalidNote or InvalidSignature."""
    text, signatures = split_note(note)
    for name, data in signatures:
        if name == verifier.name and data[:4] == verifier.key_id:
            try:
                nacl.bindings.crypto_sign_open(data[4:] + text.encode(), verifier.public)
            except (nacl.exceptions.CryptoError, ValueError) as error:
                raise InvalidSignature(f"the signature of {name} does not hold") from error
            return text
    names = ", ".join(sorted(name for name, _ in signatures))
    raise InvalidSignature(
        f"the note is signed by {names}, not by {verifier.name}+{verifier.key_id.hex()}"
    )


def split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Text and (name, key id ‖ signature) pairs, unverified; raises InvalidNote."""
    if len(note) > MAX_NOTE:
        raise InvalidNote(f"a note of {len(note)} characters is over {MAX_NOTE}")
    text, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n") or not text:
        raise InvalidNote("the text is not a signed note: no signatures after an empty line")
    signatures = []
    for line in tail[:-1].split("\n"):
        match = _SIGNATURE.fullmatch(line)
        data = unbase64(match[2]) if match else b""
        if match is None or len(data) < 5:
            raise InvalidNote(f"a note has a malformed signature line {quoted(line)}")
        signatures.append((match[1], data))
    body = text + "\n"
    if _CONTROL.search(body):
        raise InvalidNote("a note has control characters")
    return body, signatures


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and str(int(text[:20])) == text:
        return int(text)
    raise InvalidNote(f"{text[:32]!r} is not a canonical number")


def _hash(text: str) -> bytes:
    data = unbase64(text)
    if len(data) != 32:
        raise InvalidNote(f"a hash has {len(data)} bytes, not 32")
    return data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a recorder commits to: the chain over its first `records` records.

    closed: the reason, in the last commitment of a session; empty before.
    """

    session: UUID
    records: int
    chain: bytes
    closed: str = ""

    def to_text(self) -> str:
        end = f"closed {self.closed}\n" if self.closed else ""
        return f"{CAPTURE}\n{self.session}\n{self.records}\n{_encode(self.chain)}\n{end}"

    @classmethod
    def parse(cls, text: str) -> Commitment:
        """Read a note's text; raises InvalidNote."""
        lines = text.split("\n")
        if lines[0] != CAPTURE or lines[-1] or len(lines) not in (5, 6):
            raise InvalidNote("the note is not a recorder's commitment")
        closed = lines[4].removeprefix("closed ") if len(lines) == 6 else ""
        if len(lines) == 6 and (not closed or lines[4] == closed):
            raise InvalidNote(f"a commitment ends in {lines[4][:80]!r}")
        try:
            session = parse_session_id(lines[1])
        except InvalidSessionId as error:
            raise InvalidNote(f"a commitment names no session: {error}") from error
        return cls(session, _count(lines[2]), _hash(lines[3]), closed)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root over a session's leaves, and the hash of its manifest.

    manifest: SHA-256 of the manifest's bytes, in the checkpoint's one extension line.
    """

    session: UUID
    size: int
    root: bytes
    manifest: bytes

    def to_text(self) -> str:
        return (
            f"{_ORIGIN}{self.session}\n{self.size}\n{_encode(self.root)}\n"
            f"manifest {_encode(self.manifest)}\n"
        )

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note's text; raises InvalidNote."""
        lines = text.split("\n")
        if len(lines) != 5 or lines[4] or not lines[0].startswith(_ORIGIN):
            raise InvalidNote("the note is not a session's checkpoint")
        if not lines[3].startswith("manifest "):
            raise InvalidNote("a checkpoint does not name its manifest")
        try:
            session = parse_session_id(lines[0].removeprefix(_ORIGIN))
        except InvalidSessionId as error:
            raise InvalidNote(f"a checkpoint names no session: {error}") from error
        manifest = _hash(lines[3].removeprefix("manifest "))
        return cls(session, _count(lines[1]), _hash(lines[2]), manifest)
