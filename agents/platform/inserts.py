"""Documents that are inserted together: those that come while others are on their way.

    inserts = Inserts(catalog)
    is_new = await inserts.insert("chunks", document)

A round trip, with its thread, costs as much as all that storage does with a small chunk besides.
Nobody waits for others to come: a document that comes alone goes alone, and at once.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from agents.platform.catalog import Catalog, CatalogRefused, Document

MOST = 100  # documents that go together


@dataclass(frozen=True, slots=True)
class _Waiting:
    document: Document
    is_new: asyncio.Future[bool]


class Inserts:
    """Inserts into a catalog, one at a time for each collection, each with all that wait."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._waiting: defaultdict[str, list[_Waiting]] = defaultdict(list)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def insert(self, collection: str, document: Document) -> bool:
        """Insert a document; whether its `_id` was new. Raises as `Catalog.insert` does."""
        one = _Waiting(document, asyncio.get_running_loop().create_future())
        self._waiting[collection].append(one)
        if collection not in self._running:
            self._running[collection] = asyncio.create_task(self._run(collection))
        return await one.is_new

    async def _run(self, collection: str) -> None:
        try:
            while waiting := self._waiting.pop(collection, None):
                together: dict[str, _Waiting] = {}
                later: list[_Waiting] = []
                for one in waiting:
                    name = str(one.document["_id"])
                    fits = len(together) < MOST and name not in together
                    if not fits:
                        later.append(one)
                    elif not one.is_new.cancelled():
                        together[name] = one
                if later:
                    self._waiting[collection] = later
                await self._insert(collection, list(together.values()))
        finally:
            del self._running[collection]

    async def _insert(self, collection: str, batch: Sequence[_Waiting]) -> None:
        """Insert a batch; what goes wrong is told to those whose documents are in it."""
        try:
            if len(batch) == 1:
                taken = set()
                if not await self._catalog.insert(collection, batch[0].document):
                    taken.add(str(batch[0].document["_id"]))
            else:
                taken = await self._catalog.insert_many(collection, [one.document for one in batch])
        except CatalogRefused as error:
            # It does not say which of them was refused.
            for one in batch if len(batch) > 1 else ():
                await self._insert(collection, [one])
            _tell(batch, error)
        except Exception as error:  # noqa: BLE001 - handed on to those who wait
            _tell(batch, error)
        else:
            for one in batch:
                if not one.is_new.done():
                    one.is_new.set_result(str(one.document["_id"]) not in taken)


def _tell(batch: Sequence[_Waiting], error: Exception) -> None:
    """Each gets an error of its own: raising one in several places adds to its traceback."""
    for one in batch:
        if not one.is_new.done():
            mine = copy.copy(error)
            mine.__cause__ = error
            one.is_new.set_exception(mine)
