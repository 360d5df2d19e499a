"""Scrubs of a real store, with the real catalog and broker: found, told once, resolved."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from agents.platform.blobs import Blobs, StoreFailed
from agents.platform.catalog import Catalog
from agents.platform.contract import load_contract
from agents.platform.eventbus import EventBus
from agents.platform.producer import Producer
from agents.platform.service import StopSignal
from agents.platform.settings import Settings
from agents.session.storage.findings import Ledger
from agents.session.storage.keeper import Keeper
from agents.session.storage.metrics import ScrubMetrics, StorageMetrics
from agents.session.storage.reading import Reader
from agents.session.storage.rounds import Off, Rounds, alone, load_place, make_scrub
from agents.session.storage.scrub import BESIDE
from agents.session.storage.settings import StorageSettings
from schemas.events import ScrubFinding, ScrubResolved
from schemas.stored import ChunkRecord
from tests.conftest import Stack
from tests.memory_source import MemorySource
from tests.platform.topics import create_topic
from tests.session.storage.scrub_store import Store, flip
from tests.waiting import until


@pytest.fixture
async def store(stack: Stack, tmp_path: Path) -> AsyncIterator[Store]:
    mark = uuid4().hex[:10]
    settings = Settings.load(
        home=tmp_path, mongo=stack.mongo, kafka=stack.kafka, database=f"scrub_{mark}",
        topic_prefix=f"scrub-{mark}.",
    )  # fmt: skip
    contract = load_contract(settings)
    topic = contract.topic("session.events").full_name
    await create_topic(settings, topic, 1)
    blobs = Blobs(settings.blobs_dir)
    blobs.root.mkdir()
    async with Catalog(settings) as catalog, Producer(settings, contract.limits) as producer:
        events = EventBus(producer, contract, service="storage", host="here")
        with ThreadPoolExecutor(2) as pool:
            keeper = Keeper(blobs, catalog, pool, StorageMetrics(CollectorRegistry()))
            metrics = ScrubMetrics(CollectorRegistry())
            yield Store(settings, blobs, catalog, pool, events, topic, metrics, keeper)


async def test_a_store_in_order_has_no_findings(store: Store) -> None:
    await store.fill(manifest=False)
    assert await store.verdicts() == {}
    await store.fill()
    (store.blobs.root / "lost+found").mkdir()
    before = store.metrics.bytes._value.get()
    looks = [one async for one in store.scrubber().look(store.session)]
    assert [one.name for one in looks if one.there] == sorted(
        path.name for path in store.blobs.folder(store.session).iterdir()
    )
    assert [one.finding for one in looks if one.finding] == []
    assert await store.verdicts(BESIDE) == {}
    assert await store.scrubber().sessions() == [BESIDE, store.session]
    sizes = [path.stat().st_size for path in store.blobs.folder(store.session).iterdir()]
    assert store.metrics.bytes._value.get() - before == sum(sizes)


async def test_every_kind_of_damage_is_found(store: Store) -> None:
    await store.fill()
    flip(store.path("00000000.chunk"))
    store.path("00000001.chunk").unlink()
    store.path("manifest.json").write_bytes(store.made.manifest_bytes + b"x")
    flip(store.path("checkpoint.txt"))
    flip(store.path("key.age"))
    store.path("00000002.chunk").rename(store.path("00000007.chunk"))
    store.path("00000002.chunk").mkdir()
    store.path("notes.txt").touch()
    store.path(".tmp-0011223344556677").touch()
    store.path("conflicts").mkdir()
    store.path(f"conflicts/key.{'ab' * 32}.age").write_bytes(b"rotten")
    (store.blobs.root / "stray").mkdir()
    assert await store.verdicts() == {
        "00000000.chunk": "ChecksumMismatch", "00000001.chunk": "MissingFile",
        "00000002.chunk": "Unknown", "00000007.chunk": "CatalogMissing",
        "checkpoint.txt": "ChecksumMismatch", "key.age": "ChecksumMismatch",
        "manifest.json": "SizeMismatch", "notes.txt": "UnexpectedFile",
        ".tmp-0011223344556677": "UnexpectedFile",
        f"conflicts/key.{'ab' * 32}.age": "ChecksumMismatch",
    }  # fmt: skip
    assert await store.verdicts(BESIDE) == {"stray": "UnexpectedFile"}
    young = await store.verdicts(grace=300.0)
    assert {"notes.txt", "00000007.chunk", ".tmp-0011223344556677"}.isdisjoint(young)
    assert len(young) == 7


async def test_a_session_that_is_only_in_the_catalog_is_found_by_it(store: Store) -> None:
    await store.fill()
    folder = store.blobs.folder(store.session)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert store.session in await store.scrubber().sessions()
    found = await store.verdicts()
    assert len(found) == len(store.made.chunks) + 3
    assert set(found.values()) == {"MissingFile"}
    folder.write_text("a file in its place")
    assert await store.verdicts() == {".": "Unknown"}


async def test_a_chunk_gone_from_both_sides_is_missed_by_the_manifest_that_counts_it(
    store: Store,
) -> None:
    await store.fill()
    name = "00000001.chunk"
    store.path(name).unlink()
    await store.catalog._database.chunks.delete_one({"_id": f"{store.session}:1"})
    assert await store.verdicts() == {}, "it may still be on its way"
    sessions = await store.catalog.where("sessions")
    await store.catalog.insert(sessions, {"_id": store.session, "state": "completed"})
    assert await store.verdicts() == {name: "MissingFile"}


async def test_an_entry_that_comes_meanwhile_is_no_finding(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is made between the first question for it and the look at the file."""
    scrubber, chunk = store.scrubber(), store.made.chunks[0]
    store.blobs.put(store.session, "key.age", store.made.wrapped)
    store.blobs.put(store.session, "00000000.chunk", chunk.data)
    look = Reader.look
    loop = asyncio.get_running_loop()

    def late(self: Reader, path: Path, *rest: Any) -> Any:
        if path.name == "00000000.chunk":
            keep = store.keeper.keep_chunk(ChunkRecord(chunk, store.made.wrapped))
            asyncio.run_coroutine_threadsafe(keep, loop).result(30)
        return look(self, path, *rest)

    monkeypatch.setattr(Reader, "look", late)
    found = {one.name: one.finding async for one in scrubber.look(store.session) if one.there}
    assert found == {"00000000.chunk": None, "key.age": None}


async def test_a_finding_is_told_once_and_once_more_when_it_is_mended(store: Store) -> None:
    await store.fill()
    whole = store.path("00000000.chunk").read_bytes()
    flip(store.path("00000000.chunk"))
    (store.blobs.root / "stray").touch()
    await store.rounds().round()
    await store.rounds().round()
    store.path("00000000.chunk").write_bytes(whole[:-1])
    await store.rounds().round()
    assert store.metrics.open._value.get() == 2
    ledger = Ledger(store.catalog)
    assert [(one.name, one.verdict) for one in await ledger.open_findings(store.session)] == [
        ("00000000.chunk", "SizeMismatch")
    ]
    store.path("00000000.chunk").write_bytes(whole)
    (store.blobs.root / "stray").unlink()
    await store.rounds().round()
    assert await ledger.open_findings() == []
    assert store.metrics.open._value.get() == 0
    assert [(type(data), data.verdict, data.index) for data in await store.told()] == [
        (ScrubFinding, "ChecksumMismatch", 0),
        (ScrubFinding, "SizeMismatch", 0),
        (ScrubResolved, "SizeMismatch", 0),
    ]
    counted = store.metrics.findings.labels("ChecksumMismatch")._value.get()
    assert counted == 1
    flip(store.path("00000000.chunk"))
    await store.rounds().round()
    assert [one.verdict for one in await ledger.open_findings()] == ["ChecksumMismatch"]


async def run_until(rounds: Rounds, look: Callable[[], Any]) -> None:
    """Run the part until `look` is true, then stop it."""
    stop = StopSignal()
    task = asyncio.create_task(rounds.run(stop))
    await until(lambda: look() or task.done())
    stop.set()
    async with asyncio.timeout(5):
        await task


async def test_it_goes_on_where_it_was(store: Store) -> None:
    await store.fill()
    read = store.metrics.bytes._value
    size = sum(path.stat().st_size for path in store.blobs.folder(store.session).iterdir())
    # Slow enough to be in the middle: a chunk passes the bucket, then it has to wait.
    await run_until(store.rounds(rate=1), lambda: store.metrics.files._value.get() or read.get())
    place = load_place(store.settings.home / "scrub.json")
    assert place.begun is not None
    assert 0 < read.get() < size
    assert (store.settings.home / "scrub.json").stat().st_mode & 0o777 == 0o600
    seen = [one.name async for one in store.scrubber().look(store.session, "00000001.chunk")]
    rest = [f"{index:08d}.chunk" for index in range(2, len(store.made.chunks))]
    assert seen == [*rest, "checkpoint.txt", "key.age", "manifest.json"]
    end = store.metrics.round_end._value
    await run_until(store.rounds(), lambda: end.get())
    done = load_place(store.settings.home / "scrub.json")
    assert (done.begun, done.name) == (None, "")
    assert done.ended == end.get()
    # The pause outlives the restart.
    again = store.rounds()
    assert 50 < again._due() <= 60
    files = store.metrics.files._value.get()
    stop = StopSignal()
    task = asyncio.create_task(again.run(stop))
    await until(lambda: again._ledger.count == 0)
    stop.set()
    await task
    assert store.metrics.files._value.get() == files


async def test_a_round_that_was_stopped_looks_at_nothing_twice(store: Store) -> None:
    await store.fill()
    (store.settings.home / "scrub.json").write_text(
        json.dumps({"session": store.session, "name": "checkpoint.txt", "begun": 1.0, "ended": 0})
    )
    flip(store.path("00000000.chunk"))
    await store.rounds().round()
    assert await Ledger(store.catalog).open_findings() == []
    assert store.metrics.files._value.get() == 2, "key and manifest"
    await store.rounds().round()
    assert len(await Ledger(store.catalog).open_findings()) == 1


async def test_a_place_that_cannot_be_read_or_saved_costs_nothing_but_time(store: Store) -> None:
    file = store.settings.home / "scrub.json"
    file.write_text("nonsense")
    assert load_place(file).begun is None
    file.unlink()
    file.mkdir()
    await store.fill()
    await store.rounds().round()
    assert store.metrics.round_end._value.get() > 0
    assert list(store.settings.home.glob(".scrub*")) == []


async def test_a_store_that_is_not_there_is_no_damage(store: Store) -> None:
    await store.fill()
    store.blobs.root.rename(store.settings.home / "unmounted")
    with pytest.raises(StoreFailed, match="Is the disk mounted"):
        await store.rounds().round()
    with pytest.raises(StoreFailed), alone(store.blobs.root):
        pass
    rounds = store.rounds()
    stop = StopSignal()
    task = asyncio.create_task(rounds.run(stop))
    store.metrics.open.set(7)
    await until(lambda: store.metrics.open._value.get() == 0)
    (store.settings.home / "unmounted").rename(store.blobs.root)
    await until(lambda: store.metrics.round_end._value.get())
    stop.set()
    await task
    assert await Ledger(store.catalog).open_findings() == []


async def test_one_scrubs_at_a_time(store: Store) -> None:
    with alone(store.blobs.root) as first, alone(store.blobs.root) as second:
        assert (first, second) == (True, False)
        rounds = store.rounds(pause=0.01)
        rounds._place.ended = 0.0
        stop = StopSignal()
        task = asyncio.create_task(rounds.run(stop))
        await until(lambda: rounds._ledger.count == 0 and rounds._due() == 0)
        stop.set()
        await task
    assert store.metrics.files._value.get() == 0
    with alone(store.blobs.root) as free:
        assert free


async def test_a_rate_of_0_turns_it_off(store: Store) -> None:
    registry = CollectorRegistry()
    arguments = (store.catalog, store.events, registry, store.pool)
    off = make_scrub(store.settings, StorageSettings.load(scrub_rate=0), *arguments)
    assert isinstance(off, Off)
    stop = StopSignal()
    task = asyncio.create_task(off.run(stop))
    stop.set()
    await asyncio.wait_for(task, 5)
    on = make_scrub(store.settings, StorageSettings.load(), *arguments)
    assert isinstance(on, Rounds)
    assert os.listdir(store.blobs.root) == []


async def test_it_leaves_a_catalog_that_hangs_at_once(store: Store) -> None:
    await store.fill()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = Settings.load(
            home=store.settings.home, mongo=f"mongodb://127.0.0.1:{mute.getsockname()[1]}/"
        )
        async with Catalog(settings) as catalog:
            store.catalog = catalog
            begin = time.monotonic()
            await run_until(store.rounds(), lambda: time.monotonic() - begin > 0.2)
            assert time.monotonic() - begin < 4


# Erased sessions ------------------------------------------------------------------------------


def erase(store: Store, *, metadata: bool = False) -> None:
    """Leave what an erasure leaves."""
    source = MemorySource.of(store.made)
    source.erase(store.made, "metadata" if metadata else "content")
    left = source.erased
    assert left is not None
    assert left.leaves is not None
    for path in store.blobs.folder(store.session).iterdir():
        if path.suffix in (".chunk", ".age") or (metadata and path.name == "manifest.json"):
            path.unlink()
    files = {
        "leaves.txt": left.leaves, "headers.bin": left.headers,
        "erasure-content.txt": left.content, "erasure-metadata.txt": left.metadata,
    }  # fmt: skip
    for name, data in files.items():
        if data is not None:
            store.path(name).write_bytes(data)


async def test_what_was_erased_is_not_missed(store: Store) -> None:
    await store.fill()
    await store.catalog.insert(
        await store.catalog.where("sessions"), {"_id": store.session, "state": "completed"}
    )
    erase(store)
    assert await store.verdicts() == {}
    names = {one.name async for one in store.scrubber().look(store.session)}
    assert names == {"manifest.json", "checkpoint.txt", "leaves.txt", "headers.bin",
                     "erasure-content.txt"}  # fmt: skip
    await store.catalog.delete("manifests", store.session)
    erase(store, metadata=True)
    store.path("headers.bin").unlink()
    assert await store.verdicts() == {}


async def test_remnants_and_damage_of_what_stays_are_found(store: Store) -> None:
    await store.fill()
    erase(store)
    store.path("00000001.chunk").write_bytes(store.made.chunks[1].data)
    store.path("key.age").write_bytes(store.made.wrapped)
    flip(store.path("leaves.txt"))
    store.path("headers.bin").unlink()
    flip(store.path("manifest.json"))
    assert await store.verdicts() == {
        "00000001.chunk": "UnexpectedFile", "key.age": "UnexpectedFile",
        "leaves.txt": "ChecksumMismatch", "headers.bin": "MissingFile",
        "manifest.json": "ChecksumMismatch",
    }  # fmt: skip
    store.path("erasure-content.txt").write_bytes(b"something else")
    assert (await store.verdicts())["erasure-content.txt"] == "ChecksumMismatch"


async def test_findings_of_files_that_were_erased_are_taken_back(store: Store) -> None:
    await store.fill()
    store.path("00000001.chunk").unlink()
    await store.rounds().round()
    assert len(await Ledger(store.catalog).open_findings()) == 1
    erase(store)
    await store.rounds().round()
    assert await Ledger(store.catalog).open_findings() == []
