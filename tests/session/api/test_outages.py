"""The catalog or the broker gone: what is still answered, what is said, and that it comes back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.events import SessionPaused
from tests.conftest import Stack
from tests.e2e.forwarder import Forwarder
from tests.session.api.conftest import BASE, Answer, Running, a_yard, running, settings_of
from tests.waiting import until

pytestmark = pytest.mark.stack
S = f"{BASE}/sessions"


async def test_without_the_catalog_lists_are_answered_and_the_rest_is_to_come_again(
    stack: Stack, tmp_path: Path
) -> None:
    real = urlsplit(stack.mongo)
    forwarder = Forwarder((str(real.hostname), int(real.port or 0)))
    settings = settings_of(stack, tmp_path)
    through = settings_of(
        stack, tmp_path, mongo=f"mongodb://127.0.0.1:{forwarder.port}/",
        database=settings.database, topic_prefix=settings.topic_prefix,
    )  # fmt: skip
    async with a_yard(settings) as yard:
        session = await yard.whole()
        yard.settings = through
        async with running(yard, rate=100_000) as api:
            await api.until(f"{S}/{session}/chunks", _has_chunks)
            await api.get(f"{S}/{session}/manifest")
            forwarder.down()
            listed = await api.get(S)
            assert [one["session"] for one in listed.json["sessions"]] == [session]
            gone = await api.get(f"{S}/{session}")
            assert (gone.status, gone.json["code"]) == (503, "LUCID_ERR_3014")
            assert int(gone.headers["Retry-After"]) >= 1
            assert gone.json["details"]["cause"] == "CatalogUnreachable"
            assert "127.0.0.1" not in str(gone.json["details"])
            assert (await api.get("/health/live", token="")).status == 200
            await _until_ready(api, 503)
            kept = await api.get(f"{S}/{session}/manifest")
            assert kept.status == 200, "what does not change any more was kept"
            forwarder.up()
            await _until_ready(api, 200)
            assert (await api.get(f"{S}/{session}")).status == 200
            # What happened meanwhile is in the views, too.
            await yard.tell(SessionPaused(session=session, reason="late"), session)
            await api.until(
                f"{S}/{session}/events",
                lambda one: "late" in str(one.json.get("events", [])[-1:]), 40,
            )  # fmt: skip
    forwarder.down()


def _has_chunks(found: Answer) -> bool:
    return bool(found.json.get("chunks"))


async def _until_ready(api: Running, status: int) -> None:
    async def look() -> bool:
        return (await api.get("/health/ready", token="")).status == status

    await until(look, f"answer {status} of /health/ready", 60, every=0.1)


async def test_a_process_without_views_answers_beside_one_that_writes_them(
    stack: Stack, tmp_path: Path
) -> None:
    async with a_yard(settings_of(stack, tmp_path)) as yard:
        session = await yard.whole()
        async with running(yard, rate=100_000, views=False) as front:
            # Storage's own catalog is there at once, the views are written by nobody yet.
            assert (await front.get(f"{S}/{session}/manifest")).status == 200
            checks = (await front.get("/health/ready", token="")).json["checks"]
            assert "control" not in checks
            assert (await front.get(f"{S}/{session}/chunks")).json["chunks"] == []
            async with running(yard, rate=100_000) as other:
                assert "control" in (await other.get("/health/ready", token="")).json["checks"]
                await front.until(f"{S}/{session}/chunks", _has_chunks)
