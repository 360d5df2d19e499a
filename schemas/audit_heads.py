"""Signed heads: how far each chain of an installation was, in its own signed words.

The text of a C2SP signed note (c2sp.org/signed-note):

    lucid/audit/1
    cli/019b76da-… 57 1767225600000000 rh8LTdH7w2VwXUhuSaUDXWKoJ0TTDMDvRm7nVwvWFRI=

with a line for each chain: its id, how many entries it has, when the newest was written, and
base64 of its hash. Whoever keeps one sees later that a topic has lost entries, or got others.

FormatError
└── InvalidNote       not a signed note, or its text is none of heads
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.audit_chain import chain_started
from schemas.audit_trail import Known
from schemas.envelope import InvalidEvent
from schemas.errors import quoted
from schemas.notes import InvalidNote, Signer, Verifier, open_note, split_note, unbase64

HEADS = "lucid/audit/1"
_LINE = re.compile(r"([^ ]+) ([1-9][0-9]{0,15}) (0|[1-9][0-9]{0,15}) ([^ ]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Head:
    """entries: at least 1. written (microseconds), hash (32 bytes): of entry `entries - 1`."""

    chain: str
    entries: int
    written: int
    hash: bytes

    def known(self, signer: str) -> Known:
        """What it says to who checks a topic."""
        return Known(
            self.chain, f"the head signed by {signer}", {self.entries - 1: self.hash},
            written=self.written,
        )  # fmt: skip


def sign_heads(heads: Sequence[Head], signer: Signer) -> str:
    """The note of heads, one of each chain; raises InvalidNote for none."""
    if not heads:
        raise InvalidNote("there is no head to sign")
    lines = [
        f"{head.chain} {head.entries} {head.written} {base64.b64encode(head.hash).decode()}"
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
    match = _LINE.fullmatch(line)
    hashed = unbase64(match[4]) if match else b""
    if match is None or len(hashed) != 32:
        raise InvalidNote(f"{quoted(line, 120)} is not a chain's head")
    try:
        chain_started(match[1])
    except InvalidEvent as error:
        raise InvalidNote(f"a head is of no chain: {error.what}") from error
    return Head(match[1], int(match[2]), int(match[3]), hashed)
