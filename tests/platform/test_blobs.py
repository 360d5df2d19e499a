"""Files of the store: whole or not there, and the first one wins."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.platform import blobs as module
from agents.platform.blobs import (
    ERASED_CONTENT,
    ERASED_METADATA,
    Blobs,
    MissingFile,
    SessionErased,
    StoreFailed,
    chunk_name,
)

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
        patched.setattr(os, call, full)
        with pytest.raises(StoreFailed, match="No space left") as caught:
            blobs.put(SESSION, chunk_name(1), b"new")
    assert SESSION in str(caught.value)
    assert os.listdir(blobs.folder(SESSION)) == ["00000000.chunk"]
    assert blobs.put(SESSION, chunk_name(1), b"new")


def noted_calls(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """The names of these functions of `os`, as they are called from here on."""
    order: list[str] = []

    def noted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            order.append(name)
            return real(*arguments, **more)

        return call

    for name in names:
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    return order


def test_a_name_appears_after_its_bytes_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, "a", b"x")
    order = noted_calls(monkeypatch, "fsync", "link")
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


# Erased sessions ------------------------------------------------------------------------------


def test_an_erased_session_takes_nothing_of_what_was_erased(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, "manifest.json", b"{}")
    blobs.put(SESSION, ERASED_CONTENT, b"record")
    assert blobs.erased(SESSION)
    for put in (
        lambda: blobs.put(SESSION, chunk_name(0), b"late"),
        lambda: blobs.put(SESSION, "key.age", b"late"),
        lambda: blobs.put_conflict(SESSION, "key.aa.age", b"late"),
        lambda: blobs.replace(SESSION, chunk_name(0), "aside", b"late"),
    ):
        with pytest.raises(SessionErased, match=SESSION):
            put()
    assert not blobs.put(SESSION, "manifest.json", b"{}"), "the metadata is there still"
    assert blobs.put(SESSION, "checkpoint.txt", b"note")
    blobs.put(SESSION, ERASED_METADATA, b"record")
    with pytest.raises(SessionErased):
        blobs.put(SESSION, "manifest.json", b"{}")
    with pytest.raises(SessionErased):
        blobs.put(SESSION, "headers.bin", b"")
    assert sorted(os.listdir(blobs.folder(SESSION))) == [
        "checkpoint.txt", ERASED_CONTENT, ERASED_METADATA,
    ]  # fmt: skip


@pytest.mark.parametrize("name", [chunk_name(0), "key.age"])
def test_who_writes_while_a_session_is_erased_takes_it_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, "manifest.json", b"{}")
    real = module.link_first

    def erased_meanwhile(temporary: Path, final: Path) -> bool:
        (final.parent / ERASED_CONTENT).write_bytes(b"record")
        return real(temporary, final)

    monkeypatch.setattr(module, "link_first", erased_meanwhile)
    with pytest.raises(SessionErased):
        blobs.put(SESSION, name, b"secret")
    assert sorted(os.listdir(blobs.folder(SESSION))) == [ERASED_CONTENT, "manifest.json"]


def test_a_repair_while_a_session_is_erased_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, chunk_name(0), b"rotten")
    real = os.replace

    def erased_meanwhile(source: Path, target: Path) -> None:
        (target.parent / ERASED_CONTENT).write_bytes(b"record")
        real(source, target)

    monkeypatch.setattr(os, "replace", erased_meanwhile)
    with pytest.raises(SessionErased):
        blobs.replace(SESSION, chunk_name(0), "00000000.aa.chunk", b"right")
    conflicts = blobs.folder(SESSION) / "conflicts"
    assert not (blobs.folder(SESSION) / chunk_name(0)).exists()
    left = [path.read_bytes() for path in conflicts.iterdir()] if conflicts.exists() else []
    assert b"right" not in left


def test_a_key_is_overwritten_before_it_is_removed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, "key.age", b"wrapped")
    os.link(blobs.path(SESSION, "key.age"), tmp_path / "other name")
    assert blobs.destroy(SESSION, "key.age")
    assert (tmp_path / "other name").read_bytes() == bytes(7)
    assert not blobs.path(SESSION, "key.age").exists()
    assert not blobs.destroy(SESSION, "key.age")
    assert not blobs.remove(SESSION, "key.age")
    blobs.path(SESSION, "key.age").mkdir()
    for call in (blobs.destroy, blobs.remove):
        with pytest.raises(StoreFailed, match=SESSION):
            call(SESSION, "key.age")


# Several at a time ----------------------------------------------------------------------------


def test_files_that_belong_together_get_their_names_once_all_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, "there", b"")
    order = noted_calls(monkeypatch, "fsync", "link")
    assert blobs.put_all(SESSION, [(chunk_name(0), b"x"), ("key.age", b"y")]) == 2
    assert order == ["fsync", "fsync", "link", "link", "fsync"]
    assert blobs.get(SESSION, "key.age") == b"y"
    assert blobs.put_all(SESSION, []) == 0


def test_what_comes_behind_a_taken_name_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    blobs.put(SESSION, "b", b"first")
    assert blobs.put_all(SESSION, [("a", b"1"), ("b", b"2"), ("c", b"3")]) == 1
    assert blobs.get(SESSION, "b") == b"first"
    real = module.link_first

    def somebody_is_first(temporary: Path, final: Path) -> bool:
        final.write_bytes(b"theirs")
        return real(temporary, final)

    monkeypatch.setattr(module, "link_first", somebody_is_first)
    assert blobs.put_all(SESSION, [("d", b"4"), ("e", b"5")]) == 0
    assert sorted(os.listdir(blobs.folder(SESSION))) == ["a", "b", "d"]


def test_a_disk_that_fills_up_between_two_files_gives_neither_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    real = module.write_new

    def full(path: Path, data: bytes) -> int:
        if data == b"key":
            path.write_bytes(b"k")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(module, "write_new", full)
    with pytest.raises(StoreFailed, match=r"00000000\.chunk, key\.age"):
        blobs.put_all(SESSION, [(chunk_name(0), b"chunk"), ("key.age", b"key")])
    assert os.listdir(blobs.folder(SESSION)) == []


def test_files_of_a_session_that_is_erased_meanwhile_are_all_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path)
    real = module.link_first

    def erased_meanwhile(temporary: Path, final: Path) -> bool:
        (final.parent / ERASED_CONTENT).write_bytes(b"record")
        return real(temporary, final)

    monkeypatch.setattr(module, "link_first", erased_meanwhile)
    with pytest.raises(SessionErased, match=r"00000000\.chunk, key\.age"):
        blobs.put_all(SESSION, [(chunk_name(0), b"x"), ("key.age", b"y")])
    assert os.listdir(blobs.folder(SESSION)) == [ERASED_CONTENT]
