"""The routes on the real servers: what they answer, and what the answers prove."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agents.platform.blobs import Blobs, chunk_name
from agents.platform.service import make_service, serve
from agents.session.api.agent import Room
from agents.session.api.guard import ROUTES
from agents.session.api.settings import ApiSettings
from schemas.access import Role
from schemas.events import SessionErasing, SessionShredded
from schemas.merkle import leaf_hash, verify_consistency
from schemas.proofs import verify_proof
from schemas.sessions import new_session_id
from tests.factories import PROCESSOR, make_session
from tests.platform.certificates import Authority
from tests.session.api.conftest import BASE, Running, Yard

pytestmark = pytest.mark.stack
S = f"{BASE}/sessions"


async def test_sessions_are_listed_filtered_sorted_and_paged(api: Running) -> None:
    yard = api.yard
    made = [await yard.whole("ada" if n % 2 else "bob", f"p{n % 3}") for n in range(7)]
    running = await yard.open(make_session(seed=90), "ada", "p0")
    found = await api.until(S, lambda one: len(one.json["sessions"]) == 8)
    assert found.headers["Content-Type"] == "application/json"
    everything = found.json["sessions"]
    assert [one["started"] for one in everything] == sorted(
        (one["started"] for one in everything), reverse=True
    )
    await api.until(f"{S}?state=completed", lambda one: len(one.json["sessions"]) == 7)
    recording = (await api.get(f"{S}?state=recording")).json["sessions"]
    assert [one["session"] for one in recording] == [running]
    assert recording[0]["complete"] is None
    adas = (await api.get(f"{S}?owner=ada&project=p1")).json["sessions"]
    assert {one["session"] for one in adas} == {made[1]}
    for sort in ("started", "ended", "stored_bytes", "records"):
        for order in ("asc", "desc"):
            query = f"{S}?sort={sort}&order={order}&limit=3"
            pages = await all_pages(api, query, "sessions")
            values = [one[sort] or 0 for one in pages]
            assert values == sorted(values, reverse=order == "desc")
            assert {one["session"] for one in pages} == {*made, running}
    since = everything[3]["started"]
    some = (await api.get(f"{S}?since={since}&until={since + 1}")).json["sessions"]
    assert [one["session"] for one in some] == [everything[3]["session"]]


async def all_pages(api: Running, query: str, name: str) -> list[Any]:
    found: list[Any] = []
    answer = (await api.get(query)).json
    while True:
        found += answer[name]
        if answer["next"] is None:
            return found
        answer = (await api.get(f"{query}&cursor={answer['next']}")).json


async def test_a_cursor_that_was_changed_or_is_of_another_list_is_refused(api: Running) -> None:
    for _ in range(3):
        await api.yard.whole()
    await api.until(S, lambda one: len(one.json["sessions"]) == 3)
    cursor = (await api.get(f"{S}?limit=1")).json["next"]
    assert (await api.get(f"{S}?limit=2&cursor={cursor}")).status == 200
    data = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    for place in range(len(data)):
        data[place] ^= 1
        changed = base64.urlsafe_b64encode(bytes(data)).rstrip(b"=").decode()
        data[place] ^= 1
        answer = await api.get(f"{S}?cursor={changed}")
        assert (answer.status, answer.json["code"]) == (400, "LUCID_ERR_3002"), place
    for other in (f"{S}?sort=ended&cursor={cursor}", f"{S}?cursor={cursor}A", f"{S}?cursor=~"):
        assert (await api.get(other)).status == 400


async def test_one_session_its_pipeline_statistics_and_events(api: Running) -> None:
    session = await api.yard.whole(frames=40, gap_at=None)
    made = api.yard.made[session]
    found = await api.until(f"{S}/{session}", lambda one: one.json.get("state") == "completed")
    assert found.json["root"] == made.manifest.root
    assert found.json["shortcomings"] == []
    pipeline = (await api.get(f"{S}/{session}/pipeline")).json
    assert [one["state"] for one in pipeline["stages"]] == ["done"] * 4
    assert pipeline["next_index"] == made.manifest.chunks
    statistics = await api.until(
        f"{S}/{session}/statistics", lambda one: one.json["chunks"] == made.manifest.chunks
    )
    assert statistics.json["sealed_bytes"] == made.manifest.tally.sealed_bytes
    assert statistics.json["records"] == made.manifest.next_seq
    assert statistics.json["ratio"] == pytest.approx(
        made.manifest.tally.raw_bytes / made.manifest.tally.sealed_bytes, abs=0.001
    )
    events = await api.until(f"{S}/{session}/events", lambda one: len(one.json["events"]) >= 4)
    assert [one["type"].split(".")[2] for one in events.json["events"]] == [
        "opened", "closed", "stored", "completed"
    ]  # fmt: skip
    totals = (await api.get(f"{BASE}/statistics")).json["totals"]
    assert totals == [{
        "state": "completed", "sessions": 1, "records": made.manifest.next_seq,
        "stored_bytes": made.manifest.tally.sealed_bytes,
    }]  # fmt: skip


async def test_chunks_are_listed_and_downloaded_and_prove_themselves(api: Running) -> None:
    session = await api.yard.whole(frames=60)
    made = api.yard.made[session]
    one = f"{S}/{session}/chunks"
    await api.until(one, lambda found: len(found.json.get("chunks", [])) == len(made.chunks))
    listed = await all_pages(api, f"{one}?limit=2", "chunks")
    assert [entry["index"] for entry in listed] == list(range(len(made.chunks)))
    await api.until(f"{S}/{session}", lambda found: found.json["state"] == "completed")
    for chunk, entry in zip(made.chunks, listed, strict=True):
        index = chunk.header.index
        assert (await api.get(f"{one}/{index}")).json == entry
        answer = await api.get(f"{one}/{index}/data")
        assert (answer.status, answer.body) == (200, chunk.data)
        assert answer.headers["ETag"] == f'"{leaf_hash(answer.body).hex()}"'
        proof = await api.get(f"{one}/{index}/proof")
        checkpoint = verify_proof(proof.body.decode(), leaf_hash(answer.body), PROCESSOR.verifier)
        assert checkpoint.root.hex() == made.manifest.root
    within = made.chunks[2].header
    timed = await api.get(f"{one}?since={within.first_time}&until={within.last_time + 1}")
    assert 2 in [entry["index"] for entry in timed.json["chunks"]]
    assert 0 not in [entry["index"] for entry in timed.json["chunks"]]
    missing = await api.get(f"{one}/{len(made.chunks)}")
    assert (missing.status, missing.json["code"]) == (404, "LUCID_ERR_3005")


async def test_ranges_and_conditions(api: Running) -> None:
    session = await api.yard.whole()
    chunk = api.yard.made[session].chunks[0]
    path, size, tag = f"{S}/{session}/chunks/0/data", len(chunk.data), f'"{chunk.leaf.hex()}"'
    await api.until(path, lambda one: one.status == 200)
    for header, first, last in (
        ("bytes=0-0", 0, 0), ("bytes=5-", 5, size - 1), ("bytes=-7", size - 7, size - 1),
        (f"bytes=10-{size + 99}", 10, size - 1), (f"bytes=-{size + 9}", 0, size - 1),
    ):  # fmt: skip
        found = await api.get(path, headers={"Range": header})
        assert (found.status, found.body) == (206, chunk.data[first : last + 1]), header
        assert found.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    for header in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        found = await api.get(path, headers={"Range": header})
        assert (found.status, found.json["code"]) == (416, "LUCID_ERR_3013"), header
        assert found.headers["Content-Range"] == f"bytes */{size}"
    for header in ("bytes=-", "bytes=a-b", "bytes=9-2", "lines=1-2", "bytes=0-1,5-6", "x"):
        found = await api.get(path, headers={"Range": header})
        assert (found.status, found.body) == (200, chunk.data), header
    other = await api.get(path, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (other.status, other.body) == (200, chunk.data)
    same = await api.get(path, headers={"Range": "bytes=0-3", "If-Range": tag})
    assert (same.status, same.body) == (206, chunk.data[:4])
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        assert (await api.get(path, headers={"If-None-Match": known})).status == 304
    listed = await api.get(S)
    again = await api.get(S, headers={"If-None-Match": listed.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    head = await api.get(path, method="HEAD")
    assert head.status in (200, 405)


async def test_what_proves_a_session_is_served_byte_for_byte(api: Running) -> None:
    session = await api.yard.whole()
    made = api.yard.made[session]
    manifest = await api.until(f"{S}/{session}/manifest", lambda one: one.status == 200)
    assert manifest.body == made.manifest_bytes
    assert manifest.headers["ETag"] == f'"{hashlib.sha256(made.manifest_bytes).hexdigest()}"'
    note = await api.get(f"{S}/{session}/checkpoint")
    assert note.body.decode() == made.checkpoint
    report = await api.until(f"{S}/{session}/verification?wait=20", lambda one: one.status == 200)
    assert report.json["outcome"] == "ok"
    assert report.json["totals"]["chunks_ok"] == made.manifest.chunks
    rotten = Blobs(api.yard.settings.blobs_dir).path(session, chunk_name(0))
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"!")


async def test_a_running_session_proves_that_it_only_grows(api: Running) -> None:
    made = make_session(seed=33, frames=60)
    session = await api.yard.open(made, "ada", "payroll")
    await api.yard.store(made, range(3))
    path = f"{S}/{session}/consistency"
    first = await api.until(f"{path}?old=0", lambda one: one.json.get("new_size") == 3)
    assert first.json["signed"] is False
    await api.yard.store(made, range(3, len(made.chunks)))
    whole = await api.until(
        f"{path}?old=3", lambda one: one.json.get("new_size") == len(made.chunks)
    )
    verify_consistency(
        3, len(made.chunks), bytes.fromhex(first.json["new_root"]),
        bytes.fromhex(whole.json["new_root"]), [bytes.fromhex(n) for n in whole.json["proof"]],
    )  # fmt: skip
    assert (await api.get(f"{S}/{session}/manifest")).json["code"] == "LUCID_ERR_3006"
    assert (await api.get(f"{path}?old=9999")).json["code"] == "LUCID_ERR_3005"
    far = await api.get(f"{path}?old=0&new={2**32 - 1}")
    assert far.json["code"] == "LUCID_ERR_3005", "nobody counts to there"
    await api.yard.close(made)
    await api.until(f"{path}?old=3", lambda one: one.json["signed"] is True)


async def test_unknown_sessions_and_ids_that_are_none(api: Running) -> None:
    unknown = str(new_session_id())
    for tail in ("", "/chunks", "/manifest", "/chunks/0/data", "/verification"):
        found = await api.get(f"{S}/{unknown}{tail}")
        assert (found.status, found.json["code"]) == (404, "LUCID_ERR_3001")
        assert found.headers["Content-Type"] == "application/problem+json"
    for bad in ("..%2f..%2fetc", "%00", "x" * 4000, unknown.upper(), unknown.replace("-", ""),
                f"%7B{unknown}%7D"):  # fmt: skip
        found = await api.get(f"{S}/{bad}")
        assert found.status in (400, 404), bad
        assert found.json["code"].startswith("LUCID_ERR_30")
    for index in ("-1", "1.5", str(2**32), "0x1", "9" * 400):
        assert (await api.get(f"{S}/{unknown}/chunks/{index}")).status in (400, 404)


async def test_a_problem_has_the_request_id_and_changes_nothing(api: Running) -> None:
    found = await api.get(f"{BASE}/nothing", headers={"X-Request-Id": "my-id.1"})
    assert (found.status, found.json["code"]) == (404, "LUCID_ERR_3015")
    assert found.json["request_id"] == found.headers["X-Request-Id"] == "my-id.1"
    odd = await api.get(f"{BASE}/nothing", headers={"X-Request-Id": "no spaces allowed"})
    assert odd.json["request_id"] != "no spaces allowed"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        refused = await api.get(S, method=method)
        assert (refused.status, refused.json["code"]) == (405, "LUCID_ERR_3016")
        assert "GET" in refused.headers["Allow"]


async def test_the_audit_trail_says_who_read_what(api: Running) -> None:
    session = await api.yard.whole()
    await api.until(f"{S}/{session}/chunks/0/data", lambda one: one.status == 200)
    ada = api.yard.token(Role.AUDITOR, subject="ada")
    await api.get(f"{S}/{session}/chunks/0/data", token=ada, headers={"X-Request-Id": "r1"})
    viewer = api.yard.token(Role.SESSION_VIEWER, subject="vic")
    await api.get(f"{S}/{session}/chunks/0/data", token=viewer)
    found = await api.until(
        f"{BASE}/audit?session={session}",
        lambda one: {"ada", "vic"} <= {entry["user"] for entry in one.json["entries"]},
    )
    by_user = {entry["user"]: entry for entry in found.json["entries"]}
    assert by_user["ada"]["type"] == "lucid.audit.resource_read.v1"
    assert by_user["ada"]["data"]["request"] == "r1"
    assert by_user["ada"]["roles"] == ["auditor"]
    assert by_user["vic"]["type"] == "lucid.audit.access_denied.v1"
    assert by_user["vic"]["data"]["permission"] == "chunks:download"
    only = await api.get(f"{BASE}/audit?user=vic&type=lucid.audit.access_denied.v1")
    assert [entry["user"] for entry in only.json["entries"]] == ["vic"]
    pages = await all_pages(api, f"{BASE}/audit?limit=1&session={session}", "entries")
    assert len(pages) >= 3
    offsets = [entry["offset"] for entry in pages]
    assert offsets == sorted(offsets, reverse=True)


async def test_the_openapi_document_has_every_route_with_its_permission(api: Running) -> None:
    document = json.loads((await api.get(f"{BASE}/openapi.json", token="")).body)
    permissions = {path: one["get"]["x-permission"] for path, one in document["paths"].items()}
    assert permissions == {path: permission.value for path, permission in ROUTES.items()}


async def test_jwks_and_health_need_no_token(api: Running) -> None:
    keys = (await api.get(f"{BASE}/jwks.json", token="")).json["keys"]
    assert {key["crv"] for key in keys} == {"Ed25519"}
    assert all("d" not in key for key in keys)
    ready = await api.get("/health/ready", token="")
    assert set(ready.json["checks"]) >= {"kafka", "catalog", "control", "sessions", "tokens"}
    assert (await api.get("/health/live", token="")).status == 200
    await api.yard.whole(frames=40)
    metrics = await api.until(
        "/metrics",
        lambda one: re.search(rb"^lucid_api_sessions_indexed [1-9]", one.body, re.MULTILINE),
    )
    assert b"lucid_api_requests_total" in metrics.body
    assert re.search(rb"^lucid_audit_entries_waiting \d", metrics.body, re.MULTILINE)


async def test_what_was_erased_is_gone_and_stays_proven(api: Running) -> None:
    session = await api.yard.whole(frames=40)
    made, path = api.yard.made[session], f"{S}/{session}"
    await api.until(f"{path}/chunks/1/proof", lambda one: one.status == 200)
    erasing = SessionErasing(
        session=session, stage="content", scope="default", keep_days=30, record="ab" * 32
    )
    shredded = SessionShredded(session=session, stage="content", files=9, bytes=9, waiting=[])
    for data in (erasing, shredded):
        await api.yard.tell(data, session)
    for chunk in made.chunks:
        Blobs(api.yard.settings.blobs_dir).path(session, chunk_name(chunk.header.index)).unlink()
    found = await api.until(path, lambda one: one.json["erased"] == {"content": "shredded"})
    assert found.json["state"] == "completed"
    gone = await api.until(f"{path}/chunks/1/data", lambda one: one.status == 410)
    assert gone.json["code"] == "LUCID_ERR_3018"
    proof = (await api.get(f"{path}/chunks/1/proof")).body.decode()
    assert verify_proof(proof, made.leaves[1], PROCESSOR.verifier).root.hex() == made.manifest.root
    assert (await api.get(f"{path}/manifest")).body == made.manifest_bytes


async def test_an_address_of_a_mebibyte_ends_nothing(api: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(f"GET {S}/{'x' * 2**20} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    # Whoever sends that much may be cut off before it reads the answer.
    with contextlib.suppress(ConnectionResetError):
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.split(b" ")[1] in (b"400", b"414"), answer[:200]
    writer.close()
    assert (await api.get(S)).status == 200


async def test_the_api_is_served_over_tls(yard: Yard, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "ca")
    pair = authority.issue("api")
    room = Room()
    section = ApiSettings(port=0, tls_cert=pair.cert, tls_key=pair.key)
    service = make_service("api", yard.settings, section)
    task = asyncio.create_task(serve(service, room.build, front=room.front))
    context = ssl.create_default_context(cafile=authority.cert)
    try:
        async with aiohttp.ClientSession() as client, asyncio.timeout(30):
            while not service.started:
                await asyncio.sleep(0.05)
            address = f"https://127.0.0.1:{service.port}/health/live"
            async with client.get(address, ssl=context) as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await client.get(address.replace("https", "http"))
    finally:
        service.stop.set()
        assert await asyncio.wait_for(task, 20) == 0
