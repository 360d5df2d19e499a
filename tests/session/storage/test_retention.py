"""What policies delete is gone, what is left proves what there was, and holds win."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.auditor.access import load_access
from agents.auditor.bundle import open_bundle, save_bundle
from agents.auditor.reading import ErasedContent, open_session
from agents.platform.stored_sessions import find_session
from agents.platform.verification import run_verification
from agents.session.storage import retention_holds
from agents.session.storage.retention_holds import Contended
from schemas.audit import ErasureBegun
from schemas.erasure import read_erasure
from schemas.events import SessionErased, SessionErasing, SessionShredded, SessionSpared
from schemas.retention import DAY, Periods, Policies
from schemas.stored import ChunkRecord, ManifestRecord
from schemas.verdicts import Severity, Verdict
from schemas.verify_documents import Access
from tests.conftest import Stack
from tests.platform.topics import expire
from tests.session.storage.yard import PARTITION, Yard, open_yard

LEFT = {"manifest.json", "checkpoint.txt", "leaves.txt", "headers.bin", "erasure-content.txt"}
FORGOTTEN = {"checkpoint.txt", "leaves.txt", "erasure-content.txt", "erasure-metadata.txt"}


@pytest.fixture
async def yard(stack: Stack, tmp_path: Path) -> AsyncIterator[Yard]:
    async with open_yard(stack, tmp_path) as yard:
        yield yard


async def test_content_goes_and_its_proof_stays(yard: Yard) -> None:
    session, young = await yard.add(seed=1), await yard.add(seed=40)
    made = yard.made[session]
    yard.policies = Policies(by_session={session: Periods(chunks=1)})
    assert await yard.apply() == []
    yard.later(1)
    before = await yard.verify(session)
    assert before.outcome is Severity.OK
    sizes = sum(path.stat().st_size for path in yard.blobs.folder(session).glob("*.chunk"))

    (done,) = await yard.apply()
    assert (done.session, done.stage, done.outcome) == (session, "content", "shredded"), done
    assert done.size == sizes + len(made.wrapped)
    assert yard.files(session) == LEFT
    report = await yard.verify(session)
    assert (report.outcome, report.exit_status) == (Severity.ERASED, 0)
    assert report.root == before.root
    assert report.erasure is not None
    assert (report.erasure.scope, report.erasure.keep_days) == ("session", 1)
    assert report.erasure.signers
    assert report.signers == before.signers
    assert (await yard.verify(young)).outcome is Severity.OK

    # Nobody opens it again: no wrapped key in files, catalog or after compaction.
    raw = await yard.raw()
    for name, form in yard.key_forms(session).items():
        assert form not in raw, name
    for chunk in made.chunks:
        assert chunk.data[216:] not in raw
    for name, form in yard.key_forms(young).items():
        assert (form in raw) is (name == "raw"), "the search finds what is there"
    latest = dict(await yard.topic_values("session.progress"))
    assert latest[session.encode()] is None
    access = load_access([], [], yard.settings)
    source = await find_session(yard.settings, made.session, access.trusted)
    with pytest.raises(ErasedContent):
        open_session(source, [made.auditor_identity.secret])
    for identity in (made.processor_identity, made.auditor_identity):
        again = run_verification(source, Access(access.trusted, (identity.secret,), demanded=True))
        assert (again.outcome, again.totals.chunks_decrypted) == (Severity.ERASED, 0)

    # One file is enough to check it offline.
    out = yard.settings.home / "session.lucid"
    assert save_bundle(source, out, force=False).missing == []
    with open_bundle(out) as bundle:
        offline = run_verification(bundle, Access(access.trusted))
    assert (offline.outcome, offline.exit_status) == (Severity.ERASED, 0)
    assert made.wrapped not in out.read_bytes()


async def test_each_step_is_an_event_and_somebody_did_it(yard: Yard) -> None:
    session = await yard.add(seed=2)
    yard.later(30)
    await yard.apply()
    erasing, shredded = await yard.told(SessionErasing, SessionShredded, SessionErased)
    assert isinstance(erasing, SessionErasing)
    assert isinstance(shredded, SessionShredded)
    assert (erasing.session, erasing.stage, erasing.keep_days) == (session, "content", 30)
    assert shredded.files == len(yard.made[session].chunks) + 1
    (audit,) = await yard.audited()
    assert isinstance(audit.data, ErasureBegun)
    assert audit.data.record == erasing.record
    assert (audit.subject, audit.user != "") == (session, True)
    record = read_erasure((yard.blobs.folder(session) / "erasure-content.txt").read_bytes())
    assert (record.decided, record.by, record.host) == (yard.now, audit.user, "store")


async def test_a_second_apply_changes_nothing(yard: Yard) -> None:
    session = await yard.add(seed=3)
    yard.later(31)
    await yard.apply()
    files = {one: yard.blobs.get(session, one) for one in yard.files(session)}
    told = await yard.told()
    (again,) = await yard.apply()
    assert again.outcome in ("waiting", "erased")
    assert {one: yard.blobs.get(session, one) for one in yard.files(session)} == files
    assert [one for one in await yard.told() if not isinstance(one, SessionErased)] == told


async def test_metadata_goes_later_and_checkpoint_and_leaves_stay(yard: Yard) -> None:
    session = await yard.add(seed=4)
    yard.later(91)
    done = await yard.apply()
    assert [(one.stage, one.outcome in ("shredded", "erased")) for one in done] == [
        ("content", True), ("metadata", True),
    ]  # fmt: skip
    assert yard.files(session) == FORGOTTEN
    report = await yard.verify(session)
    assert (report.outcome, report.exit_status) == (Severity.ERASED, 0)
    assert report.root == yard.made[session].manifest.root
    assert report.erasure is not None
    assert report.erasure.stage == "metadata"
    assert await yard.catalog.get("manifests", session) is None
    assert [one async for one in yard.catalog.chunks(session)] == []
    raw = await yard.raw()
    assert yard.made[session].manifest_bytes not in raw
    stages = [one.stage for one in await yard.told(SessionErasing)]  # type: ignore[attr-defined]
    assert stages == ["content", "metadata"]


async def test_what_is_not_settled_or_damaged_is_left_alone(yard: Yard) -> None:
    running, rotten = await yard.add(seed=13, state="processing"), await yard.add(seed=14)
    yard.later(100)
    chunk = yard.blobs.path(rotten, "00000001.chunk")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = await yard.apply()
    assert [(one.session, one.outcome) for one in done] == [
        (rotten, "damaged"), (rotten, "changed"),
    ]  # fmt: skip
    assert "chunk 1 is not what the catalog names" in done[0].detail
    assert (await yard.verify(running)).outcome is Severity.OK
    chunk.write_bytes(whole)
    (yard.blobs.folder(rotten) / "key.aside").write_bytes(yard.made[rotten].wrapped)
    assert (await yard.apply())[0].outcome == "damaged"
    await yard.change(rotten, conflicts=1)
    async with yard.house() as house:
        assert [row.action for row in (await house.plan()).rows] == ["blocked", "blocked"]
    assert await yard.apply() == []
    done = await yard.apply(damaged=True)
    assert [one.outcome in ("shredded", "erased") for one in done] == [True, True]
    assert yard.files(rotten) == FORGOTTEN
    assert yard.made[rotten].wrapped not in await yard.raw()


async def test_a_session_that_opens_again_meanwhile_is_left_alone(yard: Yard) -> None:
    session = await yard.add(seed=15, state="incomplete")
    yard.later(40)
    async with yard.house() as house:
        plan = await house.plan()
        await yard.change(session, state="processing")
        assert [one.outcome async for one in house.apply(plan)] == ["changed"]
    assert (await yard.verify(session)).outcome is Severity.OK


async def test_late_chunks_and_manifests_are_refused_without_harm(yard: Yard) -> None:
    session = await yard.add(seed=16)
    made = yard.made[session]
    yard.later(40)
    await yard.apply()
    manifest = ManifestRecord(made.manifest_bytes, made.checkpoint, made.wrapped)
    for chunk in made.chunks:
        assert await yard.keeper.keep_chunk(ChunkRecord(chunk, made.wrapped)) is None
    assert await yard.keeper.keep_manifest(manifest, made.manifest) is None
    assert yard.files(session) == LEFT
    assert yard.keeper.metrics.erased._value.get() == len(made.chunks) + 1
    yard.later(60)
    await yard.apply()
    assert await yard.keeper.keep_manifest(manifest, made.manifest) is None
    assert yard.files(session) == FORGOTTEN
    assert (await yard.verify(session)).outcome is Severity.ERASED


async def test_what_somebody_puts_back_is_told_and_taken_again(yard: Yard) -> None:
    session = await yard.add(seed=17)
    made = yard.made[session]
    yard.later(40)
    await yard.apply()
    yard.blobs.path(session, "key.age").write_bytes(made.wrapped)
    yard.blobs.path(session, "00000000.chunk").write_bytes(made.chunks[0].data)
    report = await yard.verify(session)
    assert Verdict.NOT_ERASED in {one.verdict for one in report.findings}
    assert report.exit_status == 1
    await yard.hold(1)
    (done,) = await yard.apply()
    assert done.size > 0, "a hold that came behind the erasure spares nothing of it"
    assert yard.files(session) == LEFT


async def test_folders_of_replays_on_this_host_go_too_and_spools_are_named(yard: Yard) -> None:
    session = await yard.add(seed=18)
    yard.later(40)
    folder = yard.settings.scratch_dir / "replay-123" / session
    folder.mkdir(parents=True)
    (folder / "key.age").write_bytes(yard.made[session].wrapped)
    spool = yard.settings.home / "spool" / f"{session}.ended"
    spool.mkdir(parents=True)
    (done,) = await yard.apply()
    assert not folder.exists()
    assert f"a recorder's spool on this host: {spool}" in done.detail


async def test_a_session_without_a_manifest_leaves_its_leaves(yard: Yard) -> None:
    session = await yard.add(seed=19, state="incomplete")
    for name in ("manifest.json", "checkpoint.txt"):
        yard.blobs.remove(session, name)
    await yard.catalog.delete("manifests", session)
    yard.later(40)
    (done,) = await yard.apply()
    assert done.outcome == "shredded"
    assert yard.files(session) == LEFT - {"manifest.json", "checkpoint.txt"}
    report = await yard.verify(session)
    assert report.erasure is not None
    assert (report.erasure.root, report.erasure.manifest_hash) == (None, None)
    assert Verdict.MISSING_MANIFEST in {one.verdict for one in report.findings}


async def test_a_session_whose_project_nobody_knows_is_never_erased(yard: Yard) -> None:
    session = await yard.add(seed=20, state="incomplete")
    yard.blobs.remove(session, "manifest.json")
    await yard.change(session, opened=None)
    yard.later(400)
    async with yard.house() as house:
        plan = await house.plan()
        assert {row.why for row in plan.rows} == {"nobody knows its project"}
        assert [one async for one in house.apply(plan, damaged=True)] == []


async def test_an_erasure_waits_for_the_broker_until_nothing_is_there(
    stack: Stack, tmp_path: Path
) -> None:
    """With a progress topic that compacts at once; the broker's cleaner looks every 15 s."""
    root = Path(__file__).parents[3]
    text = (root / "topics.yaml").read_text()
    for old, new in (("min.compaction.lag.ms: 3600000", "min.compaction.lag.ms: 0"),
                     ("max.compaction.lag.ms: 86400000", "max.compaction.lag.ms: 1"),
                     ("segment.ms: 3600000", "segment.ms: 50")):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    topics = tmp_path / "topics.yaml"
    topics.write_text(text)
    async with open_yard(stack, tmp_path / "home", topics) as yard:
        session = await yard.add(seed=21)
        for name in ("session.frames", "session.chunks", "session.manifests"):
            await yard.producer.send(yard.topic(name), b"x", key=b"x", partition=PARTITION)
        await yard.producer.send(yard.topic("dead.letters"), b"x", key=b"x", partition=0)
        yard.later(40)
        (done,) = await yard.apply()
        assert done.outcome == "shredded"
        async with yard.house() as house:
            (row,) = (await house.plan()).rows
        assert row.action == "wait"
        for name in ("session.frames/3", "session.chunks/3", "session.manifests/3",
                     "dead.letters/0", "session.progress"):  # fmt: skip
            assert name in row.why
        assert await yard.told(SessionErased) == []
        for name, partition in (("session.frames", 3), ("session.chunks", 3),
                                ("session.manifests", 3), ("dead.letters", 0)):  # fmt: skip
            await expire(yard.settings, yard.topic(name), partition, 1)
        async with asyncio.timeout(90):
            while (done := (await yard.apply())[0]).outcome != "erased":
                assert "session.progress" in done.detail
                yard.later(0.1)
                await asyncio.sleep(1)
        assert [one.session for one in await yard.told(SessionErased)] == [session]  # type: ignore[attr-defined]
        held = [value for key, value in await yard.topic_values("session.progress")
                if key == session.encode()]  # fmt: skip
        assert set(held) <= {None}
        assert await yard.apply() == []
        async with yard.house() as house:
            assert (await house.plan()).rows == ()


async def test_a_claim_of_a_process_that_died_is_dropped(yard: Yard) -> None:
    session = await yard.add(seed=22)
    async with yard.house() as house:
        await house.register.claim(session, "lovelace")
        yard.later(0.001)
        await yard.apply()
        assert list((await house.register.state()).claims) == [session], "it may be at work"
        yard.later(1)
        await yard.apply()
        assert (await house.register.state()).claims == {}


async def test_a_catalog_that_was_lost_lets_an_erasure_go_on(yard: Yard) -> None:
    session = await yard.add(seed=23)
    yard.later(40)
    await yard.apply()
    for name in ("sessions.0", "erasures", "retention"):
        await yard.catalog.drop(name)
    (done,) = await yard.apply()
    assert (done.session, done.stage) == (session, "content")
    assert yard.files(session) == LEFT
    assert (await yard.told(SessionSpared)) == []


async def test_what_fails_for_one_session_stops_no_other(yard: Yard) -> None:
    first, second = sorted([await yard.add(seed=24), await yard.add(seed=25)])
    yard.later(40)
    yard.blobs.path(first, "key.age").unlink()
    yard.blobs.path(first, "key.age").mkdir()
    done = await yard.apply()
    assert [(one.session, one.outcome) for one in done] == [
        (first, "failed"), (second, "shredded"),
    ]  # fmt: skip
    assert "key.age" in done[0].detail
    assert yard.files(second) == LEFT


async def test_a_record_that_cannot_be_read_lets_nothing_go_on(yard: Yard) -> None:
    session = await yard.add(seed=26)
    yard.later(100)
    yard.blobs.path(session, "erasure-content.txt").write_bytes(b"rubbish")
    done = await yard.apply()
    assert [(one.stage, one.outcome) for one in done] == [
        ("content", "failed"), ("metadata", "changed"),
    ]  # fmt: skip
    async with yard.house() as house:
        assert (await house.register.state()).claims == {}
    assert {"key.age", "manifest.json", "00000000.chunk"} <= yard.files(session)


async def test_a_writer_that_slept_through_many_changes_counts_nothing(yard: Yard) -> None:
    async with yard.house() as house:
        register = house.register
        await register.sync()
        before = await register.state()
        for number in range(3):
            await register.claim(f"s{number}", "")
        assert not await register._put(before, replace(before, version=before.version + 1))
        await yard.catalog.delete("retention", f"holds:{before.version}")
        await yard.catalog.delete("retention", f"holds:{before.version + 1}")
        assert not await register._put(before, replace(before, version=before.version + 1))
        assert set((await register.state()).claims) == {"s0", "s1", "s2"}


async def test_old_versions_of_the_register_are_cleaned_away(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_holds, "KEPT", 3)
    async with yard.house() as house:
        for number in range(6):
            await house.register.claim(f"s{number}", "")
        assert len(await yard.catalog.ids("retention")) == 3
        assert len((await house.register.state()).claims) == 6
        monkeypatch.setattr(retention_holds, "TRIES", 0)
        with pytest.raises(Contended):
            await house.register.free("s1")


async def test_old_pages_of_the_audit_view_go_and_no_others(yard: Yard) -> None:
    yard.now = 500 * DAY
    pages = {"0/0": [100 * DAY, 135 * DAY - 1], "0/1": [134 * DAY, 135 * DAY], "0/2": []}
    for name, times in pages.items():
        await yard.catalog.insert(
            "audit.0", {"_id": name, "entries": [{"time": time} for time in times]}
        )
    async with yard.house() as house:
        assert await house.expire_audit(await house.plan()) == 1
        assert await house.expire_audit(await house.plan()) == 0
        yard.later(1000)
        yard.policies = Policies(audit="forever")
    async with yard.house() as house:
        assert await house.expire_audit(await house.plan()) == 0
    assert await yard.catalog.ids("audit") == ["0/1", "0/2"]
