"""Trees and their time, on made-up tables; programs with odd names; displays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rdp.monitor.processes import (
    Ref,
    Stat,
    belongs_to_display,
    make_table,
    memory_of,
    owner_of,
    read_stat,
    read_table,
    ticks_used,
    tree,
)


def stat(pid: int, parent: int = 1, started: int = 100, own: int = 0, reaped: int = 0) -> Stat:
    return Stat(Ref(pid, started), parent, own, reaped, 1, 0)


def test_a_tree_has_no_process_that_is_older_than_its_parent() -> None:
    table = make_table([stat(10), stat(11, 10), stat(12, 11, 99), stat(13, 12), stat(14, 10)], 0)
    assert sorted(tree(table, [Ref(10, 100)])) == [Ref(10, 100), Ref(11, 100), Ref(14, 100)]
    assert tree(table, [Ref(10, 101), Ref(99, 1)]) == {}


def test_a_circle_of_parents_ends() -> None:
    table = make_table([stat(10, 11), stat(11, 10)], 0)
    assert len(tree(table, [Ref(10, 100), Ref(11, 100)])) == 2


def members(*stats: Stat) -> dict[Ref, Stat]:
    return {one.ref: one for one in stats}


@pytest.mark.parametrize(
    ("before", "after", "used"),
    [
        ([stat(1, own=10)], [stat(1, own=15)], 5),
        ([stat(1, own=10)], [stat(1, own=10), stat(2, 1, own=7)], 7),
        # Its parent has reaped a child of 20 ticks, 12 of them in the interval.
        ([stat(1, own=10), stat(2, 1, own=8)], [stat(1, own=10, reaped=20)], 12),
        # A child that began and ended in between.
        ([stat(1, own=10)], [stat(1, own=11, reaped=30)], 31),
        # A child that nobody in the tree reaped: what it used since is lost, nothing else is.
        ([stat(1, own=10), stat(2, 1, own=50)], [stat(1, own=14)], 4),
        ([stat(1, own=10)], [], 0),
        ([], [], 0),
    ],
)
def test_ticks(before: list[Stat], after: list[Stat], used: int) -> None:
    known = make_table(before, 0)
    assert ticks_used(members(*before), known, members(*after)) == used


def test_what_joined_a_tree_counts_from_when_it_was_first_seen_anywhere() -> None:
    known = make_table([stat(1, own=10), stat(2, own=500, reaped=5)], 0)
    after = members(stat(1, own=11), stat(2, own=503, reaped=5))
    assert ticks_used(members(stat(1, own=10)), known, after) == 4


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_ticks_are_never_negative_and_never_less_than_the_living_used(
    rows: list[tuple[int, int, int]],
) -> None:
    before = members(*(stat(pid, own=own) for pid, own, _ in rows))
    after = members(*(stat(pid, own=own + more) for pid, own, more in rows[::2]))
    used = ticks_used(before, make_table(before.values(), 0), after)
    assert used >= 0
    living = sum(one.own - before[ref].own for ref, one in after.items())
    assert used >= living


def test_the_name_of_a_program_says_nothing(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"]) as process:
        try:
            found = read_stat(process.pid)
            assert found is not None
            assert found.parent == os.getpid()
            assert read_table(5.0).by_pid[process.pid].ref == found.ref
            assert read_table(5.0).at == 5.0
        finally:
            process.kill()


@pytest.mark.parametrize("text", ["", "12 (a", "12 (a) S 1 2", "12 (a) " + "x " * 40])
def test_what_is_no_stat_is_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "stat").write_text(text)
    assert read_stat(12, tmp_path) is None
    (tmp_path / "self").mkdir()
    assert read_table(0, tmp_path).by_pid == {}


def test_memory_is_that_of_the_same_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = read_stat(os.getpid())
    assert mine is not None
    size, whole = memory_of(mine) or (0, False)
    assert 0 < size <= mine.rss * 1.1
    assert whole
    other = Stat(Ref(mine.ref.pid, mine.ref.started + 1), 1, 0, 0, 1, 5)
    assert memory_of(other) is None
    assert memory_of(Stat(Ref(2**22 + 1, 5), 1, 0, 0, 1, 5)) is None

    def refused(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", refused)
    assert memory_of(mine) == (mine.rss, False)


@pytest.mark.parametrize(
    ("shown", "wanted", "mine"),
    [
        (":10", ":10", True), (":10.0", ":10", True), ("unix:10.1", ":10", True),
        ("localhost:10", ":10", True), (":1", ":10", False), ("elsewhere:10", ":10", False),
        ("", ":10", False), ("10", ":10", False),
    ],
)  # fmt: skip
def test_displays(tmp_path: Path, shown: str, wanted: str, mine: bool) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "environ").write_bytes(b"A=1\0DISPLAY=" + shown.encode() + b"\0B=2\0")
    assert belongs_to_display(Ref(7, 1), wanted, tmp_path) is mine


def test_a_process_that_is_gone_has_no_owner_and_no_display(tmp_path: Path) -> None:
    assert owner_of(Ref(7, 1), tmp_path) is None
    assert not belongs_to_display(Ref(7, 1), ":1", tmp_path)
    assert owner_of(Ref(os.getpid(), 0)) == os.getuid()
