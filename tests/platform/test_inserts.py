"""Documents that are inserted together, with a catalog that says what is done to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agents.platform.catalog import CatalogRefused, Document
from agents.platform.inserts import MOST, Inserts
from agents.platform.retry import CatalogUnreachable


class FakeCatalog:
    """Keeps documents while `open`; each round trip ends once it is let."""

    def __init__(self) -> None:
        self.kept: dict[str, Document] = {}
        self.trips: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.trouble: Exception | None = None

    async def _trip(self, documents: Sequence[Document]) -> set[str]:
        self.trips.append([one["_id"] for one in documents])
        await self.open.wait()
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble
        if any("bad" in one for one in documents):
            raise CatalogRefused("the catalog does not take a document")
        taken = {one["_id"] for one in documents if one["_id"] in self.kept}
        for one in documents:
            self.kept.setdefault(one["_id"], one)
        return taken

    async def insert(self, _: str, document: Document) -> bool:
        return not await self._trip([document])

    async def insert_many(self, _: str, documents: Sequence[Document]) -> set[str]:
        return await self._trip(documents)


@pytest.fixture
def catalog() -> FakeCatalog:
    return FakeCatalog()


def inserts_of(catalog: FakeCatalog) -> Inserts:
    return Inserts(catalog)  # type: ignore[arg-type]


async def start(inserts: Inserts, *documents: Document) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.create_task(inserts.insert("chunks", one)) for one in documents]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def named(*names: str) -> list[Document]:
    return [{"_id": name} for name in names]


async def test_those_that_come_meanwhile_go_together(catalog: FakeCatalog) -> None:
    catalog.kept["c"] = {"_id": "c"}
    catalog.open.clear()
    inserts = inserts_of(catalog)
    first = await start(inserts, *named("a"))
    rest = await start(inserts, *named("b", "c", "d"))
    catalog.open.set()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*first, *rest) == [True, True, False, True]
    assert catalog.trips == [["a"], ["b", "c", "d"]]
    assert set(catalog.kept) == {"a", "b", "c", "d"}
    assert await inserts.insert("chunks", {"_id": "e"}), "whoever comes later begins anew"


async def test_the_same_id_twice_is_new_once(catalog: FakeCatalog) -> None:
    catalog.open.clear()
    inserts = inserts_of(catalog)
    tasks = await start(inserts, *named("x"))
    tasks += await start(inserts, {"_id": "a", "n": 1}, {"_id": "a", "n": 2})
    catalog.open.set()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*tasks) == [True, True, False]
    assert catalog.kept["a"]["n"] == 1


async def test_no_trip_has_more_than_its_limit(catalog: FakeCatalog) -> None:
    catalog.open.clear()
    tasks = await start(inserts_of(catalog), *named(*(str(n) for n in range(2 * MOST + 5))))
    catalog.open.set()
    async with asyncio.timeout(10):
        assert all(await asyncio.gather(*tasks))
    assert max(map(len, catalog.trips)) == MOST


async def test_a_refused_document_refuses_no_other(catalog: FakeCatalog) -> None:
    catalog.open.clear()
    inserts = inserts_of(catalog)
    tasks = await start(inserts, *named("x"))
    tasks += await start(inserts, {"_id": "a"}, {"_id": "b", "bad": 1}, {"_id": "c"})
    catalog.open.set()
    async with asyncio.timeout(10):
        found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(2), CatalogRefused)
    assert found == [True, True, True]


@pytest.mark.parametrize("trouble", [CatalogUnreachable("away", hint="wait"), RuntimeError("bug")])
async def test_trouble_reaches_all_that_went_together(
    trouble: Exception, catalog: FakeCatalog
) -> None:
    catalog.open.clear()
    catalog.trouble = trouble
    inserts = inserts_of(catalog)
    tasks = await start(inserts, *named("a"))
    tasks += await start(inserts, *named("b", "c"))
    catalog.open.set()
    async with asyncio.timeout(10):
        found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(one) for one in found] == [str(trouble)] * 3
    assert all(type(one) is type(trouble) for one in found)
    assert len({id(one) for one in found}) == 3
    catalog.trouble = None
    assert await inserts.insert("chunks", {"_id": "b"})


async def test_who_gives_up_keeps_nobody_from_it(catalog: FakeCatalog) -> None:
    catalog.open.clear()
    inserts = inserts_of(catalog)
    first = await start(inserts, *named("a"))
    gone, stays = await start(inserts, *named("b", "c"))
    gone.cancel()
    first[0].cancel()
    await asyncio.sleep(0)
    catalog.open.set()
    async with asyncio.timeout(10):
        assert await stays
    assert catalog.trips == [["a"], ["c"]]
