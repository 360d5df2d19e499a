"""Signed heads: read back by who trusts the signer, and strict."""

from __future__ import annotations

import base64

import pytest

from schemas.audit_heads import HEADS, Head, read_heads, sign_heads
from schemas.errors import FormatError
from schemas.notes import InvalidNote, InvalidSignature, Signer, Verifier
from tests.schemas.test_audit_vectors import FOLDER

SIGNER = Signer("desk/processor", b"\x05" * 32)
STRANGER = Signer("desk/processor", b"\x06" * 32)
CHAIN = "cli/019b76da-a802-7000-8000-00000000c4a1"
API = "api/019b76da-a802-7000-8000-00000000c4a2"
HASH = base64.b64encode(b"\x07" * 32).decode()


def test_heads_are_read_back_by_who_trusts_the_signer() -> None:
    heads = [Head(CHAIN, 57, 5, b"\x07" * 32), Head(API, 1, 0, b"\x07" * 32)]
    note = sign_heads(heads, SIGNER)
    assert note.splitlines()[:3] == [HEADS, f"{API} 1 0 {HASH}", f"{CHAIN} 57 5 {HASH}"]
    read, by = read_heads(note, [STRANGER.verifier, SIGNER.verifier])
    assert (read, by) == (sorted(heads, key=lambda head: head.chain), SIGNER.verifier)


def test_the_head_of_the_vector_is_that_of_its_chain() -> None:
    verifier = Verifier.parse((FOLDER.parent / "keys" / "processor.vkey").read_text())
    heads, _ = read_heads((FOLDER / "heads.txt").read_text(encoding="utf-8"), [verifier])
    hashes = (FOLDER / "hashes.txt").read_text().split()
    assert [(head.entries, head.hash.hex()) for head in heads] == [(len(hashes), hashes[-1])]
    known = heads[0].known("ada")
    assert known.hashes == {len(hashes) - 1: bytes.fromhex(hashes[-1])}
    assert (known.by, known.written) == ("the head signed by ada", heads[0].written)


def test_heads_of_another_signer_or_with_another_text_are_refused() -> None:
    note = sign_heads([Head(CHAIN, 57, 5, b"\x07" * 32)], SIGNER)
    with pytest.raises(InvalidNote, match="none of the trusted keys"):
        read_heads(note, [STRANGER.verifier])
    with pytest.raises(InvalidSignature):
        read_heads(note.replace(" 57 ", " 56 "), [SIGNER.verifier])
    with pytest.raises(InvalidNote, match="no head"):
        sign_heads([], SIGNER)


@pytest.mark.parametrize(
    "lines",
    [
        [], [f"{CHAIN} 0 5 {HASH}"], [f"{CHAIN} 01 5 {HASH}"], [f"{CHAIN} x 5 {HASH}"],
        [f"{CHAIN} 1 5 AAAA"], [f"{CHAIN} 1 5"], [f"cli 1 5 {HASH}"], [f"{CHAIN} 1 5 {HASH}", ""],
        [f"{CHAIN} 1 5 {HASH}", f"{API} 1 5 {HASH}"], [f"{CHAIN} {'1' * 17} 5 {HASH}"],
        [f"{CHAIN} 1 5 {HASH}", f"{CHAIN} 2 5 {HASH}"], [f"{CHAIN} 1 05 {HASH}"],
    ],
)  # fmt: skip
def test_a_text_that_is_not_of_heads_is_refused(lines: list[str]) -> None:
    note = SIGNER.sign("\n".join([HEADS, *lines]) + "\n")
    with pytest.raises(FormatError):
        read_heads(note, [SIGNER.verifier])
    with pytest.raises(FormatError):
        read_heads(SIGNER.sign(f"lucid/capture/1\n{CHAIN} 1 {HASH}\n"), [SIGNER.verifier])
