"""The view of `session.anchor_receipts`: what clients of ledgers claim to have registered.

    receipts   {_id: session, receipts: [{id, time, source, …AnchorReceipt}]}

Anybody with access to the topic can write a receipt, so each is shown as a claim, with
whether it speaks of the manifest that is stored.
"""

from __future__ import annotations

from agents.platform.catalog import Document
from agents.platform.folding import Folding
from agents.platform.projections import Record
from schemas.receipts import AnchorReceipt, ReceiptEvent

MOST = 100


class Receipts(Folding[ReceiptEvent]):
    """The first receipts of each session; the same claim again is one."""

    name = "receipts"
    topic = "session.anchor_receipts"
    kind = ReceiptEvent

    def subject(self, event: ReceiptEvent, record: Record) -> str | None:
        return event.subject

    def apply(self, document: Document, event: ReceiptEvent, record: Record) -> Document:
        assert isinstance(event.data, AnchorReceipt)
        claim = event.data.model_dump(mode="json")
        receipts = document.get("receipts", [])
        if len(receipts) >= MOST or any(one["claim"] == claim for one in receipts):
            return document
        entry = {"id": event.id, "time": event.micros, "source": event.source, "claim": claim}
        return {**document, "receipts": [*receipts, entry]}


RECEIPTS = Receipts()
