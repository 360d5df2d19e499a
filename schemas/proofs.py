"""Inclusion proofs as files that are checked offline: C2SP tlog-proof (c2sp.org/tlog-proof).

    text = write_proof(Proof(index, hashes, checkpoint))
    verify_proof(text, leaf, verifier)      raises unless `leaf` is in the signed tree

The leaf itself is SHA-256(0x00 ‖ chunk), which its holder computes (docs/formats/chunk.md).

FormatError
├── InvalidTlogProof  text that is not such a proof
└── InvalidProof, InvalidNote, InvalidSignature    it does not prove what it should
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from schemas.errors import FormatError
from schemas.merkle import HASH_SIZE, verify_inclusion
from schemas.notes import Checkpoint, Verifier, open_note, unbase64

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 64
MAX_PROOF = 64 * 1024
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,15})")


class InvalidTlogProof(FormatError):
    """Text that does not follow C2SP tlog-proof, or has extra data, which Lucid writes none of."""


@dataclass(frozen=True, slots=True)
class Proof:
    """index: of the chunk. hashes: from the leaf up. checkpoint: the signed note of the tree."""

    index: int
    hashes: list[bytes]
    checkpoint: str


def write_proof(proof: Proof) -> str:
    """The text of a proof; files of it end in .tlog-proof."""
    lines = [HEADER, f"index {proof.index}"]
    lines += [base64.b64encode(node).decode() for node in proof.hashes]
    return "\n".join(lines) + "\n\n" + proof.checkpoint


def read_proof(text: str) -> Proof:
    """Read a proof without checking it; raises InvalidTlogProof or InvalidNote."""
    head, blank, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    index = _INDEX.fullmatch(lines[1]) if len(lines) > 1 else None
    if len(text) > MAX_PROOF or not blank or lines[0] != HEADER or index is None:
        raise InvalidTlogProof("a proof has a header line, an index, hashes, and a signed note")
    hashes = [unbase64(line) for line in lines[2:]]
    if len(hashes) > MAX_HASHES or any(len(node) != HASH_SIZE for node in hashes):
        raise InvalidTlogProof("a proof has at most 64 hashes of 32 bytes")
    return Proof(int(index[1]), hashes, checkpoint)


def verify_proof(text: str, leaf: bytes, verifier: Verifier) -> Checkpoint:
    """The checkpoint that `verifier` signed over a tree with `leaf` in it; raises FormatError."""
    proof = read_proof(text)
    checkpoint = Checkpoint.parse(open_note(proof.checkpoint, verifier))
    verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return checkpoint
