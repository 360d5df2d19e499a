"""The view of `audit.events`: what people did, in pages in the order of the topic.

    audit   {_id: "<partition>/<page>", entries: [{offset, id, type, time, user, …}]}

A page holds the offsets from PAGE·page on, so that the newest page follows from the end of
the topic, and a reader goes backwards from it by `_id` alone.
"""

from __future__ import annotations

from agents.platform.catalog import Document
from agents.platform.folding import Folding
from agents.platform.projections import Record
from schemas.audit import AuditEvent

PAGE = 256


def page_key(partition: int, offset: int) -> str:
    """The `_id` of the page that has an offset."""
    return f"{partition}/{offset // PAGE}"


class AuditView(Folding[AuditEvent]):
    """Every audit event, with its place."""

    name = "audit"
    topic = "audit.events"
    kind = AuditEvent

    def subject(self, event: AuditEvent, record: Record) -> str | None:
        return page_key(record.partition, record.offset)

    def apply(self, document: Document, event: AuditEvent, record: Record) -> Document:
        entry = {
            "offset": record.offset, "id": event.id, "type": event.type, "time": event.micros,
            "subject": event.subject, "source": event.source, "user": event.user,
            "user_type": event.user_type, "address": event.address,
            "roles": list(event.roles), "data": event.data.model_dump(mode="json"),
        }  # fmt: skip
        return {**document, "entries": [*document.get("entries", []), entry]}


AUDIT = AuditView()
