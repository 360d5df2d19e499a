"""What an agent must not forget: no counter twice, no work twice, none of another hour."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from agents.node.agent.figures import hardware, look
from agents.node.agent.memory import Memory, MemoryUnreadable
from agents.node.agent.settings import NodeAgentSettings
from agents.platform.settings import Settings
from schemas.node_heartbeats import SLOT
from tests.node.factories import BEGIN


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "node"


def memory(place: Path) -> Memory:
    return Memory(place / "desk7.json", place / "work")


def put(place: Path, name: str, **fields: Any) -> Path:
    path = place / "work" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"kind": "relay_bytes", "amount": 5, "time": BEGIN, **fields}))
    return path


def test_counters_go_up_over_restarts_and_the_file_is_private(place: Path) -> None:
    first = memory(place)
    assert [first.next_beat(BEGIN)[0] for _ in range(3)] == [BEGIN, BEGIN + 1, BEGIN + 2]
    assert memory(place).next_beat(BEGIN - 10**9)[0] == BEGIN + 3
    assert memory(place).next_beat(BEGIN + 10**9)[0] == BEGIN + 10**9
    assert stat.S_IMODE((place / "desk7.json").stat().st_mode) == 0o600
    assert [path.name for path in place.glob("*.new")] == []


def test_work_is_added_up_by_slots_and_told_as_a_total(place: Path) -> None:
    one = memory(place)
    put(place, "a")
    put(place, "b", amount=7)
    put(place, "c", kind="storage_proofs", amount=1)
    put(place, "d", time=BEGIN - SLOT)
    _, work = one.next_beat(BEGIN)
    assert [(row.slot - BEGIN // SLOT, row.relay_bytes, row.storage_proofs) for row in work] == [
        (-1, 5, 0), (0, 12, 1),
    ]  # fmt: skip
    put(place, "a", amount=1)
    assert one.next_beat(BEGIN)[1][-1].relay_bytes == 13
    assert memory(place).next_beat(BEGIN)[1][-1].relay_bytes == 13
    assert list((place / "work").iterdir()) == []
    assert one.next_beat(BEGIN + 31 * SLOT)[1] == []


def test_a_kill_between_counting_and_removing_counts_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(place, "a")
    monkeypatch.setattr(Memory, "_remove", lambda self, files: None)
    memory(place).next_beat(BEGIN)
    monkeypatch.undo()
    assert path.exists()
    assert memory(place).next_beat(BEGIN)[1][0].relay_bytes == 5
    assert not path.exists()


@pytest.mark.parametrize(
    "fields",
    [{"time": BEGIN - 31 * SLOT}, {"time": BEGIN + SLOT}, {"amount": 0}, {"kind": "gold"},
     {"more": 1}, {"amount": "5"}],
)  # fmt: skip
def test_work_that_is_none_is_set_aside(place: Path, fields: dict[str, Any]) -> None:
    path = put(place, "a", **fields)
    assert memory(place).next_beat(BEGIN)[1] == []
    assert path.with_suffix(".refused").exists()


def test_a_slot_takes_no_more_than_its_limit(place: Path) -> None:
    put(place, "a", amount=9 * 10**11)
    put(place, "b", amount=9 * 10**11)
    assert memory(place).next_beat(BEGIN)[1][0].relay_bytes == 10**12


@pytest.mark.parametrize("data", [b"", b"{}x", b'{"counter":-1}', b"\xff"])
def test_a_damaged_memory_is_never_begun_anew(place: Path, data: bytes) -> None:
    memory(place)
    (place / "desk7.json").write_bytes(data)
    with pytest.raises(MemoryUnreadable, match="Restore or remove"):
        memory(place)


def test_the_figures_are_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "spool" / "one").mkdir(parents=True)
    found = look(tmp_path / "not" / "there", tmp_path / "spool")
    assert (found.sessions, look(tmp_path, tmp_path / "none").sessions) == (1, 0)
    assert 0 < found.memory <= 1000
    assert found.processes >= 1
    assert hardware(tmp_path / "not" / "there").cpus == os.cpu_count()


@pytest.mark.parametrize(
    ("host", "name"),
    [("Desk7.Example", "desk7-example"), ("..", "node"), ("a" * 80, "a" * 63), ("-x-", "x")],
)
def test_a_hosts_name_becomes_an_id(host: str, name: str, tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, host=host)
    section = NodeAgentSettings()
    assert section.node_id(settings) == name
    assert NodeAgentSettings(id="mine").node_id(settings) == "mine"
    assert section.work_folder(settings) == tmp_path / "node" / "work"
