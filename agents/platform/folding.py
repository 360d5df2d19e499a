"""What the views have in common that are built of one topic's events and nothing else.

A document knows where it stands on the topic:

    first      {partition: offset of the first event that is in it}
    positions  {partition: offset of the last event that is in it}

so an event that comes again changes nothing, and a rebuild sees whether the topic still has
everything that the document was made of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Generic, Self, TypeVar

from agents.platform.catalog import Catalog, Document
from agents.platform.projections import Record
from schemas.envelope import Event
from schemas.topics import Contract

Kind = TypeVar("Kind", bound=Event)
COUNTS_WRITES = ("version", "first", "positions")


@lru_cache(maxsize=8192)
def _parsed(
    kind: Any, key: bytes | None, headers: tuple[tuple[str, bytes | None], ...],
    value: bytes | None,
) -> Any:  # fmt: skip
    return kind.from_kafka(key, headers, value)


class Folding(ABC, Generic[Kind]):
    """A Projection of events of one kind (agents/platform/projections.py)."""

    name: str
    topic: str
    kind: type[Kind]

    @abstractmethod
    def subject(self, event: Kind, record: Record) -> str | None:
        """The `_id` of the document that an event changes; None if it changes none."""

    @abstractmethod
    def apply(self, document: Document, event: Kind, record: Record) -> Document:
        """The document after an event, the same object if nothing changes.

        A new document has its `_id` alone. The one that is given is never changed itself.
        """

    def event(self, record: Record) -> Kind:
        """The event of a record, parsed once for all views; raises FormatError."""
        kind: Any = self.kind
        found: Kind = _parsed(kind, record.key, tuple(record.headers), record.value)
        return found

    def under(self, contract: Contract) -> Self:
        return self

    def key(self, record: Record) -> str | None:
        return self.subject(self.event(record), record)

    async def fold(
        self, catalog: Catalog, document: Document | None, record: Record
    ) -> Document | None:
        event = self.event(record)
        key = self.subject(event, record)
        before: Document = {"_id": key} if document is None else document
        partition = str(record.partition)
        if record.offset <= before.get("positions", {}).get(partition, -1):
            return None
        after = self.apply(before, event, record)
        if after is before:
            return None
        return {
            **after,
            "version": before.get("version", 0) + 1,
            "first": {partition: record.offset, **before.get("first", {})},
            "positions": {**before.get("positions", {}), partition: record.offset},
        }

    def keep(
        self, rebuilt: Document | None, live: Document, firsts: Mapping[int, int]
    ) -> Document | None:
        """The live one, if events that it was made of have expired."""
        whole = all(firsts.get(int(part), 0) <= offset for part, offset in live["first"].items())
        return None if whole else live

    def settled(self, document: Document) -> bool:
        """Whatever changes it is an event, which the rebuild folds, too."""
        return True

    def same(self, rebuilt: Document, live: Document) -> bool:
        """Two that stand at different places of the topic cannot be compared."""
        if rebuilt["positions"] != live["positions"]:
            return True
        without = dict.fromkeys(COUNTS_WRITES)
        return {**rebuilt, **without} == {**live, **without}
