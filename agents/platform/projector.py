"""The live writer of projections: batches of records folded into the catalog's documents.

    projector = Projector(catalog, [CHUNK_PAGES, STATISTICS])
    control.consume_many(topic, projector.take)

Of each view the documents that a batch touches are read once and written once. Each write is
a compare-and-set on the document's version; a document knows the events it has, so a batch
that comes again, or meets another writer, changes nothing twice.

Transient
└── Overtaken         another writer was faster: the batch is folded again
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from agents.platform.catalog import Catalog, Document
from agents.platform.clock import wall_clock
from agents.platform.lanes import Record
from agents.platform.projections import Projection, View
from agents.platform.retry import Transient
from schemas.errors import FormatError, LucidError

AT_ONCE = 16  # requests to the catalog
Item = TypeVar("Item")
Result = TypeVar("Result")


class Overtaken(Transient):
    """Another writer changed a document first."""


@dataclass(frozen=True)
class Projector:
    """Keeps views up to date. All of them are built from the topic that it is given."""

    catalog: Catalog
    projections: Sequence[Projection]
    clock: Callable[[], int] = field(default=wall_clock)

    async def take(self, records: Sequence[Record]) -> Mapping[int, LucidError]:
        """Fold records of one partition, in order; the errors of those that no view takes.

        Raises Transient: the records come again.
        """
        refused: dict[int, LucidError] = {}
        for projection in self.projections:
            refused.update(await self._fold_into(projection, records))
        return refused

    async def _fold_into(
        self, projection: Projection, records: Sequence[Record]
    ) -> dict[int, LucidError]:
        view = View(self.catalog, projection.name, self.clock)
        place = await view.open()
        keys, refused = _keys(projection, records)
        stored = await self._read(place.collection, set(keys.values()))
        folded = dict(stored)
        for record in records:
            if record.offset not in keys:
                continue
            key = keys[record.offset]
            try:
                after = await projection.fold(self.catalog, folded.get(key), record)
            except FormatError as error:
                refused[record.offset] = error
                continue
            if after is not None:
                folded[key] = after
        changed = [key for key, one in folded.items() if one is not stored.get(key)]
        await self._write(place.collection, stored, {key: folded[key] for key in changed})
        await view.check(place)
        return refused

    async def _read(self, collection: str, keys: Iterable[str]) -> dict[str, Document]:
        found = await _map(lambda key: self.catalog.get(collection, key), keys)
        return {str(one["_id"]): one for one in found if one is not None}

    async def _write(
        self, collection: str, stored: Mapping[str, Document], changed: Mapping[str, Document]
    ) -> None:
        fresh = [{**one, "version": 1} for key, one in changed.items() if key not in stored]
        again = [
            {**one, "version": stored[key]["version"] + 1}
            for key, one in changed.items() if key in stored
        ]  # fmt: skip
        taken = await self.catalog.insert_many(collection, fresh)
        done = await _map(lambda one: self.catalog.put_version(collection, one), again)
        if taken or not all(done):
            raise Overtaken(f"a document of {collection} was changed meanwhile", retry_after=0)


async def _map(call: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> list[Result]:
    """The results in order; AT_ONCE calls run at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> Result:
        async with room:
            return await call(item)

    return await asyncio.gather(*(one(item) for item in items))


def _keys(
    projection: Projection, records: Sequence[Record]
) -> tuple[dict[int, str], dict[int, LucidError]]:
    """The document that each record changes, and the errors of those that are none of the view."""
    keys: dict[int, str] = {}
    refused: dict[int, LucidError] = {}
    for record in records:
        try:
            key = projection.key(record)
        except FormatError as error:
            refused[record.offset] = error
            continue
        if key is not None:
            keys[record.offset] = key
    return keys, refused
