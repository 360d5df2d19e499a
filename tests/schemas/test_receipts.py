"""Receipts of anchors: read strictly, and held against the manifest that they speak of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.anchors import read_anchor
from schemas.envelope import InvalidEvent
from schemas.errors import FormatError
from schemas.receipts import MAX_PROOF, AnchorReceipt, ReceiptEvent, fits

VECTORS = Path(__file__).parents[1] / "vectors"
ANCHOR = read_anchor((VECTORS / "closed" / "anchor.json").read_bytes())
FIELDS: dict[str, Any] = {
    "session": ANCHOR.session, "manifest_hash": ANCHOR.manifest_hash, "ledger": "file",
    "reference": "line 7", "anchored_at": 1_767_225_600_000_000, "proof": "a note\n\n— ada AAAA\n",
}  # fmt: skip
OTHER = "018bcfe5-6800-7000-8000-000000000001"


def event(**changes: Any) -> ReceiptEvent:
    receipt = AnchorReceipt(**{**FIELDS, **changes})
    return ReceiptEvent(receipt, "anchor-to-file/desk", receipt.session)


@pytest.mark.parametrize("proof", ["a note\n\n— ada AAAA\n", None])
def test_a_receipt_is_read_back(proof: str | None) -> None:
    sent = event(proof=proof)
    key, headers, value = sent.to_kafka()
    assert key == ANCHOR.session.encode()
    assert dict(headers)["ce_type"] == b"lucid.anchor.receipt.v1"
    assert ReceiptEvent.from_kafka(key, headers, value) == sent


def test_a_receipt_fits_the_manifest_that_it_names_and_no_other() -> None:
    receipt = event().receipt
    manifest = (VECTORS / "closed" / "manifest.json").read_bytes()
    assert fits(receipt, ANCHOR.session, manifest)
    assert not fits(receipt, OTHER, manifest)
    assert not fits(receipt, ANCHOR.session, manifest + b" ")
    assert not fits(receipt, ANCHOR.session, (VECTORS / "abandoned/manifest.json").read_bytes())


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "nonsense"}, {"manifest_hash": "AB" * 32}, {"ledger": ""}, {"ledger": "a\nb"},
        {"reference": "x" * 501}, {"reference": "\x1b[2J"}, {"anchored_at": -1},
        {"anchored_at": 1.5}, {"proof": ""}, {"proof": "x" * (MAX_PROOF + 1)}, {"proof": "a\tb"},
        {"proof": "\x9b"}, {"more": 1},
    ],
)  # fmt: skip
def test_a_receipt_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, FormatError)):
        AnchorReceipt(**{**FIELDS, **changes})


def test_a_receipt_speaks_of_the_session_that_is_its_key() -> None:
    receipt = AnchorReceipt(**FIELDS)
    with pytest.raises(InvalidEvent, match="another session"):
        ReceiptEvent.from_kafka(*ReceiptEvent(receipt, "x", OTHER).to_kafka())
