"""Sizes of folders: walked in bounded steps, links, several names, what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.rdp.monitor.disk import Disk, FolderWalk


def blocks(*paths: Path) -> int:
    return sum(os.lstat(path).st_blocks * 512 for path in paths)


def fill(folder: Path, files: int = 5, folders: int = 2) -> list[Path]:
    """Files in a folder and in folders in it; all paths."""
    made = [folder]
    for place in (folder, *(folder / f"d{number}" for number in range(folders))):
        if place != folder:
            place.mkdir()
            made.append(place)
        for number in range(files):
            path = place / f"f{number}"
            path.write_bytes(b"x" * 5000 * (number + 1))
            made.append(path)
    return made


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def walk_through(walk: FolderWalk, step: int) -> int:
    """Walk once; how many steps it took."""
    steps = 0
    while True:
        assert walk.step(step) <= step
        steps += 1
        if not walk.running:
            return steps


def test_a_folder_is_as_large_as_all_that_is_in_it(tmp_path: Path) -> None:
    made = fill(tmp_path)
    before = fds()
    for step in (1, 3, 1000):
        walk = FolderWalk(tmp_path)
        assert walk.size is None
        steps = walk_through(walk, step)
        assert (walk.size, walk.whole) == (blocks(*made), True)
        assert steps == 1 if step == 1000 else steps > 5
    assert fds() == before


def test_links_are_not_followed_and_names_of_one_file_count_once(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    fill(outside)
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_bytes(b"x" * 50_000)
    os.link(home / "file", home / "again")
    (home / "link").symlink_to(outside)
    walk = FolderWalk(home)
    walk_through(walk, 100)
    assert walk.size == blocks(home, home / "file", home / "link")


def test_a_link_in_the_place_of_the_folder_is_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "home").symlink_to(target)
    for path in (tmp_path / "home", tmp_path / "none"):
        walk = FolderWalk(path)
        walk_through(walk, 100)
        assert (walk.size, walk.whole) == (0, False)


def test_what_goes_away_meanwhile_is_left_out(tmp_path: Path) -> None:
    made = fill(tmp_path, files=3, folders=3)
    walk = FolderWalk(tmp_path)
    walk.step(2)
    for folder in (path for path in made[1:] if path.is_dir()):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    for path in tmp_path.iterdir():
        path.unlink()
    walk_through(walk, 100)
    assert walk.size is not None
    assert walk.size <= blocks(tmp_path) + 1_000_000
    assert walk.whole


def test_a_folder_with_too_many_files_has_a_lower_bound(tmp_path: Path) -> None:
    made = fill(tmp_path, files=20, folders=0)
    before = fds()
    walk = FolderWalk(tmp_path, most=10)
    walk_through(walk, 3)
    assert walk.size is not None
    assert 0 < walk.size < blocks(*made)
    assert not walk.whole
    assert fds() == before


def test_what_cannot_be_opened_makes_a_lower_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    real = os.open

    def refuse(path: str, flags: int) -> int:
        if path.endswith("d1"):
            raise PermissionError(13, "no")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    walk = FolderWalk(tmp_path)
    walk_through(walk, 1000)
    assert (walk.size or 0) > 0
    assert not walk.whole


def test_another_file_system_is_not_walked(tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir()
    inside = FolderWalk(Path("/dev"))
    walk_through(inside, 100_000)
    shm = os.lstat("/dev/shm")
    assert shm.st_dev != os.lstat("/dev").st_dev
    assert inside.whole


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(1, 30), most=st.integers(1, 40))
def test_no_step_is_larger_than_allowed_and_every_walk_ends(
    tmp_path: Path, step: int, most: int
) -> None:
    if not (tmp_path / "f0").exists():
        fill(tmp_path)
    walk = FolderWalk(tmp_path, most)
    assert walk_through(walk, step) <= most // step + 1
    # 17 entries and the opening of three folders; that nothing follows is seen afterwards.
    assert walk.whole == (most > 20)
    walk.close()


def test_folders_take_turns_and_are_walked_anew_when_it_is_time(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
        fill(path, files=4, folders=0)
    disk = Disk(every=300)
    disk.want([one, other])
    assert disk.size([one]) == (None, False)
    clock = 0.0
    while disk.size([one, other])[0] is None:
        assert disk.step(3, clock) <= 3
        clock += 30
        assert clock < 300
    size, whole = disk.size([one, other])
    assert (size, whole) == (blocks(one, *one.iterdir(), other, *other.iterdir()), True)
    (one / "more").write_bytes(b"x" * 100_000)
    assert disk.step(1000, clock) == 0
    assert disk.size([one, other])[0] == size
    disk.step(1000, clock + 300)
    assert disk.size([one, other])[0] == (size or 0) + blocks(one / "more")
    before = fds()
    disk.step(2, clock + 900)
    disk.close()
    assert fds() == before
    assert disk.size([one]) == (None, False)
