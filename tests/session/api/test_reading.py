"""What the API keeps of the catalog is not served once an erasure has begun."""

from __future__ import annotations

from typing import Any

import pytest

from agents.session.api.index import Row, SessionIndex
from agents.session.api.problems import ApiProblem
from agents.session.api.reading import Reading
from schemas.sessions import new_session_id


class Shelf:
    """A catalog of documents by collection and key, which counts what is read."""

    def __init__(self, **documents: dict[str, Any]) -> None:
        self.documents, self.reads = documents, 0

    async def where(self, collection: str) -> str:
        return collection

    async def get(self, collection: str, key: str) -> dict[str, Any] | None:
        self.reads += 1
        found: dict[str, Any] | None = self.documents.get(collection, {}).get(key)
        return found


def row_of(session: str, **more: Any) -> Row:
    index = SessionIndex()
    index.put([{"_id": session, "state": "completed", "version": 1, "next_index": 1, **more}])
    found = index.get(session)
    assert found is not None
    return found


async def test_a_settled_session_is_read_once_until_it_is_erased() -> None:
    session = str(new_session_id())
    shelf = Shelf(
        manifests={session: {"manifest": "m"}},
        chunk_pages={f"{session}/0": {"chunks": {"0": {"index": 0, "leaf": "ab" * 32}}}},
    )
    reading: Any = Reading(shelf)  # type: ignore[arg-type]
    row = row_of(session)
    for _ in range(3):
        assert (await reading.manifest(row))["manifest"] == "m"
        assert await reading.leaves(row, 1) == [b"\xab" * 32]
    assert shelf.reads == 2
    shelf.documents.clear()
    erased = row_of(session, erasures={"metadata": "shredded"})
    assert not erased.whole
    with pytest.raises(ApiProblem, match="was erased"):
        await reading.manifest(erased)
    assert await reading.leaves(erased, 1) == []


def test_a_text_that_looks_like_it_does_not_hide_an_erasure() -> None:
    session = str(new_session_id())
    opened = {"owner": '"erased":{}', "started": 1}
    assert row_of(session, opened=opened).whole
    assert not row_of(session, opened=opened, erasures={"content": "erasing"}).whole
