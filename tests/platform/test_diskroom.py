"""Room on a disk: the two marks, and when somebody looks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from agents.platform.diskroom import LOOK_EVERY, DiskGuard, Hysteresis
from agents.platform.health import DiskFull, free_bytes


class Disk:
    """A disk whose free space and a clock whose time the test sets."""

    def __init__(self) -> None:
        self.free, self.now, self.looks = 1000, 0.0, 0
        self.registry = CollectorRegistry()
        self.guard = DiskGuard(
            Path("/blobs"), stop=500, resume=625, registry=self.registry,
            clock=lambda: self.now, measure=self.measure,
        )  # fmt: skip

    def measure(self, _: Path) -> int:
        self.looks += 1
        if self.free < 0:
            raise OSError(errno.EIO, "Input/output error")
        return self.free

    def room(self, free: int, busy: int = 0) -> bool:
        self.free = free
        self.now += LOOK_EVERY
        return self.guard.has_room(busy)

    def gauge(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)


@given(st.lists(st.integers(0, 1000)))
def test_below_one_mark_it_stops_and_only_from_the_other_it_goes_on(frees: list[int]) -> None:
    marks, room = Hysteresis(500, 625), True
    for free in frees:
        room = free >= 500 and (room or free >= 625)
        assert marks.see(free) is room


@pytest.mark.parametrize("resume", [499, 500])
def test_the_marks_are_apart(resume: int) -> None:
    with pytest.raises(ValueError, match="not above"):
        Hysteresis(500, resume)


async def test_it_stays_shut_between_the_marks_and_says_so() -> None:
    disk = Disk()
    assert disk.room(500)
    await disk.guard.check()
    assert not disk.room(499)
    assert not disk.room(624)
    assert disk.gauge("lucid_disk_held_up") == 1
    assert disk.gauge("lucid_disk_free_bytes") == 624
    with pytest.raises(DiskFull, match=r"/blobs has 624 free bytes .* from 625 on.*RESUME_FREE"):
        await disk.guard.check()
    assert await disk.guard.gate(0) is False
    assert disk.room(625)
    assert disk.gauge("lucid_disk_held_up") == 0
    await disk.guard.check()


def test_what_was_taken_counts_as_written() -> None:
    disk = Disk()
    assert disk.room(700, busy=200)
    assert not disk.guard.has_room(201)
    assert not disk.guard.has_room(76)
    assert disk.guard.has_room(75)


def test_the_disk_is_looked_at_once_a_second() -> None:
    disk = Disk()
    assert disk.room(1000)
    disk.free = 0
    assert disk.guard.has_room(0)
    assert disk.looks == 1
    disk.now += LOOK_EVERY
    assert not disk.guard.has_room(0)
    assert disk.looks == 2


def test_a_disk_that_cannot_be_asked_has_no_room() -> None:
    disk = Disk()
    assert not disk.room(-1)
    assert disk.room(700)


def test_free_space_is_what_an_ordinary_user_may_write(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    near = found.f_bavail * found.f_frsize
    assert abs(free_bytes(tmp_path / "not" / "yet") - near) < 2**30
