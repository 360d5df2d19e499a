"""What the routes read of the catalog, with a bounded memory of what will not change.

A settled session's manifest and pages are read once, a session's document once for each of its
versions; everything else is read at each request. Methods raise CatalogUnreachable.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from agents.platform.catalog import Catalog, Document
from agents.session.api.index import Row
from agents.session.api.problems import ApiProblem, Code
from agents.session.api.views import PAGE, page_key

LASTING = "completed"
"""The state that no session leaves; an incomplete one is counted again when more comes."""
CACHE_BYTES = 64 * 1024**2
AT_ONCE = 16
PLACE_SECONDS = 1.0
"""How long a view that was rebuilt may still be read where it was."""


class Memory:
    """Documents by collection and key, at most `limit` bytes of their text; the oldest go."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[str, str], tuple[Document, int]] = OrderedDict()
        self._bytes = 0

    def get(self, place: tuple[str, str]) -> Document | None:
        found = self._held.get(place)
        if found is None:
            return None
        self._held.move_to_end(place)
        return found[0]

    def put(self, place: tuple[str, str], document: Document) -> None:
        size = len(repr(document))
        self._bytes += size - self._held.get(place, ({}, 0))[1]
        self._held[place] = (document, size)
        self._held.move_to_end(place)
        while self._bytes > self._limit and self._held:
            self._bytes -= self._held.popitem(last=False)[1][1]


class Reading:
    """The catalog as the routes see it."""

    def __init__(self, catalog: Catalog, memory: Memory | None = None) -> None:
        self._catalog = catalog
        self._memory = memory or Memory()
        self._places: dict[str, tuple[str, float]] = {}

    async def session(self, row: Row) -> Document:
        """The state of a session; raises ApiProblem if it has gone."""
        place = ("sessions", row.session)
        known = self._memory.get(place)
        if known is not None and known.get("version") == row.version:
            return known
        found = await self._fetch(*place)
        if found is None:
            raise ApiProblem(Code.SESSION_NOT_FOUND, f"there is no session {row.session} any more")
        self._memory.put(place, found)
        return found

    async def manifest(self, row: Row) -> Document:
        """`manifest` (its canonical text), `hash` and `checkpoint`; raises ApiProblem."""
        found = await self._get(row, "manifests", row.session, lambda _: row.state == LASTING)
        if found is None and "metadata" in row.erased:
            raise ApiProblem(Code.ERASED, f"the manifest of session {row.session} was erased")
        if found is None:
            raise ApiProblem(
                Code.NOT_YET, f"session {row.session} has no manifest yet; it is {row.state}"
            )
        return found

    async def view(self, name: str, session: str) -> Document:
        """A document of a view, empty while nothing has happened."""
        return await self._fetch(name, session) or {"_id": session}

    async def chunks(self, row: Row, first: int, behind: int) -> list[Any]:
        """The entries of chunks first to behind - 1, in order, as far as they are stored."""
        # The row may be a moment behind the pages; beyond that nobody has to look.
        behind = min(behind, row.chunks + PAGE)
        if behind <= first:
            return []
        pages = list(range(first // PAGE, (behind - 1) // PAGE + 1))
        entries: list[Any] = []
        for start in range(0, len(pages), AT_ONCE):
            found = await asyncio.gather(
                *(self._page(row, page) for page in pages[start : start + AT_ONCE])
            )
            entries += [one for page in found for one in (page or {}).get("chunks", {}).values()]
        wanted = [entry for entry in entries if first <= entry["index"] < behind]
        return sorted(wanted, key=lambda entry: int(entry["index"]))

    async def chunk(self, row: Row, index: int) -> dict[str, Any]:
        """The entry of one chunk; raises ApiProblem."""
        found = await self.chunks(row, index, index + 1)
        if not found:
            raise ApiProblem(
                Code.CHUNK_NOT_FOUND, f"session {row.session} has no chunk {index} in the store"
            )
        entry: dict[str, Any] = found[0]
        return entry

    async def leaves(self, row: Row, count: int) -> list[bytes]:
        """The leaves of the first `count` chunks, fewer if one of them is not stored."""
        leaves: list[bytes] = []
        for entry in await self.chunks(row, 0, count):
            if entry["index"] != len(leaves):
                break
            leaves.append(bytes.fromhex(entry["leaf"]))
        return leaves

    async def _page(self, row: Row, page: int) -> Document | None:
        def lasting(document: Document) -> bool:
            expected = min(PAGE, row.chunks - page * PAGE)
            return row.state == LASTING and len(document["chunks"]) == expected

        return await self._get(row, "chunk_pages", page_key(row.session, page * PAGE), lasting)

    async def _get(
        self, row: Row, collection: str, key: str, lasting: Callable[[Document], bool]
    ) -> Document | None:
        place = (collection, key)
        # What an erasure has begun to take is looked for each time.
        if row.whole and (known := self._memory.get(place)) is not None:
            return known
        found = await self._fetch(collection, key)
        if found is not None and row.whole and lasting(found):
            self._memory.put(place, found)
        return found

    async def _fetch(self, collection: str, key: str) -> Document | None:
        """A document; where its view is, is asked for once in a while or when it is not there."""
        now = time.monotonic()
        place, until = self._places.get(collection, ("", 0.0))
        if until > now:
            found = await self._catalog.get(place, key)
            if found is not None:
                return found
        fresh = await self._catalog.where(collection)
        self._places[collection] = fresh, now + PLACE_SECONDS
        return None if fresh == place and until > now else await self._catalog.get(fresh, key)
