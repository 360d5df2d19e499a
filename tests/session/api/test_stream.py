"""The stream of live events: nothing twice, nothing left out, whatever is cut."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from agents.session.api.follower import Feed, Overrun, Placed
from agents.session.api.problems import ApiProblem
from agents.session.api.streams import Positions, Slots
from schemas.access import Role
from schemas.events import SessionEvent, SessionHeartbeat, SessionPaused
from tests.factories import make_session
from tests.session.api.conftest import BASE, Running, Yard, running
from tests.session.api.test_views import ID

STREAM = f"{BASE}/stream"


@dataclass
class Sent:
    """One server-sent event."""

    event: str
    id: str
    data: str


class Stream:
    """Reads server-sent events of one connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self, seconds: float = 15.0) -> Sent | None:
        """The next event; None at the end. A comment is passed over."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            while line := await self.response.content.readline():
                text = line.decode().rstrip("\r\n")
                if not text and "data" in fields:
                    return Sent(fields.get("event", ""), fields.get("id", ""), fields["data"])
                name, _, value = text.partition(": ")
                if name:
                    fields[name] = value
        return None

    async def comment(self) -> str:
        async with asyncio.timeout(15):
            while not (line := await self.response.content.readline()).startswith(b":"):
                assert line, "the stream ended"
        return line.decode()


@asynccontextmanager
async def streaming(
    api: Running, query: str = "", last: str | None = None, token: str | None = None
) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {token or api.admin}"}
    if last is not None:
        headers["Last-Event-ID"] = last
    address = f"http://127.0.0.1:{api.port}{STREAM}{query}"
    async with api.client.get(address, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(response)


async def pause(yard: Yard, session: str, *reasons: str) -> None:
    for reason in reasons:
        await yard.tell(SessionPaused(session=session, reason=reason), session)


def reason_of(sent: Sent | None) -> str:
    assert sent is not None
    return str(json.loads(sent.data)["data"]["reason"])


async def test_events_come_as_they_happen_and_a_stream_goes_on_where_it_stopped(
    api: Running,
) -> None:
    session = await api.yard.open(make_session(seed=51), "ada", "payroll")
    async with streaming(api) as stream:
        started = await stream.next()
        assert started is not None
        assert (started.event, json.loads(started.data)) == ("lucid.stream.started", {})
        await pause(api.yard, session, "a", "b")
        sent = await stream.next()
        assert reason_of(sent) == "a"
        assert sent is not None
        event = json.loads(sent.data)
        assert event["type"] == sent.event == "lucid.session.paused.v1"
        assert (event["specversion"], event["subject"]) == ("1.0", session)
    await pause(api.yard, session, "c")
    async with streaming(api, last=sent.id) as stream:
        assert [reason_of(await stream.next()) for _ in "bc"] == ["b", "c"]
        await pause(api.yard, session, "d")
        assert reason_of(await stream.next()) == "d"
    async with streaming(api, last=started.id) as stream:
        assert [reason_of(await stream.next()) for _ in "abcd"] == ["a", "b", "c", "d"]


async def test_another_process_goes_on_with_an_id_from_before_it_was_started(yard: Yard) -> None:
    session = await yard.open(make_session(seed=52), "ada", "payroll")
    async with running(yard) as api, streaming(api) as stream:
        started = await stream.next()
        assert started is not None
        await pause(yard, session, "a")
        first = await stream.next()
        assert first is not None
    await pause(yard, session, "b", "c")
    async with running(yard) as api, streaming(api, last=first.id) as stream:
        assert [reason_of(await stream.next()) for _ in "bc"] == ["b", "c"]
        await pause(yard, session, "d")
        assert reason_of(await stream.next()) == "d"


async def test_a_reader_gets_its_scope_its_session_and_its_types(api: Running) -> None:
    hers = await api.yard.open(make_session(seed=53), "ada", "payroll")
    his = await api.yard.open(make_session(seed=54), "bob", "payroll")
    await api.until(f"{BASE}/sessions", lambda one: len(one.json["sessions"]) == 2)
    token = api.yard.token(Role.SESSION_OPERATOR, owners=["ada"])
    async with (
        streaming(api, token=token) as scoped,
        streaming(api, f"?session={his}") as one,
        streaming(api, "?type=lucid.session.heartbeat") as typed,
    ):
        for stream in (scoped, one, typed):
            await stream.next()
        await pause(api.yard, his, "his")
        await pause(api.yard, hers, "hers")
        new = await api.yard.open(make_session(seed=55), "ada", "payroll")
        assert reason_of(await scoped.next()) == "hers"
        opened = await scoped.next()
        assert opened is not None
        assert json.loads(opened.data)["subject"] == new
        assert reason_of(await one.next()) == "his"
        beat = await typed.next()
        assert beat is not None
        assert beat.event == "lucid.session.heartbeat.v1"
    viewer = api.yard.token(Role.SESSION_VIEWER)
    assert (await api.get(STREAM, token=viewer)).status == 403


async def test_a_quiet_stream_has_heartbeats_and_streams_are_few(yard: Yard) -> None:
    async with running(yard, heartbeat=0.2, streams=1) as api:
        async with streaming(api) as stream:
            await stream.next()
            assert (await stream.comment()).startswith(": ping")
            refused = await api.get(STREAM)
            assert (refused.status, refused.json["code"]) == (503, "LUCID_ERR_3014")
        async with asyncio.timeout(10):
            while True:
                try:
                    async with streaming(api) as stream:
                        assert await stream.next() is not None
                        break
                except AssertionError:
                    await asyncio.sleep(0.05)
        for bad in ("x", "1.2.x", "1..2", "-1", "1." * 300):
            assert (await api.get(STREAM, headers={"Last-Event-ID": bad})).status == 400


MANY = 8000


async def test_a_slow_reader_is_cut_off_and_goes_on(yard: Yard) -> None:
    session = await yard.open(make_session(seed=56), "ada", "payroll")
    topic = yard.contract.topic("session.events").full_name
    reasons = [f"{number:04} {'x' * 490}" for number in range(MANY)]
    records = [
        SessionEvent(SessionPaused(session=session, reason=one), "lucid/t/h", session).to_kafka()
        for one in reasons
    ]
    async with running(yard, stream_queue=10, heartbeat=1.0) as api:
        async with slow_connection(api) as (started, reader):
            # Nothing is read for now: the sockets fill, then the queue.
            for first in range(0, MANY, 500):
                await asyncio.gather(*(
                    yard.producer.send(topic, value, key=key, headers=[*headers])
                    for key, headers, value in records[first : first + 500]
                ))  # fmt: skip
            await api.until("/metrics", lambda one: b"lucid_api_streams 0.0" in one.body, 60)
            text = (await asyncio.wait_for(reader.read(), 60)).decode(errors="replace")
        whole = text[: text.rfind("\n\n")] if "\n\n" in text else ""
        seen = re.findall(r'"reason":"(\d{4}) ', whole)
        last = (re.findall(r"^id: (\S+)", whole, re.MULTILINE) or [started])[-1]
        assert len(seen) < MANY, "a slow reader was cut off"
        while len(seen) < MANY:
            async with streaming(api, last=last) as again:
                while len(seen) < MANY and (sent := await again.next(40)) is not None:
                    seen.append(reason_of(sent)[:4])
                    last = sent.id
        assert seen == [f"{number:04}" for number in range(MANY)]


@asynccontextmanager
async def slow_connection(api: Running) -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """A stream over a socket that takes little; the first id, and a reader of the rest."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", api.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    try:
        asked = ("GET " + STREAM + " HTTP/1.1", "Host: h", f"Authorization: Bearer {api.admin}")
        writer.write("\r\n".join([*asked, "", ""]).encode())
        async with asyncio.timeout(15):
            while not (line := await reader.readline()).startswith(b"id: "):
                assert line
        yield line.decode().strip()[4:], reader
    finally:
        writer.close()


def test_positions_are_written_and_read() -> None:
    text = str(Positions({0: 5, 3: 7}))
    assert text == "5.0.0.7"
    assert Positions.parse(text).offsets == {0: 5, 1: 0, 2: 0, 3: 7}
    with pytest.raises(ApiProblem):
        Positions.parse("1.2\n")


async def test_a_feed_gives_what_it_kept_and_then_says_that_it_was_overrun() -> None:
    feed, data = Feed(2), SessionHeartbeat(session=ID, next_seq=1, raw_bytes=1)
    for offset in range(3):
        feed.put(Placed(0, offset, SessionEvent(data, "lucid/t/h", ID)))
    assert (await feed.next()).offset == 0
    feed.put(Placed(0, 3, SessionEvent(data, "lucid/t/h", ID)))
    assert (await feed.next()).offset == 1
    with pytest.raises(Overrun):
        await feed.next()


def test_slots_are_given_back() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not slots.take()
    slots.give()
    assert slots.take()
