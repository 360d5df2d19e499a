"""`lucid dead-letters` on a real broker: what is shown, what is replayed, what is written down."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agents.platform.audit import acting_user
from agents.platform.blobs import ERASED_CONTENT, Blobs
from agents.platform.contract import Contract, apply_contract, load_contract
from agents.platform.deadletters import DeadLetters, arrived
from agents.platform.letter_box import Entry, states
from agents.platform.letter_commands import UnknownFilter, app
from agents.platform.letter_limit import LetterLimit
from agents.platform.letter_views import shortened
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.audit import AuditEvent, LetterDiscarded, LetterReplayed, ResourceRead
from schemas.canonical import Strict
from schemas.deadletters import DeadLetter, to_kafka
from schemas.errors import FormatError, LucidError
from schemas.frames import FrameRecord
from schemas.frames import to_kafka as frame_to_kafka
from tests.conftest import Stack
from tests.factories import make_session

BAD = FormatError("it is [bold]bad[/bold] \x1b[31m", hint="Look at its producer")


@dataclass
class Bench:
    """An installation without services; records are refused by hand."""

    settings: Settings
    contract: Contract
    producer: Producer

    def name(self, topic: str) -> str:
        return self.contract.topic(topic).full_name

    async def put(
        self, value: bytes, topic: str = "session.chunks", partition: int = 3, **more: Any
    ) -> str:
        """Send a record that nobody can take; its origin."""
        sent = await self.producer.send(
            self.name(topic), value, partition=partition, timestamp_ms=1_700_000_000_123, **more
        )
        return f"{self.name(topic)}/{partition}/{sent.offset}"

    async def put_frame(self, record: FrameRecord) -> str:
        key, headers, value = frame_to_kafka(record)
        return await self.put(value, "session.frames", 5, key=key, headers=[*headers])

    async def refuse_all(
        self, topic: str = "session.chunks", error: LucidError = BAD, since: int = 0
    ) -> None:
        """What a service would do with the records of a topic from offset `since` on."""
        letters = DeadLetters(
            self.producer, topic=self.name("dead.letters"), service="storage",
            limit=LetterLimit(1000),
        )  # fmt: skip
        refused = [record for record in await self.records(topic) if record.offset >= since]
        await asyncio.gather(*(letters.refuse(arrived(record), error) for record in refused))

    async def records(self, topic: str) -> list[Any]:
        return [record async for record in read_topic(self.settings, self.name(topic))]

    async def audits(self, *types: type[Strict]) -> list[AuditEvent]:
        """Entries of these types; of what was decided on letters, if none is named."""
        events = [
            AuditEvent.from_kafka(raw.key, raw.headers, raw.value)
            for raw in await self.records("audit.events")
        ]
        kinds = types or (LetterReplayed, LetterDiscarded)
        return [event for event in events if isinstance(event.data, kinds)]


Run = Callable[..., Any]


@pytest.fixture
async def bench(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    prefix = f"lc{uuid4().hex[:8]}."
    for name, value in {"HOME": str(tmp_path), "KAFKA": stack.kafka, "TOPIC_PREFIX": prefix,
                        "HOST": "desk7"}.items():  # fmt: skip
        monkeypatch.setenv(f"LUCID_{name}", value)
    settings = Settings.load()
    contract = load_contract(settings)
    await apply_contract(settings, contract)
    async with Producer(settings, contract.limits) as producer:
        yield Bench(settings, contract, producer)


async def lucid(*arguments: str, answer: str | None = None) -> Result:
    """Run `lucid dead-letters …`; commands have an event loop of their own."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), input=answer)


async def as_json(*arguments: str) -> Any:
    done = await lucid(*arguments, "--json")
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout)


async def listed(*arguments: str) -> dict[str, str]:
    """State of each letter that is listed."""
    found = await as_json("list", *arguments)
    return {letter["origin"]: letter["state"] for letter in found["letters"]}


async def test_an_installation_without_letters_says_so(bench: Bench) -> None:
    assert (await lucid("list")).output == "0 dead letters\n"
    assert await as_json("list") == {"letters": [], "unreadable": 0}


async def test_a_list_names_origin_reason_and_key_and_filters_by_them(bench: Bench) -> None:
    made = make_session(frames=2)
    session = str(made.session)
    noise = await bench.put(b"\xff\x00noise", key=b"\x1b[2Jkey")
    opened = await bench.put_frame(made.records[0])
    await bench.refuse_all()
    await bench.refuse_all("session.frames", LucidError("no such key"))
    await bench.producer.send(bench.name("dead.letters"), b"no letter", key=b"x")
    found = await as_json("list")
    assert found["unreadable"] == 1
    second, first = found["letters"]
    assert first["origin"] == opened
    assert (first["kind"], first["session"], first["tries"]) == ("open", session, 1)
    assert (second["code"], second["session"]) == ("FormatError", None)
    assert second["key"] == "\\x1b[2Jkey"
    assert second["written_at"] == "2023-11-14T22:13:20Z"
    table = (await lucid("list")).output
    assert noise in table
    assert "[bold]bad[/bold]" in table
    assert "\x1b" not in table
    assert set(await listed("--session", session)) == {opened}
    assert set(await listed("--topic", "session.chunks")) == {noise}
    assert set(await listed("--topic", bench.name("session.frames"))) == {opened}
    assert set(await listed("--code", "LucidError")) == {opened}
    assert await listed("--state", "discarded") == {}
    assert "1 dead letters; 1 more" in (await lucid("list", "--code", "LucidError")).output


async def test_a_filter_that_fits_nothing_there_is_names_what_there_is(bench: Bench) -> None:
    # Nothing is wrong about asking for a code while no record was refused.
    assert await listed("--code", "FormatError") == {}
    missed = await lucid("list", "--topic", "session.chunk")
    assert isinstance(missed.exception, UnknownFilter)
    assert "session.chunks" in str(missed.exception)
    await bench.put(b"noise")
    await bench.refuse_all()
    assert await listed("--topic", "session.frames") == {}
    for arguments in (["list"], ["replay", "--all"], ["discard", "--all", "--reason", "x"]):
        missed = await lucid(*arguments, "--code", "formaterror", "--json")
        assert isinstance(missed.exception, UnknownFilter), arguments
        assert missed.exception.exit_status == 66
        assert "'formaterror'" in str(missed.exception)
        assert "There are FormatError" in str(missed.exception)
        missed = await lucid(*arguments, "--topic", "chunks")
        assert f"There are {bench.name('session.chunks')}" in str(missed.exception)
    # A letter that was decided on is there as well.
    done = await lucid("discard", "--all", "-y", "--reason", "noise")
    assert done.exit_code == 0
    assert await listed("--code", "FormatError") == {}


async def test_a_letter_is_shown_with_its_headers_and_its_bytes_go_to_a_private_file(
    bench: Bench, tmp_path: Path
) -> None:
    text = await bench.put("grüße\n".encode(), headers=[("leaf", b"\x00\xff"), ("none", None)])
    binary = await bench.put(bytes(range(256)) * 2)
    await bench.refuse_all()
    shown = (await lucid("show", text)).output
    for part in (text, "leaf: \\x00\\xff", "none: None", "utf-8", "grüße", "Look at its producer"):
        assert part in shown, part
    file = tmp_path / "value"
    fields = await as_json("show", binary, "--raw", str(file))
    assert file.read_bytes() == bytes(range(256)) * 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert fields["preview"] == {"encoding": "hex", "text": bytes(range(256)).hex(" ")}
    assert fields["size"] == 512
    read = await bench.audits(ResourceRead)
    assert [(event.subject, event.data) for event in read] == [
        (origin, ResourceRead(action="dead-letters.show", resource=origin, session=None,
                              request=None, bytes=size, items=1, outcome="ok"))
        for origin, size in ((text, 8), (binary, 512))
    ]  # fmt: skip
    again = await lucid("show", binary, "--raw", str(file))
    assert "exists already" in str(again.exception)
    nowhere = await lucid("show", binary, "--raw", str(tmp_path / "none" / "file"))
    assert "cannot write" in str(nowhere.exception)
    missing = await lucid("show", "session.chunks/0/99")
    assert type(missing.exception).__name__ == "NoSuchLetter"


async def test_a_replayed_record_is_at_its_origin_again_unchanged_and_it_is_written_down(
    bench: Bench,
) -> None:
    session = str(make_session(frames=1).session)
    origin = await bench.put(
        b"\x00value", key=session.encode(), headers=[("leaf", b"1"), ("x", None)]
    )
    await bench.refuse_all()
    dry = await as_json("replay", origin, "--dry-run")
    assert dry["replayed"] == [{"origin": origin}]
    assert len(await bench.records("session.chunks")) == 1
    done = await as_json("replay", origin)
    assert done["replayed"] == [{"origin": origin, "offset": 1, "try": 2}]
    first, second = await bench.records("session.chunks")
    assert (second.partition, second.offset, second.key) == (3, 1, session.encode())
    assert (second.value, second.timestamp) == (first.value, first.timestamp)
    assert arrived(second).headers == first.headers == (("leaf", b"1"), ("x", None))
    (event,) = await bench.audits()
    assert event.data == LetterReplayed(origin=origin, letter=0, session=session, offset=1, tries=2)
    assert (event.subject, event.source) == (session, "lucid/cli/desk7")
    assert event.user == acting_user()
    assert await listed("--state", "all") == {origin: "replayed"}
    assert await listed() == {}
    again = await lucid("replay", origin)
    assert again.exit_code == 0
    assert "it is replayed already" in again.output
    assert len(await bench.records("session.chunks")) == 2
    assert (await lucid("replay", origin, "--force")).exit_code == 0
    assert len(await bench.records("session.chunks")) == 3


async def test_a_replay_that_fails_again_comes_back_with_the_count_of_tries(bench: Bench) -> None:
    origin = await bench.put(b"still bad")
    await bench.refuse_all()
    await as_json("replay", origin)
    await bench.refuse_all(since=1)
    (second,) = await listed()
    found = await as_json("show", second)
    assert (found["tries"], found["first"], found["headers"]) == (2, origin, [])
    assert await listed("--state", "all") == {origin: "returned", second: "waiting"}
    await as_json("replay", second)
    await bench.refuse_all(since=2)
    (third,) = await listed()
    assert (await as_json("show", third))["tries"] == 3
    await as_json("discard", third, "--reason", "nobody knows what it is")
    assert await listed() == {}
    assert list((await listed("--state", "all")).values()) == ["returned", "returned", "discarded"]


async def test_many_are_replayed_in_their_order_once_somebody_said_yes(bench: Bench) -> None:
    for number in range(230):
        await bench.put(b"%d" % number, partition=number % 2)
    await bench.refuse_all()
    refused = await lucid("replay", "--all", answer="n\n")
    assert type(refused.exception).__name__ == "NotConfirmed"
    assert type((await lucid("replay", "--all", "--json")).exception).__name__ == "NotConfirmed"
    assert len(await bench.records("session.chunks")) == 230
    done = await lucid("replay", "--all", "--topic", "session.chunks", answer="y\n")
    assert "230 replayed, 0 left" in done.output
    found = await bench.records("session.chunks")
    for partition in (0, 1):
        values = [record.value for record in found if record.partition == partition]
        assert values[:115] == values[115:]
    assert len(await bench.audits()) == 230
    assert "0 replayed, 0 left" in (await lucid("replay", "--all")).output


async def test_what_is_discarded_stays_and_says_by_whom_and_why(bench: Bench) -> None:
    origin, other = await bench.put(b"a"), await bench.put(b"b")
    await bench.refuse_all()
    unfit = await lucid("discard", origin, "--reason", "two\nlines")
    assert "500 characters" in str(unfit.exception)
    await as_json("discard", origin, "--reason", "made by a test")
    (event,) = await bench.audits()
    assert event.data == LetterDiscarded(
        origin=origin, letter=0, session=None, reason="made by a test"
    )
    assert event.subject == origin
    shown = await as_json("show", origin)
    assert (shown["state"], shown["decided_by"]) == ("discarded", acting_user())
    assert "already" in (await lucid("discard", origin, "--reason", "again")).output
    assert len(await bench.audits()) == 1
    await as_json("discard", "--all", "--yes", "--reason", "the rest", "--code", "FormatError")
    assert await listed("--state", "discarded") == {origin: "discarded", other: "discarded"}
    assert len(await bench.records("dead.letters")) == 2


async def test_what_cannot_go_back_says_so_and_the_others_go(bench: Bench) -> None:
    good = await bench.put(b"good")
    await bench.refuse_all()
    whole = DeadLetter(
        service="storage", topic=bench.name("session.chunks"), partition=1, offset=7, code="C",
        reason="r", key=None, value=b"x" * 100, timestamp=5,
    )  # fmt: skip
    foreign = replace(whole, topic="somewhere.else")
    for letter in (whole.without_value(), foreign, replace(whole, offset=8, partition=99)):
        key, headers, value = to_kafka(letter)
        await bench.producer.send(bench.name("dead.letters"), value, key=key, headers=headers)
    cut = await lucid("replay", whole.origin)
    assert "left out as too large" in str(cut.exception)
    assert cut.exception.exit_status == 65  # type: ignore[union-attr]
    no_value = await lucid("show", whole.origin, "--raw", "nowhere")
    assert "no value" in str(no_value.exception)
    assert "none of this installation" in str((await lucid("replay", foreign.origin)).exception)
    # The last one goes to a partition that does not exist: what was done before is told.
    done = await lucid("replay", "--all", "--yes", "--json")
    result = json.loads(done.stdout)
    assert [one["origin"] for one in result["replayed"]] == [good]
    assert result["error"]["code"] == "SendRefused"
    assert {one["origin"] for one in result["left"]} == {whole.origin, foreign.origin}
    assert type(done.exception).__name__ == "SendRefused"
    assert (await listed("--state", "replayed")) == {good: "replayed"}


async def test_a_session_that_goes_on_is_not_replayed_into_itself(bench: Bench) -> None:
    made = make_session(frames=3)
    opened = await bench.put_frame(made.records[0])
    await bench.put_frame(made.records[1])
    await bench.refuse_all("session.frames")
    named = await lucid("replay", opened)
    assert "goes on" in str(named.exception)
    done = await as_json("replay", "--all", "--yes")
    assert (done["replayed"], len(done["left"])) == ([], 2)
    await bench.put_frame(made.records[-1])
    await bench.refuse_all("session.frames", since=2)
    done = await as_json("replay", "--all", "--yes", "--session", str(made.session))
    assert [one["offset"] for one in done["replayed"]] == [3, 4, 5]


async def test_records_of_an_erased_session_do_not_come_back(bench: Bench) -> None:
    made, other = make_session(frames=2, seed=61), make_session(frames=2, seed=62)
    for session in (made, other):
        for record in session.records:
            await bench.put_frame(record)
    await bench.refuse_all("session.frames")
    folder = Blobs(bench.settings.blobs_dir).folder(str(made.session))
    folder.mkdir(parents=True)
    (folder / ERASED_CONTENT).write_bytes(b"record")
    before = len(await bench.records("session.frames"))
    done = await lucid("replay", "--all", "--yes", "--force")
    assert done.exit_code == 0, done.output
    assert f"session {made.session} was erased" in done.output
    again = (await bench.records("session.frames"))[before:]
    assert {raw.key for raw in again} == {str(other.session).encode()}


async def test_an_unclear_command_does_nothing(bench: Bench) -> None:
    for arguments in (
        ["replay"], ["replay", "a/0/0", "--all"], ["replay", "a/0/0", "--code", "C"],
        ["discard", "--reason", "r"], ["discard", "a/0/0"], ["list", "--state", "lost"],
    ):  # fmt: skip
        assert (await lucid(*arguments)).exit_code == 2, arguments


async def test_a_broker_without_the_topics_says_what_to_do(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HOME": str(tmp_path), "TOPIC_PREFIX": f"no{uuid4().hex[:8]}."}.items():
        monkeypatch.setenv(f"LUCID_{name}", value)
    monkeypatch.setenv("LUCID_KAFKA", stack.kafka)
    assert "lucid topics apply" in str((await lucid("list")).exception)
    monkeypatch.setenv("LUCID_KAFKA", "127.0.0.1:1")
    away = await lucid("list")
    assert away.exception.exit_status == 69  # type: ignore[union-attr]


# States, without a broker ------------------------------------------------------------------------

LETTER = DeadLetter(
    service="s", topic="t", partition=0, offset=4, code="C", reason="r", key=b"k", value=None,
    timestamp=100,
)  # fmt: skip


def entry(offset: int, letter: DeadLetter = LETTER) -> Entry:
    return Entry(letter, 1, 0, offset, 1000 + offset)


def discarded(letter: int, origin: str = LETTER.origin) -> AuditEvent:
    data = LetterDiscarded(origin=origin, letter=letter, session=None, reason="r")
    return AuditEvent(data, "lucid/cli/h", "x", user="ada", time=datetime.now(UTC))


def test_a_record_that_is_refused_a_second_time_is_one_entry_and_stays_decided() -> None:
    (found,) = states([entry(7), entry(9)], [discarded(7)])
    assert (found.offset, found.copies, found.state) == (9, 2, "discarded")


def test_a_decision_about_a_topic_of_the_same_name_that_is_no_more_does_not_count() -> None:
    other = replace(LETTER, timestamp=999)
    (found,) = states([entry(7), entry(9, other)], [discarded(7)])
    assert (found.offset, found.state) == (9, "waiting")
    (found,) = states([entry(9, other)], [discarded(7)])
    assert found.state == "waiting"


def test_a_reason_that_is_cut_says_so() -> None:
    assert shortened("a" * 160) == "a" * 160
    assert shortened("a" * 158 + " bc") == "a" * 158 + "…"
