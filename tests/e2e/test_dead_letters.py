"""What no service can take: put aside whole, its neighbours go on, and a fix brings it back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agents.platform.contract import load_contract
from agents.platform.keys import load_recipients
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from schemas.canonical import LARGEST
from schemas.chunks import Sealing
from schemas.controls import Close, Open
from schemas.datakey import derive, wrap
from schemas.deadletters import from_kafka
from schemas.events import SessionEvent, SessionOpened
from schemas.frames import Kind, to_kafka
from schemas.manifests import wrapped_key_text
from schemas.sessions import new_session_id
from schemas.stored import ChunkRecord, ManifestRecord
from tests.e2e.conftest import Installation
from tests.factories import RECORDER, Identity, Recording, make_session
from tests.waiting import wait_for

Raw = tuple[str, bytes | None, Sequence[tuple[str, bytes | None]], bytes | None]
SMALL = {"LUCID_RECORDER_CUT_BYTES": "60000"}


def settings_of(lucid: Installation) -> Settings:
    return Settings.load(
        home=lucid.home, kafka=lucid.env["LUCID_KAFKA"],
        topic_prefix=lucid.env["LUCID_TOPIC_PREFIX"],
    )  # fmt: skip


def put(lucid: Installation, records: Sequence[Raw], partition: int | None = None) -> list[str]:
    """Send records as they are; their origins."""
    settings = settings_of(lucid)
    contract = load_contract(settings)

    async def send() -> list[str]:
        found = []
        async with Producer(settings, contract.limits) as producer:
            for topic, key, headers, value in records:
                name = contract.topic(topic).full_name
                at = await producer.send(name, value, key=key, headers=headers, partition=partition)
                found.append(f"{name}/{at.partition}/{at.offset}")
        return found

    return asyncio.run(send())


def values(lucid: Installation) -> dict[str, bytes | None]:
    """The value of each letter, by origin."""
    settings = settings_of(lucid)
    topic = load_contract(settings).topic("dead.letters").full_name

    async def read() -> dict[str, bytes | None]:
        found = {}
        async for raw in read_topic(settings, topic):
            letter = from_kafka(raw.key, raw.headers, raw.value)
            found[letter.origin] = letter.value
        return found

    return asyncio.run(read())


def listed(lucid: Installation) -> dict[str, dict[str, Any]]:
    found = lucid.lucid("dead-letters", "list", "--state", "all", "--json")["letters"]
    return {one["origin"]: one for one in found}


def bad_frames(lucid: Installation) -> tuple[list[Raw], list[Raw]]:
    """Records that become letters, and those of a session that goes on beside one of them."""
    foreign = make_session(frames=3)
    session, data_key = new_session_id(), bytes(range(32))
    recording = Recording(session, derive(data_key, session))
    recipients = load_recipients(settings_of(lucid))
    opened = Open(
        session=str(session), recorder=str(RECORDER.verifier),
        key=wrapped_key_text(wrap(data_key, recipients)), recipients=recipients,
        codec="bytes/1", source={}, host="desk", sealing=Sealing(),
    )  # fmt: skip
    recording.add(Kind.OPEN, opened)
    last = recording.add(Kind.FRAMES, b"frame")
    recording.add(Kind.CLOSE, Close(reason="done", note="n" * 4096))
    key, headers, value = to_kafka(replace(last, seq=LARGEST - 1))
    beyond = [(name, b"%d" % LARGEST if name == "seq" else text) for name, text in headers]
    unreadable = to_kafka(replace(foreign.records[0], session=new_session_id(), payload=b"{}"))
    bad: list[Raw] = [
        ("session.frames", None, [], b"noise"),
        ("session.frames", b"\xff", [("version", b"2")], None),
        ("session.frames", key, beyond, value),
        ("session.frames", *unreadable),
        *(("session.frames", *to_kafka(record)) for record in foreign.records),
    ]
    return bad, [("session.frames", *to_kafka(record)) for record in recording.records]


def bad_stored() -> list[Raw]:
    made, other = make_session(seed=3), make_session(seed=4)
    key, headers, value = ChunkRecord(made.chunks[0], made.wrapped).to_kafka()
    mixed = ManifestRecord(made.manifest_bytes, other.checkpoint, made.wrapped).to_kafka()
    return [
        ("session.chunks", b"k", [], b"noise"),
        ("session.chunks", key, headers, value[:-1]),
        ("session.chunks", key, [("leaf", b"00"), headers[1]], value),
        ("session.chunks", key, headers, None),
        ("session.manifests", key, [], b"{}"),
        ("session.manifests", *mixed),
    ]


def bad_events() -> list[Raw]:
    session = str(new_session_id())
    opened = SessionOpened(
        session=session, partition=0, offset=0, host="h", recorder="r", codec="bytes/1",
        source={"kind": "file"}, started=1,
    )  # fmt: skip

    def event(subject: str = session, **changes: object) -> Raw:
        data = opened.model_copy(update=changes)
        return ("session.events", *SessionEvent(data, "lucid/test/h", subject).to_kafka())

    _, key, headers, value = event()
    unknown = [(n, b"lucid.session.eaten.v1" if n == "ce_type" else v) for n, v in headers]
    return [
        ("session.events", b"k", [], b"noise"),
        ("session.events", key, unknown, value),
        event(subject="nobody", session="nobody"),
        event(subject=str(new_session_id())),
        event(partition=99),
        event(source={"$where": 1}),
        event(source={"a\x00b": 1}),
    ]


def bad_commands() -> list[Raw]:
    start = {
        "version": 1, "id": str(new_session_id()), "host": "desk1", "action": "start",
        "session": None, "display": ":99", "owner": "", "project": "", "reason": "requested",
    }  # fmt: skip
    with_nul = json.dumps({**start, "xauthority": "a\x00b"}, sort_keys=True, separators=(",", ":"))
    return [
        ("session.commands", b"desk1", [], b"noise"),
        ("session.commands", b"desk1", [], None),
        ("session.commands", b"desk1", [], with_nul.encode()),
    ]


def test_what_no_service_can_take_becomes_a_letter_and_its_neighbours_go_on(
    lucid: Installation,
) -> None:
    frames, neighbour = bad_frames(lucid)
    sent = put(lucid, neighbour[:1], partition=1) and put(lucid, frames, partition=1)
    bad = [*frames, *bad_stored(), *bad_events(), *bad_commands()]
    put(lucid, neighbour[1:], partition=1)
    sent += put(lucid, bad[len(frames) :])
    wait_for(lambda: set(sent) <= values(lucid).keys(), "letters of all of it")
    found = values(lucid)
    assert {origin: found[origin] for origin in sent} == {
        origin: record[3] for origin, record in zip(sent, bad, strict=True)
    }
    letters = listed(lucid)
    codes = [letters[origin]["code"] for origin in sent[: len(frames)]]
    assert codes[:2] == ["UnknownVersion", "UnknownVersion"]
    assert codes[4] == "NoIdentity"
    assert set(codes[5:]) == {"NoOpenRecord"}
    services = {letters[origin]["service"] for origin in sent}
    assert services == {"processor", "storage", "pipeline", "recorder"}
    # The session beside them is whole, and so is one that comes after.
    session = lucid.lucid("record", "--synthetic", "10", "--size", "2000", "--json")["session"]
    assert lucid.settled(session) == "completed"
    beside = (neighbour[0][1] or b"").decode()
    wait_for(lambda: (lucid.home / "blobs" / beside / "manifest.json").exists(), "its manifest")
    assert json.loads((lucid.home / "blobs" / beside / "manifest.json").read_text())["tally"][
        "missing"
    ] == 0  # fmt: skip


def other_identity(lucid: Installation) -> str:
    """A key file that opens nothing here."""
    path = lucid.home / "other.age"
    path.write_text(Identity.new().secret)
    path.chmod(0o600)
    return str(path)


def test_a_session_that_a_wrong_identity_refused_is_whole_after_its_replay(
    own: Installation,
) -> None:
    own.start("processor", LUCID_PROCESSOR_IDENTITY=other_identity(own))
    own.start("storage")
    own.start("pipeline")
    session = own.lucid("record", "--synthetic", "150", "--size", "2000", "--json")["session"]
    wait_for(lambda: len(values(own)) >= 152, "letters of the whole session")
    codes = [letter["code"] for letter in listed(own).values()]
    assert codes == ["NoIdentity", *["NoOpenRecord"] * (len(codes) - 1)]
    assert own.stop("processor") == 0, "one session that is refused is no reason to stop"
    own.start("processor")
    done = own.lucid("dead-letters", "replay", "--all", "--yes", "--session", session, "--json")
    assert len(done["replayed"]) == len(codes)
    assert own.settled(session) == "completed"
    own.lucid("verify", session)  # fails the test unless everything is in order
    assert {letter["state"] for letter in listed(own).values()} == {"replayed"}


def test_a_processor_that_cannot_take_a_session_up_stops_and_leaves_it_to_others(
    own: Installation,
) -> None:
    own.start("storage")
    own.start("pipeline")
    own.start("processor")
    recording = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "record", "--synthetic", "60", "--size", "20000",
         "--rate", "10", "--json"],
        env={**own.env, **SMALL}, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(lambda: list((own.home / "blobs").glob("*/*.chunk")), "a first chunk")
        assert own.stop("processor") == 0
        wrong = own.env | {"LUCID_PROCESSOR_IDENTITY": other_identity(own)}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "agents.cli", "run", "processor"],
            env=wrong, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 77, done.stderr.decode()[-2000:]
        assert "CannotTakeUp" in done.stderr.decode()
        assert time.monotonic() - began < 40
    finally:
        out, _ = recording.communicate(timeout=40)
    own.start("processor")
    assert own.settled(json.loads(out)["session"]) == "completed"
    assert listed(own) == {}


def test_progress_that_is_none_becomes_a_letter_and_progress_of_a_later_version_stops(
    own: Installation,
) -> None:
    (origin,) = put(own, [("session.progress", b"k", [], b"noise")], partition=0)
    own.start("processor")
    wait_for(lambda: origin in values(own), "a letter")
    assert own.stop("processor") == 0
    put(own, [("session.progress", b"k", [], b'{"opened":{},"version":2}')], partition=0)
    done = own.lucid("run", "processor", check=False)
    assert done.returncode == 65
    assert "UnknownVersion" in done.stderr.decode()


def test_a_service_ends_with_a_status_in_front_of_one_letter_too_many(own: Installation) -> None:
    own.env["LUCID_DEAD_LETTER_LIMIT"] = "3"
    put(own, [("session.chunks", b"k", [], b"noise")] * 9, partition=4)
    done = own.lucid("run", "storage", check=False)
    assert done.returncode == 65
    log = done.stderr.decode() + done.stdout.decode()
    assert "TooManyLetters" in log
    assert "lucid dead-letters list" in log
    assert [letter["offset"] for letter in listed(own).values()] == [0, 1, 2]
    own.env["LUCID_DEAD_LETTER_LIMIT"] = "20"
    own.start("storage")
    wait_for(lambda: len(values(own)) == 9, "letters of all of them")
