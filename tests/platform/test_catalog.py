"""The catalog on the real server: every write may come twice, every trouble has a type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from agents.platform.catalog import Catalog
from agents.platform.retry import CatalogUnreachable
from agents.platform.settings import Settings
from tests.conftest import Stack


@pytest.fixture
async def catalog(stack: Stack, tmp_path: Path) -> AsyncIterator[Catalog]:
    settings = Settings.load(home=tmp_path, mongo=stack.mongo, database=f"c{uuid4().hex[:10]}")
    async with Catalog(settings) as found:
        await found.prepare()
        await found.prepare()
        yield found


async def test_the_first_insert_wins(catalog: Catalog) -> None:
    assert await catalog.insert("chunks", {"_id": "a:0", "leaf": "one"})
    assert not await catalog.insert("chunks", {"_id": "a:0", "leaf": "two"})
    assert await catalog.get("chunks", "a:0") == {"_id": "a:0", "leaf": "one"}
    assert await catalog.get("chunks", "a:1") is None


async def test_of_many_the_new_ones_are_inserted(catalog: Catalog) -> None:
    await catalog.insert("chunks", {"_id": "a:1", "leaf": "first"})
    many = [{"_id": f"a:{index}", "leaf": "second"} for index in range(3)]
    assert await catalog.insert_many("chunks", many) == {"a:1"}
    assert await catalog.insert_many("chunks", []) == set()
    leaves = [one["leaf"] for one in await catalog.find("chunks")]
    assert leaves == ["second", "first", "second"]


async def test_a_version_is_written_only_over_the_one_before(catalog: Catalog) -> None:
    assert await catalog.put_version("sessions", {"_id": "s", "version": 1})
    assert not await catalog.put_version("sessions", {"_id": "s", "version": 1})
    assert await catalog.put_version("sessions", {"_id": "s", "version": 2, "state": "new"})
    assert not await catalog.put_version("sessions", {"_id": "s", "version": 2, "state": "late"})
    assert not await catalog.put_version("sessions", {"_id": "s", "version": 4})
    assert (await catalog.get("sessions", "s") or {})["state"] == "new"


async def test_of_many_that_write_the_same_version_one_succeeds(catalog: Catalog) -> None:
    assert await catalog.put_version("sessions", {"_id": "s", "version": 1})
    for version in range(2, 12):
        done = await asyncio.gather(*(
            catalog.put_version("sessions", {"_id": "s", "version": version, "by": writer})
            for writer in range(16)
        ))  # fmt: skip
        assert sum(done) == 1
        assert (await catalog.get("sessions", "s") or {})["by"] == done.index(True)


async def test_finds_use_the_indexes(catalog: Catalog) -> None:
    """Else each costs as much as the collection is long."""
    await catalog.insert("chunks", {"_id": "s:0", "session": "s", "index": 0})
    for query in ({"_id": "s:0"}, {"_id": "s:0", "version": 3}, {"session": "s"}):
        plan = str(await catalog._database.command("explain", {"find": "chunks", "filter": query}))
        assert "SEARCH" in plan or "IXSCAN" in plan or "IDHACK" in plan, plan
        assert "detail=SCAN" not in plan, plan
        assert "COLLSCAN" not in plan, plan


async def test_a_find_by_equality_means_what_it_means_everywhere(catalog: Catalog) -> None:
    """An array matches by its elements, and a field's name is never taken for a path."""
    documents = [
        {"_id": "a", "name": "x", "rowid": "x"},
        {"_id": "b", "name": ["x", "y"]},
        {"_id": "d", "name": {"x": "x"}},
        {"_id": "e", "name": 'x"'},
        {"_id": "f", "name": "\u00e9\n", "naïve": "x"},
        {"_id": "g"},
    ]
    await catalog.insert_many("odd", documents)

    async def ids(query: dict[str, object]) -> list[str]:
        return [one["_id"] for one in await catalog.find("odd", query)]

    assert await ids({"name": "x"}) == ["a", "b"]
    assert await ids({"name": 'x"'}) == ["e"]
    assert await ids({"name": "\u00e9\n"}) == ["f"]
    assert await ids({"naïve": "x"}) == ["f"]
    assert await ids({"rowid": "x"}) == ["a"]
    assert await ids({"name.x": "x"}) == ["d"]
    assert await ids({"name": "x", "_id": "b"}) == ["b"]
    assert await ids({"name": "z"}) == []


async def test_chunks_come_in_the_order_of_their_index(catalog: Catalog) -> None:
    for index in (10, 2, 0):
        await catalog.insert("chunks", {"_id": f"s:{index}", "session": "s", "index": index})
    await catalog.insert("chunks", {"_id": "t:1", "session": "t", "index": 1})
    assert [one["index"] async for one in catalog.chunks("s")] == [0, 2, 10]
    found = await catalog.find("chunks", {"session": "s"}, sort="index", newest_first=True, limit=2)
    assert [one["index"] for one in found] == [10, 2]


async def test_a_catalog_that_is_away_is_a_typed_error_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.platform.catalog.ANSWER_MS", 200)
    url = "mongodb://ada:open-sesame@127.0.0.1:1/"
    async with Catalog(Settings.load(home=tmp_path, mongo=url)) as away:
        for work in (
            away.ping(), away.prepare(), away.insert("chunks", {"_id": "a"}),
            away.insert_many("chunks", [{"_id": "a"}]), away.get("chunks", "a"),
            away.find("chunks"), away.put_version("sessions", {"_id": "s", "version": 2}),
        ):  # fmt: skip
            with pytest.raises(CatalogUnreachable, match="LUCID_MONGO") as caught:
                await work
            assert "open-sesame" not in str(caught.value)
            assert caught.value.exit_status == 69
