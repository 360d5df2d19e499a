"""Output files are whole or not there, private, and replaced only when asked for."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agents.auditor.files import FileExists, FileUnwritable, whole_file


def write(path: Path, data: bytes, *, force: bool = False) -> None:
    with whole_file(path, force=force) as temporary:
        temporary.write_bytes(data)


def test_a_file_is_whole_and_private(tmp_path: Path) -> None:
    write(tmp_path / "a.lucid", b"data")
    assert (tmp_path / "a.lucid").read_bytes() == b"data"
    assert (tmp_path / "a.lucid").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a.lucid"]


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "a.lucid"
    write(path, b"first")
    with pytest.raises(FileExists, match="--force") as caught:
        write(path, b"second")
    assert caught.value.exit_status == 73
    assert path.read_bytes() == b"first"
    write(path, b"third", force=True)
    assert path.read_bytes() == b"third"


def test_a_name_that_was_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.lucid"

    def take_the_name() -> None:
        with whole_file(path, force=False) as temporary:
            temporary.write_bytes(b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(FileExists, match="meanwhile"):
        take_the_name()
    assert path.read_bytes() == b"theirs"
    assert [one.name for one in tmp_path.iterdir()] == ["a.lucid"]


@pytest.mark.parametrize("force", [False, True])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "a.lucid"
    if force:
        path.write_bytes(b"old")

    def fail_half_way() -> None:
        with whole_file(path, force=force) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileUnwritable, match="No space left on device"):
        fail_half_way()
    assert [one.read_bytes() for one in tmp_path.iterdir()] == ([b"old"] if force else [])


def test_a_folder_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileUnwritable, match="is a folder"):
        write(tmp_path, b"")
    with pytest.raises(FileUnwritable, match="none"):
        write(tmp_path / "none" / "a", b"")


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileUnwritable, match="File name too long"):
        write(tmp_path / ("a" * 300 + ".png"), b"")
    longest = tmp_path / ("a" * 251 + ".png")
    write(longest, b"data")
    assert [one.name for one in tmp_path.iterdir()] == [longest.name]


def test_a_disk_without_links_and_modes_takes_a_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("os.fchmod", refuse)
    path = tmp_path / "a.lucid"
    write(path, b"data")
    assert path.read_bytes() == b"data"

    def take_the_name() -> None:
        with whole_file(tmp_path / "b.lucid", force=False) as temporary:
            temporary.write_bytes(b"mine")
            (tmp_path / "b.lucid").write_bytes(b"theirs")

    with pytest.raises(FileExists):
        take_the_name()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.lucid", "b.lucid"]
    assert (tmp_path / "b.lucid").read_bytes() == b"theirs"
