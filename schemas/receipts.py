"""Receipts of anchors: what a client outside of Lucid says that a ledger has registered.

CloudEvents as in schemas/envelope.py on `session.anchor_receipts`; the subject and key is the
session id. A receipt is a claim of whoever may write to that topic. `fits` says whether it
speaks of a manifest; that the ledger has it, only the ledger shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from schemas.canonical import Count, Hex32, Strict
from schemas.envelope import Event
from schemas.events import SessionId
from schemas.manifests import manifest_hash

MAX_PROOF = 16_384
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Proof = Annotated[
    str, Field(min_length=1, max_length=MAX_PROOF, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]+$")
]


class AnchorReceipt(Strict):
    """A ledger has an anchor.

    ledger: its name. reference: where in it, such as a transaction id or a line number.
    anchored_at: by the ledger's clock, microseconds since 1970. proof: text that the ledger
    gives to check it by, such as a signed note; its form is the ledger's.
    """

    session: SessionId
    manifest_hash: Hex32
    ledger: Line
    reference: Line
    anchored_at: Count
    proof: Proof | None


RECEIPT_TYPES: dict[str, type[Strict]] = {"lucid.anchor.receipt.v1": AnchorReceipt}


@dataclass(frozen=True, slots=True)
class ReceiptEvent(Event):
    """A receipt in its envelope; `source` names the client, such as `anchor-to-file/desk7`."""

    types: ClassVar[Mapping[str, type[Strict]]] = RECEIPT_TYPES
    strays_to: ClassVar[str] = "another session"

    @property
    def receipt(self) -> AnchorReceipt:
        assert isinstance(self.data, AnchorReceipt)
        return self.data

    @classmethod
    def subject_of(cls, data: Strict) -> str:
        return str(dict(data)["session"])


def fits(receipt: AnchorReceipt, session: str, manifest: bytes) -> bool:
    """Whether a receipt is of this manifest (its bytes) of this session."""
    return (receipt.session, receipt.manifest_hash) == (session, manifest_hash(manifest).hex())
