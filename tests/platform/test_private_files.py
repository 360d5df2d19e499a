"""Files that commands write for their user alone: exit statuses, and nothing half written."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.platform.letter_views import write_private
from agents.platform.tokens import TokenFileUnreadable, read_token, write_token
from schemas.errors import LucidError

Write = Callable[[Path], None]
BOTH: list[Write] = [
    lambda path: write_token(path, "a.b.c"),
    lambda path: write_private(path, b"x"),
]


def status(write: Write, path: Path) -> int:
    with pytest.raises(LucidError) as caught:
        write(path)
    return caught.value.exit_status


@pytest.mark.parametrize("write", BOTH)
def test_a_file_that_cannot_be_made_has_one_status_everywhere(write: Write, tmp_path: Path) -> None:
    assert status(write, tmp_path / "none" / "file") == 73
    write(tmp_path / "file")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert status(write, tmp_path / "file") == 73


@pytest.mark.parametrize("write", BOTH)
def test_what_a_full_disk_did_not_take_is_not_left_behind(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def write(self, _: object) -> None:
            """What is written is in a buffer until the file is closed."""

    monkeypatch.setattr("os.fdopen", lambda *_: Full())
    assert status(write, tmp_path / "file") == 73
    assert list(tmp_path.iterdir()) == []


def test_a_token_file_that_is_not_there_is_no_token_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenFileUnreadable) as caught:
        read_token(tmp_path / "none")
    assert caught.value.exit_status == 66
