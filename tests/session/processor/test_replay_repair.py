"""What a replay restores, and what it leaves as evidence."""

from __future__ import annotations

from typing import Any

import pytest

from agents.platform.blobs import CHECKPOINT, ERASED_CONTENT, KEY, MANIFEST, chunk_name
from agents.platform.keys import load_recipients
from agents.session.processor.repair import Repair
from schemas.audit import ChunksRepaired, SessionReplayed
from schemas.chunks import read_chunk
from schemas.events import ChunkStored, ManifestStored
from schemas.manifests import Manifest, checkpoint_of
from schemas.notes import Signer
from tests.session.processor.replay_house import (
    PARTITION,
    D,
    House,
    flip,
    make_log,
    rows,
)


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "bit-flipped", "exchanged!", "empty", "huge"]
)
async def test_a_damaged_chunk_is_restored_and_the_former_file_kept(
    house: House, damage: str
) -> None:
    session = await house.record(seed=100 + len(damage))
    path = house.path(session, 1)
    right = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(right[:-5])
        case "bit-flipped":
            flip(path)
        case "exchanged!":
            path.write_bytes(house.path(session, 2).read_bytes())
        case "empty":
            path.write_bytes(b"")
        case "huge":
            with path.open("ab") as file:
                file.truncate(18 * 1024**2)
    assert await house.verified(session)
    rotten = path.read_bytes() if path.exists() else None
    report = await house.replay(session, repair=True)
    (found,) = report.results
    assert (report.exit_status, found.outcome) == (0, "repaired"), found.differences
    assert path.read_bytes() == right
    assert path.stat().st_mode & 0o777 == 0o600
    assert await house.verified(session) == set()
    aside = [one.read_bytes() for one in (house.blobs.folder(session) / "conflicts").glob("*")]
    assert aside == ([] if rotten is None else [rotten])
    (event,) = await house.session_events()
    assert isinstance(event.data, ChunkStored)
    assert (event.data.index, event.data.leaf) == (1, read_chunk(right).leaf.hex())
    assert [type(data) for data in await house.audited()] == [SessionReplayed, ChunksRepaired]
    assert (await house.replay(session)).results[0].outcome == "identical"


async def test_everything_of_a_session_is_restored_from_its_log(house: House) -> None:
    session = await house.record(seed=5)
    folder = house.blobs.folder(session)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    database = house.catalog._database
    await database.chunks.delete_many({"session": session})
    await database.manifests.delete_one({"_id": session})
    report = await house.replay(session, repair=True)
    assert report.exit_status == 0, report.results[0].differences
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before
    assert await house.verified(session) == set()
    kinds = [type(event.data) for event in await house.session_events()]
    assert kinds.count(ManifestStored) == 1
    assert kinds.count(ChunkStored) == report.results[0].chunks


async def test_documents_that_rotted_are_restored_as_they_were_signed(house: House) -> None:
    session = await house.record(seed=6)
    right = {name: house.path(session, name).read_bytes() for name in (MANIFEST, CHECKPOINT, KEY)}
    flip(house.path(session, MANIFEST), 60)
    flip(house.path(session, CHECKPOINT), 60)
    house.path(session, KEY).write_bytes(b"not age")
    (house.settings.keys_dir / "processor.key").unlink()
    report = await house.replay(session, repair=True)
    assert report.exit_status == 0, report.results[0].differences
    for name, data in right.items():
        assert house.path(session, name).read_bytes() == data
    assert len(list((house.blobs.folder(session) / "conflicts").iterdir())) == 3


async def test_a_checkpoint_that_is_nowhere_needs_the_processors_key(house: House) -> None:
    session = await house.record(seed=7)
    note = house.path(session, CHECKPOINT).read_bytes()
    house.path(session, CHECKPOINT).unlink()
    await house.catalog._database.manifests.delete_one({"_id": session})
    key = house.settings.keys_dir / "processor.key"
    kept = key.read_text()
    key.unlink()
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    by_name = {row.name: row for row in report.results[0].differences}
    assert "processor's key" in by_name[CHECKPOINT].repair
    assert not house.path(session, CHECKPOINT).exists()
    key.write_text(kept)
    key.chmod(0o600)
    assert (await house.replay(session, repair=True)).exit_status == 0
    assert house.path(session, CHECKPOINT).read_bytes() == note


async def test_nothing_is_replaced_by_what_was_not_signed(house: House) -> None:
    recipients = load_recipients(house.settings)
    records = make_log(recipients, 30, 8)
    offsets = await house.log(records)
    await house.store([one for one in records if one.seq != 4], PARTITION, offsets[0])
    session = str(records[0].session)
    house.path(session, 1).unlink()
    before = {path.name: path.read_bytes() for path in house.blobs.folder(session).iterdir()}
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    reasons = {row.repair for row in report.results[0].differences}
    assert reasons == {
        "not repaired: the log does not give what the checkpoint names",
        "not repaired: the catalog's entry names another hash; it stays as evidence",
    }
    after = {path.name: path.read_bytes() for path in house.blobs.folder(session).iterdir()}
    assert after == before
    assert await house.session_events() == []


async def test_a_checkpoint_of_a_stranger_decides_nothing(house: House) -> None:
    session = await house.record(seed=9)
    manifest = Manifest.model_validate_json(house.path(session, MANIFEST).read_bytes())
    note = Signer("stranger.example/one", b"\x09" * 32).sign(checkpoint_of(manifest).to_text())
    house.path(session, CHECKPOINT).write_text(note)
    await house.catalog._database.manifests.delete_one({"_id": session})
    house.path(session, 0).unlink()
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    assert "trusted" in report.results[0].problem
    assert not house.path(session, 0).exists()


async def test_the_catalog_decides_while_nothing_is_signed_yet(house: House) -> None:
    session = await house.record(60, seed=10, end=False)
    whole = len(house.blobs.chunk_indexes(session))
    flip(house.path(session, 1))
    house.path(session, 2).unlink()
    flip(house.path(session, 3))
    await house.catalog._database.chunks.delete_one({"_id": f"{session}:3"})
    await house.catalog._database.chunks.delete_one({"_id": f"{session}:0"})
    report = await house.replay(session, repair=True)
    (found,) = report.results
    assert (found.manifest, found.chunks) == (None, whole)
    repaired = {row.name: (row.difference, row.repaired) for row in found.differences}
    assert repaired == {
        chunk_name(0): (D.NO_ENTRY, True),
        chunk_name(1): (D.ROTTEN, True),
        chunk_name(2): (D.MISSING, True),
        chunk_name(3): (D.DIFFERENT, False),
    }
    assert report.exit_status == 1


async def test_a_catalog_that_names_another_leaf_is_left_as_evidence(house: House) -> None:
    session = await house.record(seed=11)
    database = house.catalog._database
    await database.chunks.update_one({"_id": f"{session}:1"}, {"$set": {"leaf": "00" * 32}})
    await database.manifests.update_one({"_id": session}, {"$set": {"manifest": "{}"}})
    report = await house.replay(session, repair=True)
    assert set(rows(report).values()) == {D.OTHER_ENTRY}
    assert report.exit_status == 1
    assert ((await house.catalog.get("chunks", f"{session}:1")) or {})["leaf"] == "00" * 32


async def test_an_erasure_during_a_replay_stops_its_repair(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await house.record(seed=53)
    house.path(session, 1).unlink()
    real = Repair.session

    async def erased_first(self: Repair, found: Any) -> list[int]:
        (house.blobs.folder(session) / ERASED_CONTENT).write_bytes(b"record")
        return await real(self, found)

    monkeypatch.setattr(Repair, "session", erased_first)
    report = await house.replay(session, repair=True)
    assert report.exit_status == 1
    assert "was erased" in report.results[0].problem
    assert not house.path(session, 1).exists()
