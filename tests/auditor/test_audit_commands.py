"""`lucid audit verify|list` over topics that are whole, and over ones that somebody has changed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from agents.auditor.audit_commands import _details
from agents.auditor.traces import Export, verified
from agents.cli import app
from agents.platform.audit import Actor, Audit, AuditFailed, chain_folder
from agents.platform.contract import Contract, load_contract
from agents.platform.keys import init_keys
from agents.platform.producer import Producer
from agents.platform.retry import BrokerUnreachable
from agents.platform.settings import Settings
from agents.platform.topic_reader import Record, read_topic
from agents.platform.verification import run_verification
from schemas.audit import (
    AccessDenied,
    AuditEvent,
    ChainStarted,
    ProjectionRebuilt,
    SessionExported,
    SessionVerified,
    put_in_chain,
)
from schemas.audit_chain import Place
from schemas.canonical import Strict
from schemas.errors import LucidError
from schemas.notes import InvalidNote
from schemas.sessions import InvalidSessionId, new_session_id
from schemas.verify_documents import Access
from tests.conftest import Stack
from tests.factories import make_session
from tests.memory_source import MemorySource
from tests.platform.topics import create_topic, expire

SESSION = "018bcfe5-6800-7000-8000-000000000001"
ADA = Actor("ada", "api", "203.0.113.9", ("auditor",))
ACTS: list[tuple[Strict, str, Actor | None]] = [
    (ProjectionRebuilt(projection="sessions", events=3), "sessions", None),
    (SessionVerified(session=SESSION, outcome="ok", findings={}, unchecked=0), SESSION, ADA),
    (AccessDenied(permission="chunks:read", resource="/x[red]\x1b[2J", session=None, code="Forged",
                  request=None), "sessions", Actor("", "anonymous", "198.51.100.7")),
]  # fmt: skip


@dataclass
class Home:
    """An installation's folder and its own audit topic."""

    settings: Settings
    contract: Contract
    env: dict[str, str]

    @property
    def topic(self) -> str:
        return self.contract.topic("audit.events").full_name

    def lucid(self, *arguments: str) -> tuple[int, Any]:
        """A command's exit status, and its JSON or its text."""
        done = CliRunner().invoke(app, arguments, env=self.env)
        if isinstance(done.exception, LucidError):
            raise done.exception
        shown = json.loads(done.stdout) if "--json" in arguments else done.stdout
        return done.exit_code, shown

    def record(self, acts: Sequence[tuple[Strict, str, Actor | None]] = ACTS) -> None:
        async def write() -> None:
            async with Producer(self.settings, self.contract.limits) as producer:
                audit = Audit(producer, self.contract)
                for data, subject, actor in acts:
                    await audit.record(data, subject, actor=actor)

        asyncio.run(write())

    def records(self) -> list[Record]:
        async def read() -> list[Record]:
            return [raw async for raw in read_topic(self.settings, self.topic)]

        return asyncio.run(read())

    def send(self, records: Sequence[Any]) -> None:
        """Put records on the topic as they are: objects or tuples of key, headers, value."""

        async def write() -> None:
            async with Producer(self.settings, self.contract.limits) as producer:
                for raw in records:
                    parts = raw if isinstance(raw, tuple) else (raw.key, raw.headers, raw.value)
                    await producer.send(self.topic, parts[2], key=parts[0], headers=[*parts[1]])

        asyncio.run(write())

    def faults(self, *arguments: str) -> set[str]:
        """What `verify` finds; its exit status has to fit."""
        status, found = self.lucid("audit", "verify", "--json", *arguments)
        faults = {one["fault"] for part in (found, *found["chains"]) for one in part["findings"]}
        assert (status, found["ok"]) == ((1, False) if faults else (0, True))
        return faults


@pytest.fixture
def make(stack: Stack, tmp_path: Path) -> Any:
    def build(name: str, states: Home | None = None) -> Home:
        """A home with its topic; with the states of another one, as if it were that."""
        prefix = f"ac{uuid4().hex[:8]}."
        home = tmp_path / name
        settings = Settings.load(home=home, kafka=stack.kafka, topic_prefix=prefix, host="desk7")
        contract = load_contract(settings)
        asyncio.run(create_topic(settings, contract.topic("audit.events").full_name, 1))
        env = {"LUCID_HOME": str(home), "LUCID_KAFKA": stack.kafka, "LUCID_HOST": "desk7",
               "LUCID_TOPIC_PREFIX": prefix}  # fmt: skip
        if states is not None:
            shutil.copytree(
                chain_folder(states.settings, states.contract), chain_folder(settings, contract)
            )
        return Home(settings, contract, env)

    return build


def test_a_whole_trail_is_in_order_and_shown(make: Any) -> None:
    home = make("one")
    assert home.lucid("audit", "verify", "--json")[1]["chains"] == []
    home.record()
    status, found = home.lucid("audit", "verify", "--json")
    [chain] = found["chains"]
    assert (status, found["ok"], found["records"], found["unchained"]) == (0, True, 4, 0)
    assert (chain["entries"], chain["first"], chain["last"]) == (4, 0, 3)
    assert (chain["source"], chain["confirmed"]) == ("lucid/cli/desk7", ["this installation"])
    status, text = home.lucid("audit", "verify")
    assert status == 0
    assert "in order, confirmed" in text
    assert "Not checked" not in text
    # To another installation the newest entries could be missing.
    other = make("two")
    other.send(home.records())
    status, text = other.lucid("audit", "verify")
    assert status == 0
    assert "unconfirmed" in text
    assert "Not checked" in text


def test_the_list_has_who_did_what_and_from_where(make: Any) -> None:
    home = make("one")
    home.record()
    home.send([home.records()[1], (b"k", [], b"noise")])
    _, found = home.lucid("audit", "list", "--json")
    assert (found["found"], found["unreadable"]) == (4, 1), "the same entry again is one act"
    entry = found["entries"][2]
    assert (entry["user"], entry["user_type"], entry["address"], entry["roles"]) == (
        "ada", "api", "203.0.113.9", ["auditor"],
    )  # fmt: skip
    assert (entry["type"], entry["subject"], entry["number"]) == (
        "lucid.audit.session_verified.v1", SESSION, 2,
    )  # fmt: skip
    assert entry["data"]["outcome"] == "ok"

    def numbers(*filters: str) -> list[int]:
        return [
            one["number"] for one in home.lucid("audit", "list", "--json", *filters)[1]["entries"]
        ]

    assert numbers("--session", SESSION) == [2]
    assert numbers("--user", "ada") == [2]
    assert numbers("--type", "access_denied") == [3]
    assert numbers("--type", "lucid.audit.access_denied.v1") == [3]
    assert numbers("--limit", "2") == [2, 3]
    assert numbers("--since", "2020-01-01") == [0, 1, 2, 3]
    assert numbers("--since", "2999-01-01") == []
    _, text = home.lucid("audit", "list")
    assert "198.51.100.7" in text
    assert "anonymous" in text
    assert "/x[red]\\x1b[2J" in text, "what somebody asked for is no command to the terminal"
    assert "4 of 4 entries" in text
    assert "findings" not in text, "what is empty is not told"


@pytest.mark.parametrize("wrong", [("--type", "session_verifed"), ("--session", SESSION[:-1])])
def test_a_filter_that_can_find_nothing_is_refused(
    tmp_path: Path, wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCID_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["audit", "list", *wrong])
    if wrong[0] == "--type":
        assert done.exit_code == 2
        assert "session_verified" in done.stderr
    else:
        assert isinstance(done.exception, InvalidSessionId)


def test_details_are_words_and_not_code() -> None:
    data = SessionVerified(session=SESSION, outcome="ok", findings={"Gap": 2}, unchecked=0)
    assert _details(AuditEvent(data, "lucid/cli/vm", SESSION, user="ada")) == (
        "outcome ok, findings (Gap 2), unchecked 0"
    )


def test_removed_changed_moved_and_added_entries_are_found(make: Any) -> None:
    home = make("one")
    home.record()
    entries = home.records()
    headers = [(name, b"eve" if name == "ce_authid" else v) for name, v in entries[2].headers]
    changed = (entries[2].key, headers, entries[2].value)
    bare = AuditEvent(ACTS[0][0], "lucid/cli/desk7", "sessions", user="eve").to_kafka()
    for name, records, expected in (
        ("removed", [entries[0], entries[1], entries[3]], {"MissingEntries"}),
        ("changed", [entries[0], entries[1], changed, entries[3]], {"BrokenLink"}),
        ("moved", [entries[0], entries[2], entries[1], entries[3]], {"Reordered"}),
        ("twice", [*entries, changed], {"Forked"}),
        ("added", [*entries, bare], {"Unchained"}),
        ("noise", [*entries, (b"k", [], b"noise")], {"Unreadable"}),
        ("end", entries[:3], {"TailMissing"}),
        ("all", [], {"TailMissing"}),
        ("whole", entries, set()),
    ):  # fmt: skip
        other = make(name, home)
        other.send(records)
        assert other.faults() == expected, name
    status, text = other.lucid("audit", "verify")
    assert status == 0
    empty = make("empty", home)
    empty.send([(b"k", [], b"noise")] * 23)
    status, text = empty.lucid("audit", "verify")
    assert status == 1
    for part in ("TailMissing", "NOT IN ORDER", "Unreadable", "and 3 more"):
        assert part in text, part


def test_what_retention_took_is_an_error_only_while_it_cannot_have_been(make: Any) -> None:
    young = make("young")
    young.record()
    asyncio.run(expire(young.settings, young.topic, 0, 2))
    assert young.faults() == {"MissingEntries"}
    old = make("old")
    chain = f"cli/{new_session_id(now_us=1_600_000_000_000_000)}"
    acts: list[Strict] = [ChainStarted(reason="first", former=None), *(act for act, _, _ in ACTS)]
    events = [AuditEvent(act, "lucid/cli/d", "x", user="ada") for act in acts]
    old.send([record for record, _ in put_in_chain(events, Place(chain, 0))])
    asyncio.run(expire(old.settings, old.topic, 0, 2))
    status, found = old.lucid("audit", "verify", "--json")
    assert (status, found["chains"][0]["expired"], found["chains"][0]["first"]) == (0, 2, 2)
    assert "2 expired" in old.lucid("audit", "verify")[1]


def test_a_signed_head_shows_a_missing_end_to_who_has_no_state(make: Any, tmp_path: Path) -> None:
    home, file = make("one"), tmp_path / "heads.txt"
    keys = {one.name: one.public for one in init_keys(home.settings)}
    home.record()
    status, found = home.lucid("audit", "verify", "--json", "--write-head", str(file))
    assert (status, found["heads_signed"]) == (0, 1)
    assert file.stat().st_mode & 0o777 == 0o600
    home.record(ACTS[:1])
    trust = ("--head", str(file), "--trust", keys["processor.key"])
    whole, short = make("whole"), make("short")
    whole.send(home.records())
    short.send(home.records()[:3])
    assert whole.faults(*trust) == set()
    _, found = whole.lucid("audit", "verify", "--json", *trust)
    assert found["chains"][0]["confirmed"] == ["the head signed by desk7/processor"]
    assert short.faults() == set()
    assert short.faults(*trust) == {"TailMissing"}
    with pytest.raises(InvalidNote, match="none of the trusted keys"):
        short.lucid("audit", "verify", "--head", str(file), "--trust", keys["recorder.key"])
    with pytest.raises(LucidError, match="cannot read"):
        short.lucid("audit", "verify", "--head", str(tmp_path / "none"))
    # The recorder's key is enough; of what is not in order no head is signed.
    (home.settings.keys_dir / "processor.key").unlink()
    status, text = home.lucid("audit", "verify", "--write-head", str(file), "--force")
    assert (status, "the heads of 1 chains" in text) == (0, True)
    broken = make("broken", home)
    status, text = broken.lucid("audit", "verify", "--write-head", str(tmp_path / "no"))
    assert (status, "is not written" in text) == (1, True)
    assert not (tmp_path / "no").exists()


def test_an_export_is_put_down_before_its_file_has_a_name(make: Any) -> None:
    home = make("one")
    trace = Export(home.settings, SESSION)
    trace.written("film", Path("a.mp4"), 512)
    trace.written("bundle", Path("session"), 7)
    acts = [AuditEvent.from_kafka(raw.key, raw.headers, raw.value).data for raw in home.records()]
    assert acts[1:] == [
        SessionExported(session=SESSION, form="film", file_type="mp4", size=512),
        SessionExported(session=SESSION, form="bundle", file_type="none", size=7),
    ]
    away = Settings.load(home=home.settings.home, kafka="127.0.0.1:1", host="desk7")
    with pytest.raises(BrokerUnreachable):
        Export(away, SESSION)


def test_a_verification_is_put_down_at_once_or_with_what_comes_later(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home, made = make("one"), make_session(frames=3, per_chunk=2)
    report = run_verification(MemorySource.of(made), Access())
    away = home.settings.model_copy(update={"kafka": "127.0.0.1:1"})
    verified(away, SESSION, report)
    assert "on this disk only" in capsys.readouterr().err
    verified(home.settings, SESSION, report)
    assert capsys.readouterr().err == ""
    acts = [AuditEvent.from_kafka(raw.key, raw.headers, raw.value).data for raw in home.records()]
    expected = SessionVerified(
        session=SESSION, outcome=report.outcome.value, findings={}, unchecked=len(report.unchecked)
    )
    assert acts[1:] == [expected, expected]
    away.home.joinpath("audit").rename(away.home / "aside")
    away.home.joinpath("audit").write_text("")
    with pytest.raises(AuditFailed):
        verified(home.settings, SESSION, report)


def test_entries_that_are_kept_for_ever_never_expire(make: Any) -> None:
    home = make("one")
    text = Path("topics.yaml").read_text().replace("retention: 365d", "retention: forever")
    home.settings.home.mkdir(exist_ok=True)
    (home.settings.home / "topics.yaml").write_text(text)
    home.env["LUCID_TOPICS_FILE"] = str(home.settings.home / "topics.yaml")
    chain = f"cli/{new_session_id(now_us=1_600_000_000_000_000)}"
    events = [AuditEvent(act, "s", "x", user="ada") for act, _, _ in ACTS]
    home.send([record for record, _ in put_in_chain(events, Place(chain, 7, b"\x01" * 32))])
    asyncio.run(expire(home.settings, home.topic, 0, 1))
    assert home.faults() == {"MissingEntries"}
