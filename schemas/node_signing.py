"""What a node signs: canonical JSON under a name for the purpose. docs/formats/node-signing.md.

    signed bytes = purpose ‖ 0x0A ‖ canonical JSON (RFC 8785) of the body

The purpose keeps a signature made for one thing from standing for another, and no purpose is
the beginning of another one. Signatures are Ed25519 (RFC 8032), 64 bytes, in base64.
"""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Annotated

import nacl.bindings
import nacl.exceptions
from pydantic import Field

from schemas.canonical import Strict, encode
from schemas.notes import InvalidNote, InvalidSignature, Signer, Verifier, unbase64

Signature = Annotated[str, Field(min_length=88, max_length=88)]


class Purpose(StrEnum):
    """What a signature is for; the first line of what is signed."""

    ANSWER = "lucid/node-answer/1"
    HEARTBEAT = "lucid/node-heartbeat/1"


def signed_bytes(purpose: Purpose, body: Strict) -> bytes:
    """What the signature is over."""
    return purpose.value.encode() + b"\n" + encode(body)


def sign_body(signer: Signer, purpose: Purpose, body: Strict) -> str:
    """The signature of a body, in base64."""
    _, secret = nacl.bindings.crypto_sign_seed_keypair(signer.seed)
    signature = nacl.bindings.crypto_sign(signed_bytes(purpose, body), secret)[:64]
    return base64.b64encode(signature).decode()


def check_body(verifier: Verifier, purpose: Purpose, body: Strict, signature: str) -> None:
    """Raise InvalidSignature unless `verifier` signed the body for this purpose."""
    try:
        data = unbase64(signature)
        if len(data) != 64:
            raise InvalidNote(f"a signature has {len(data)} bytes, not 64")
        nacl.bindings.crypto_sign_open(data + signed_bytes(purpose, body), verifier.public)
    except (nacl.exceptions.CryptoError, ValueError, InvalidNote) as error:
        raise InvalidSignature(
            f"the signature is not one of {verifier.name} for {purpose.value}",
            hint="Look at which key the node has: `lucid node show` says which one is registered",
        ) from error
