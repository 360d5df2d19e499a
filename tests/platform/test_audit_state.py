"""The state of a chain on disk: it goes on after any crash, and says what was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.platform import audit_state
from agents.platform.audit_state import (
    AuditBusy,
    AuditFailed,
    ChainState,
    Slot,
    known_of,
    read_states,
    take_slot,
)
from schemas.audit import AuditEvent, ChainStarted, KafkaRecord, ProjectionRebuilt
from schemas.audit_chain import NOTHING, entry_hash, read_attributes
from schemas.audit_trail import TrailCheck
from schemas.canonical import encode

SOURCE = "lucid/cli/desk"


def act(number: int) -> AuditEvent:
    return AuditEvent(
        ProjectionRebuilt(projection="sessions", events=number), SOURCE, "sessions", user="ada"
    )


def opened(folder: Path, name: str = "cli") -> Slot:
    slot = Slot(folder, name, "cli")
    assert slot.try_lock()
    slot.load(SOURCE, "ada")
    return slot


def pending(slot: Slot) -> list[KafkaRecord]:
    return [record.to_kafka() for record in slot.loaded.pending]


def events_of(records: Sequence[KafkaRecord]) -> list[AuditEvent]:
    return [AuditEvent.from_kafka(*record) for record in records]


def test_a_chain_begins_with_why_and_goes_on_in_the_next_process(tmp_path: Path) -> None:
    first = opened(tmp_path / "audit")
    placed = first.keep([act(1), act(2)])
    sent = pending(first)
    started, *acts = events_of(sent)
    assert started.data == ChainStarted(reason="first", former=None)
    assert started.user_type == "user"
    assert acts == placed
    first.settle()
    assert (first.loaded.entries, first.loaded.pending) == (3, [])
    first.release()

    second = opened(tmp_path / "audit")
    second.keep([act(3)])
    sent += pending(second)
    assert [event.number for event in events_of(sent)] == ["0", "1", "2", "3"]
    trail = TrailCheck()
    for offset, (_, headers, value) in enumerate(sent):
        trail.add(headers, value, offset)
    [state] = read_states(tmp_path / "audit")
    report = trail.finish([known_of(None, state)])
    assert report.ok
    assert report.chains[0].entries == 4


def test_what_a_crash_leaves_pending_is_sent_again_with_the_same_bytes(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.keep([act(1)])
    before = pending(first)
    first.release()  # as the end of the process does
    second = opened(tmp_path)
    assert pending(second) == before
    second.keep([act(2)])
    assert pending(second)[:2] == before
    last = pending(second)[-1]
    second.settle()
    assert second.loaded.head == entry_hash(read_attributes(last[1]), last[2]).hex()


def test_only_one_process_at_a_time_has_a_chain(tmp_path: Path) -> None:
    slot = opened(tmp_path)
    other = Slot(tmp_path, "cli", "cli")
    assert not other.try_lock()
    script = (
        "import sys; from pathlib import Path; from agents.platform.audit_state import Slot; "
        "sys.exit(Slot(Path(sys.argv[1]), 'cli', 'cli').try_lock())"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=30).returncode == 0
    slot.release()
    assert other.try_lock()
    other.release()


def test_each_process_of_a_service_has_a_chain_of_its_own(tmp_path: Path) -> None:
    one, two = take_slot(tmp_path, "api"), take_slot(tmp_path, "api")
    for slot in (one, two):
        slot.load("lucid/api/desk", "lucid")
    assert (one.name, two.name) == ("api", "api-2")
    assert one.loaded.chain != two.loaded.chain
    assert one.loaded.chain.startswith("api/")
    assert two.loaded.chain.startswith("api/")
    [started] = events_of(pending(one))
    assert (started.user, started.user_type) == ("lucid", "service")
    one.release()
    again = take_slot(tmp_path, "api")
    assert again.name == "api"
    again.load("lucid/api/desk", "lucid")
    both = {again.loaded.chain, two.loaded.chain}
    assert {state.chain for state in read_states(tmp_path)} == both
    again.release()
    two.release()


def test_more_processes_than_there_are_slots_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_state, "MOST_SLOTS", 1)
    slot = take_slot(tmp_path, "api")
    with pytest.raises(AuditBusy, match="1 processes"):
        take_slot(tmp_path, "api")
    slot.release()


def test_a_lost_state_begins_a_chain_that_names_the_former_one(tmp_path: Path) -> None:
    first = opened(tmp_path)
    former = first.loaded.chain
    first.release()
    (tmp_path / "cli.json").unlink()
    second = opened(tmp_path)
    [started] = events_of(pending(second))
    assert started.data == ChainStarted(reason="lost", former=former)
    assert second.loaded.chain != former
    second.release()
    (tmp_path / "cli.json").unlink()
    (tmp_path / "cli.lock").write_text("noise")
    third = opened(tmp_path)
    [started] = events_of(pending(third))
    assert started.data == ChainStarted(reason="first", former=None)


def damage(path: Path, kind: str) -> None:
    state = json.loads(path.read_bytes())
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "no chain":
        path.write_bytes(encode(ChainState(chain="nonsense")))
    elif kind == "wrong head":
        other = json.dumps({**state, "head": "0" * 63 + "1"})
        path.write_bytes(encode(ChainState.model_validate_json(other)))
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", ["cut", "no chain", "wrong head", "empty"])
def test_a_damaged_state_is_kept_aside_and_a_chain_begins(tmp_path: Path, kind: str) -> None:
    first = opened(tmp_path)
    former = first.loaded.chain
    first.keep([act(1)])
    first.release()
    damage(tmp_path / "cli.json", kind)
    second = opened(tmp_path)
    [started] = events_of(pending(second))
    assert started.data == ChainStarted(reason="damaged", former=former)
    assert len(list(tmp_path.glob("cli.damaged-*"))) == 1


def test_files_are_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    slot = opened(tmp_path / "audit")
    slot.keep([act(1)])
    slot.settle()
    names = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "audit").iterdir()}
    assert names == {"cli.json": 0o600, "cli.lock": 0o600}
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700


def test_a_disk_that_does_not_work_is_told_and_nothing_moves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = opened(tmp_path)
    before = slot.loaded

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit_state, "write_synced", full)
        with pytest.raises(AuditFailed, match="No space left"):
            slot.keep([act(1)])
        fresh = take_slot(tmp_path, "api")
        with pytest.raises(AuditFailed, match="No space left"):
            fresh.load(SOURCE, "ada")
    assert fresh.state is None
    fresh.load(SOURCE, "ada")
    assert len(pending(fresh)) == 1, "it begins with its start all the same"
    assert slot.loaded is before
    [placed] = slot.keep([act(2)])
    assert placed.number == "1"
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(AuditFailed):
        Slot(blocked / "audit", "cli", "cli").try_lock()


def test_entries_that_wait_for_a_broker_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_state, "MOST_PENDING", 3)
    slot = opened(tmp_path)
    slot.keep([act(1), act(2)])
    with pytest.raises(AuditBusy, match="3 audit entries wait"):
        slot.keep([act(3)])
    slot.settle()
    slot.keep([act(3)])


def test_what_an_installation_knows_covers_what_happens_while_it_looks(tmp_path: Path) -> None:
    slot = opened(tmp_path)
    slot.settle()
    before = slot.loaded
    slot.keep([act(1)])
    slot.settle()
    slot.keep([act(2)])
    known = known_of(before, slot.loaded)
    assert (list(known.hashes), list(known.perhaps), known.most) == ([0], [1, 2], 3)
    assert known.hashes[0].hex() == before.head
    assert known.perhaps[1].hex() == slot.loaded.head
    fresh = known_of(None, ChainState(chain=slot.loaded.chain))
    assert (fresh.hashes, fresh.perhaps, fresh.most) == ({}, {}, 0)
    assert ChainState(chain=slot.loaded.chain).head == NOTHING.hex()
    other = ChainState(chain="cli/019b76da-a802-7000-8000-00000000c4a1", entries=9)
    assert known_of(other, slot.loaded).hashes == {}
