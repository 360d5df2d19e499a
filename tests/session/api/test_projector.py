"""Views written live on the real broker and catalog, and built anew to the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.platform.catalog import Catalog
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.control import ControlPlane
from agents.platform.deadletters import DeadLetters
from agents.platform.metrics import Metrics
from agents.platform.producer import Producer
from agents.platform.projection_commands import rebuild
from agents.platform.projector import Overtaken, Projector
from agents.platform.retry import Backoff
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from agents.session.api.audit_view import AUDIT
from agents.session.api.views import CHUNK_PAGES, SESSION_EVENTS, STATISTICS
from schemas.audit import AuditEvent, LetterDiscarded
from schemas.canonical import Strict
from schemas.deadletters import from_kafka
from schemas.events import SessionEvent, SessionPaused, subject_of
from tests.conftest import Stack
from tests.session.api.test_views import ID, chunk, placed

VIEWS = [CHUNK_PAGES, STATISTICS, SESSION_EVENTS]


@dataclass
class House:
    """A broker's topics and a catalog's database of their own."""

    settings: Settings
    contract: Contract
    catalog: Catalog
    producer: Producer
    taken: list[int] = field(default_factory=list)

    async def send(self, *data: Strict) -> None:
        topic = self.contract.topic("session.events").full_name
        for one in data:
            await self.producer.send_event(topic, SessionEvent(one, "lucid/t/h", subject_of(one)))

    async def audit(self, *reasons: str) -> None:
        topic = self.contract.topic("audit.events").full_name
        for reason in reasons:
            data = LetterDiscarded(origin="t/0/1", letter=4, session=ID, reason=reason)
            await self.producer.send_event(topic, AuditEvent(data, "lucid/cli/h", ID, user="ada"))

    async def run(self, until: Callable[[], Awaitable[bool]]) -> None:
        """Write the views until a condition holds."""
        metrics = Metrics("test", version="0")
        topic = self.contract.topic("dead.letters").full_name
        letters = DeadLetters(self.producer, topic=topic, service="t", metrics=metrics)
        plane = ControlPlane(
            self.settings, "views", letters=letters, metrics=metrics,
            backoff=lambda: Backoff(0.02, 0.1),
        )  # fmt: skip
        for name, views in (("session.events", VIEWS), ("audit.events", [AUDIT])):
            projector = Projector(self.catalog, views)

            async def take(records: Any, projector: Projector = projector) -> Any:
                self.taken.append(len(records))
                return await projector.take(records)

            plane.consume_many(self.contract.topic(name).full_name, take)
        stop = StopSignal()
        running = asyncio.create_task(plane.run(stop))
        try:
            async with asyncio.timeout(30):
                while not await until() and not running.done():
                    await asyncio.sleep(0.05)
        finally:
            stop.set()
            await asyncio.wait_for(running, 15)

    async def documents(self, name: str) -> dict[str, dict[str, Any]]:
        return {
            one["_id"]: {**one, "version": 0} for one in await self.catalog.find(name)
        }  # fmt: skip


@pytest.fixture
async def house(stack: Stack, tmp_path: Path) -> AsyncIterator[House]:
    name = f"views{uuid4().hex[:8]}"
    settings = Settings.load(
        home=tmp_path, kafka=stack.kafka, mongo=stack.mongo, database=name,
        topic_prefix=f"{name}.",
    )  # fmt: skip
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        yield House(settings, contract, catalog, producer)


async def test_views_are_written_in_batches_and_built_anew_to_the_same(house: House) -> None:
    await house.send(*(chunk(n % 30) for n in range(60)), SessionPaused(session=ID, reason="x"))
    await house.audit(*(f"reason {n}" for n in range(20)))

    async def all_there() -> bool:
        audit = await house.documents("audit")
        events = await house.documents("session_events")
        return bool(events) and sum(len(one["entries"]) for one in audit.values()) == 20

    await house.run(all_there)
    assert max(house.taken) > 1, "records that wait are taken together"
    before = {name: await house.documents(name) for name in ("audit", *(v.name for v in VIEWS))}
    # The audit view is first: a rebuild is itself an act on its topic.
    (page,) = before["chunk_pages"].values()
    assert len(page["chunks"]) == 30
    assert before["statistics"][ID]["chunks"] == 30
    for name, documents in before.items():
        result = await rebuild(house.settings, name)
        assert (result.equal, result.corrected, result.carried) == (len(documents), [], [])
        assert await house.documents(name) == documents


async def test_what_is_no_event_becomes_one_dead_letter_and_stops_no_view(house: House) -> None:
    await house.send(chunk(0))
    await house.producer.send(
        house.contract.topic("session.events").full_name, b"{}", key=ID.encode()
    )
    await house.send(chunk(1))

    async def both() -> bool:
        return (await house.documents("statistics")).get(ID, {}).get("chunks") == 2

    await house.run(both)
    topic = house.contract.topic("dead.letters").full_name
    letters = [
        from_kafka(raw.key, raw.headers, raw.value)
        async for raw in read_topic(house.settings, topic)
    ]
    assert [(one.code, one.value) for one in letters] == [("InvalidEvent", b"{}")]


async def test_two_writers_of_one_document_lose_nothing(house: House) -> None:
    class Slow(Catalog):
        """Another writer comes between reading and writing."""

        async def put_version(self, collection: str, document: Any) -> bool:
            if not self.__dict__.get("overtaken"):
                self.__dict__["overtaken"] = True
                await Projector(house.catalog, VIEWS).take([second, late])  # type: ignore[list-item]
            return await super().put_version(collection, document)

    first, second, late = (placed(chunk(n), n) for n in range(3))
    await Projector(house.catalog, VIEWS).take([first])  # type: ignore[list-item]
    async with Slow(house.settings) as slow:
        with pytest.raises(Overtaken):
            await Projector(slow, VIEWS).take([second, late])  # type: ignore[list-item]
        await Projector(slow, VIEWS).take([second, late])  # type: ignore[list-item]
    found = (await house.documents("statistics"))[ID]
    assert (found["positions"], found["chunks"]) == ({"2": 2}, 3)
