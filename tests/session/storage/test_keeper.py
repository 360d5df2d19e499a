"""Storage: file before entry, first one wins, no key needed; with the real catalog."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from agents.platform.blobs import Blobs
from agents.platform.catalog import Catalog
from agents.platform.retry import CatalogUnreachable
from agents.platform.settings import Settings
from agents.session.storage.keeper import Keeper
from agents.session.storage.metrics import StorageMetrics
from schemas.canonical import Strict
from schemas.chunks import Chunk
from schemas.errors import FormatError
from schemas.events import ChunkConflict, ChunkStored, ManifestConflict, ManifestStored
from schemas.manifests import read_manifest
from schemas.merkle import leaf_hash
from schemas.stored import ChunkRecord, ManifestRecord
from tests.conftest import Stack
from tests.factories import MadeSession, make_session


@pytest.fixture
async def keeper(stack: Stack, tmp_path: Path) -> AsyncIterator[Keeper]:
    settings = Settings.load(home=tmp_path, mongo=stack.mongo, database=f"k{uuid4().hex[:10]}")
    async with Catalog(settings) as catalog:
        with ThreadPoolExecutor(2) as pool:
            metrics = StorageMetrics(CollectorRegistry())
            yield Keeper(Blobs(tmp_path / "blobs"), catalog, pool, metrics)


@pytest.fixture(scope="module")
def made() -> MadeSession:
    return make_session()


def manifest_record(made: MadeSession) -> tuple[ManifestRecord, object]:
    record = ManifestRecord(made.manifest_bytes, made.checkpoint, made.wrapped)
    return record, read_manifest(made.manifest_bytes)


async def keep(keeper: Keeper, made: MadeSession, index: int = 0) -> Strict:
    return await keeper.keep_chunk(ChunkRecord(made.chunks[index], made.wrapped))


async def test_a_chunk_is_a_file_and_an_entry(keeper: Keeper, made: MadeSession) -> None:
    event = await keep(keeper, made, 1)
    chunk = made.chunks[1]
    session = made.manifest.session
    assert isinstance(event, ChunkStored)
    assert (event.index, event.leaf, event.size) == (1, chunk.leaf.hex(), len(chunk.data))
    assert keeper.blobs.get(session, "00000001.chunk") == chunk.data
    assert keeper.blobs.get(session, "key.age") == made.wrapped
    entry = await keeper.catalog.get("chunks", f"{session}:1")
    assert entry is not None
    assert entry["leaf"] == chunk.leaf.hex()


async def test_the_same_again_is_a_no_op(keeper: Keeper, made: MadeSession) -> None:
    assert await keep(keeper, made) == await keep(keeper, made)
    assert keeper.metrics.duplicates._value.get() == 1
    assert keeper.metrics.conflicts._value.get() == 0


async def test_a_different_chunk_is_kept_aside(keeper: Keeper, made: MadeSession) -> None:
    await keep(keeper, made)
    first = made.chunks[0]
    data = first.data[:-1] + bytes([first.data[-1] ^ 1])
    other = Chunk(first.header, data, leaf_hash(data))
    event = await keeper.keep_chunk(ChunkRecord(other, made.wrapped))
    assert isinstance(event, ChunkConflict)
    assert (event.stored_leaf, event.refused_leaf) == (first.leaf.hex(), other.leaf.hex())
    session = made.manifest.session
    assert keeper.blobs.get(session, "00000000.chunk") == first.data
    aside = keeper.blobs.folder(session) / "conflicts" / f"00000000.{other.leaf.hex()}.chunk"
    assert aside.read_bytes() == data
    assert await keeper.catalog.find("conflicts", {"session": session})
    entry = await keeper.catalog.get("chunks", f"{session}:0")
    assert entry is not None
    assert entry["leaf"] == first.leaf.hex()


async def test_the_file_comes_before_the_entry(
    keeper: Keeper, made: MadeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise CatalogUnreachable("the catalog is away")

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "insert", away)
        with pytest.raises(CatalogUnreachable):
            await keep(keeper, made)
    session = made.manifest.session
    assert keeper.blobs.get(session, "00000000.chunk") == made.chunks[0].data
    assert await keeper.catalog.get("chunks", f"{session}:0") is None
    assert isinstance(await keep(keeper, made), ChunkStored)
    assert await keeper.catalog.get("chunks", f"{session}:0") is not None


async def test_a_manifest_is_kept_with_its_checkpoint(keeper: Keeper, made: MadeSession) -> None:
    record, manifest = manifest_record(made)
    event = await keeper.keep_manifest(record, manifest)  # type: ignore[arg-type]
    again = await keeper.keep_manifest(record, manifest)  # type: ignore[arg-type]
    assert isinstance(event, ManifestStored)
    assert event == again
    session = made.manifest.session
    assert keeper.blobs.get(session, "checkpoint.txt").decode() == made.checkpoint
    entry = await keeper.catalog.get("manifests", session)
    assert entry is not None
    assert entry["manifest"].encode() == made.manifest_bytes


async def test_a_different_manifest_is_kept_aside(keeper: Keeper, made: MadeSession) -> None:
    record, manifest = manifest_record(made)
    keeper.blobs.put(made.manifest.session, "manifest.json", b"the first one")
    event = await keeper.keep_manifest(record, manifest)  # type: ignore[arg-type]
    assert isinstance(event, ManifestConflict)
    assert keeper.blobs.get(made.manifest.session, "manifest.json") == b"the first one"


def test_a_record_that_is_cut_off_or_foreign_is_refused_without_a_key(made: MadeSession) -> None:
    key, headers, value = ChunkRecord(made.chunks[0], made.wrapped).to_kafka()
    assert ChunkRecord.from_kafka(key, headers, value).chunk == made.chunks[0]
    other = make_session(seed=4)
    flipped = bytes([value[300] ^ 1])
    for bad_key, bad_value in (
        (key, value[:-1]),
        (key, value + b"x"),
        (key, value[:300] + flipped + value[301:]),
        (str(other.manifest.session).encode(), value),
        (None, value),
        (key, None),
    ):
        with pytest.raises(FormatError):
            ChunkRecord.from_kafka(bad_key, headers, bad_value)


async def test_a_chunk_that_conflicts_leaves_no_key(keeper: Keeper, made: MadeSession) -> None:
    session = made.manifest.session
    keeper.blobs.put(session, "00000000.chunk", b"the first one")
    assert isinstance(await keep(keeper, made), ChunkConflict)
    assert keeper.blobs.find(session, "key.age") is None


async def test_what_a_crash_left_out_is_made_up_for(keeper: Keeper, made: MadeSession) -> None:
    session = made.manifest.session
    keeper.blobs.put(session, "00000000.chunk", made.chunks[0].data)
    assert isinstance(await keep(keeper, made), ChunkStored)
    assert keeper.blobs.get(session, "key.age") == made.wrapped
    keeper.blobs.put(session, "manifest.json", made.manifest_bytes)
    record, manifest = manifest_record(made)
    assert isinstance(await keeper.keep_manifest(record, manifest), ManifestStored)  # type: ignore[arg-type]
    assert keeper.blobs.get(session, "checkpoint.txt").decode() == made.checkpoint


async def test_another_key_is_kept_aside_and_the_record_is_taken(
    keeper: Keeper, made: MadeSession
) -> None:
    session = made.manifest.session
    keeper.blobs.put(session, "key.age", b"the first one")
    assert isinstance(await keep(keeper, made), ChunkStored)
    record, manifest = manifest_record(made)
    assert isinstance(await keeper.keep_manifest(record, manifest), ManifestStored)  # type: ignore[arg-type]
    assert keeper.blobs.get(session, "key.age") == b"the first one"
    aside = list((keeper.blobs.folder(session) / "conflicts").glob("key.*.age"))
    assert [path.read_bytes() for path in aside] == [made.wrapped]
    assert keeper.metrics.conflicts._value.get() == 2
