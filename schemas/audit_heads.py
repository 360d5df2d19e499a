"""Signed heads: how far each chain of an installation was, in its own signed words.

The text of a C2SP signed note (c2sp.org/signed-note):

    lucid/audit/1
    cli/0197f0a5-… 57 rh8LTdH7w2VwXUhuSaUDXWKoJ0TTDMDvRm7nVwvWFRI=

with a line for each chain: its id, how many entries it has, base64 of the newest one's hash.
Whoever keeps one sees later that a topic has lost, or got other entries, up to there.

FormatError
└── InvalidNote       not a signed note, or its text is none of heads
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.audit_chain import chain_started
from schemas.envelope import InvalidEvent
from schemas.notes import InvalidNote, Signer, Verifier, open_note, split_note, unbase64

HEADS = "lucid/audit/1"


@dataclass(frozen=True, slots=True)
class Head:
    """entries: at least 1. hash: of entry `entries - 1`, 32 bytes."""

    chain: str
    entries: int
    hash: bytes


def sign_heads(heads: Sequence[Head], signer: Signer) -> str:
    """The note of heads, one of each chain; raises InvalidNote for none."""
    if not heads:
        raise InvalidNote("there is no head to sign")
    lines = [
        f"{head.chain} {head.entries} {base64.b64encode(head.hash).decode()}"
        for head in sorted(heads, key=lambda head: head.chain)
    ]
    return signer.sign("\n".join([HEADS, *lines]) + "\n")


def read_heads(note: str, trusted: Sequence[Verifier]) -> tuple[list[Head], Verifier]:
    """The heads of a note and who signed it; raises InvalidNote, InvalidSignature."""
    _, signatures = split_note(note)
    signers = {(name, data[:4]) for name, data in signatures}
    for verifier in trusted:
        if (verifier.name, verifier.key_id) in signers:
            return _parse(open_note(note, verifier)), verifier
    names = ", ".join(sorted(name for name, _ in signatures))
    raise InvalidNote(
        f"the heads are signed by {names}, which is none of the trusted keys",
        hint="--trust names a verifier key, or a file of them",
    )


def _parse(text: str) -> list[Head]:
    first, *lines, last = text.split("\n")
    heads = [_parse_line(line) for line in lines]
    chains = [head.chain for head in heads]
    if first != HEADS or last or not heads or chains != sorted(set(chains)):
        raise InvalidNote("the note holds no heads of audit chains")
    return heads


def _parse_line(line: str) -> Head:
    chain, _, rest = line.partition(" ")
    entries, _, encoded = rest.partition(" ")
    try:
        chain_started(chain)
    except InvalidEvent as error:
        raise InvalidNote(f"a head is of no chain: {error.what}") from error
    hashed = unbase64(encoded)
    number = int(entries) if entries.isascii() and entries.isdecimal() and len(entries) < 17 else 0
    if len(hashed) != 32 or number < 1 or str(number) != entries:
        raise InvalidNote(f"{line[:120]!r} is not a chain's head")
    return Head(chain, number, hashed)
