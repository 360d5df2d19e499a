"""Files of the store: whole or not there, and the first one wins."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.platform import blobs as module
from agents.platform.blobs import Blobs, MissingFile, StoreFailed, chunk_name

SESSION = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"


def test_the_first_file_of_a_name_stays(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    assert blobs.put(SESSION, chunk_name(0), b"first")
    assert not blobs.put(SESSION, chunk_name(0), b"second")
    assert blobs.get(SESSION, chunk_name(0)) == b"first"
    assert os.listdir(blobs.folder(SESSION)) == ["00000000.chunk"]


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    blobs.put(SESSION, "key.age", b"x")
    assert stat.S_IMODE(blobs.path(SESSION, "key.age").stat().st_mode) == 0o600
    assert stat.S_IMODE(blobs.folder(SESSION).stat().st_mode) == 0o700


@pytest.mark.parametrize("call", ["write", "fsync", "link", "open"])
def test_a_disk_that_refuses_leaves_nothing_under_the_name(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, chunk_name(0), b"there before")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, call, full)
        with pytest.raises(StoreFailed, match="No space left") as caught:
            blobs.put(SESSION, chunk_name(1), b"new")
    assert SESSION in str(caught.value)
    assert os.listdir(blobs.folder(SESSION)) == ["00000000.chunk"]
    assert blobs.put(SESSION, chunk_name(1), b"new")


def test_a_name_appears_after_its_bytes_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            order.append(name)
            return real(*arguments, **more)

        return call

    blobs = Blobs(tmp_path)
    blobs.put(SESSION, "a", b"x")
    monkeypatch.setattr(module.os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(module.os, "link", noted("link", os.link))
    blobs.put(SESSION, "b", b"y")
    assert order == ["fsync", "link", "fsync"]


def test_what_a_crash_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, chunk_name(7), b"x")
    (blobs.folder(SESSION) / ".tmp-0011").write_bytes(b"half")
    assert blobs.chunk_indexes(SESSION) == [7]
    assert blobs.sweep() == 1
    assert os.listdir(blobs.folder(SESSION)) == ["00000007.chunk"]
    assert list(blobs.sessions()) == [SESSION]


def test_a_missing_file_is_told_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(MissingFile, match=SESSION):
        blobs.get(SESSION, "manifest.json")
    assert blobs.find(SESSION, "manifest.json") is None
    assert blobs.chunk_indexes(SESSION) == []
    (blobs.folder(SESSION) / "manifest.json").mkdir(parents=True)
    with pytest.raises(StoreFailed):
        blobs.get(SESSION, "manifest.json")
