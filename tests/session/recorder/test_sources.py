"""The sources that need no display: files, pipes and made-up frames."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from agents.session.recorder.sources.base import Control, NoInput, Source, Stopped
from agents.session.recorder.sources.file import BLOCK, FileSource
from agents.session.recorder.sources.synthetic import SyntheticSource


def payloads(source: Source, control: Control | None = None) -> list[bytes]:
    found: list[bytes] = []
    source.open()
    try:
        source.run(lambda payload, _: found.append(payload), control or Control())
    finally:
        source.close()
        source.close()
    return found


def test_a_file_comes_whole_and_in_blocks(tmp_path: Path) -> None:
    data = os.urandom(2 * BLOCK + 17)
    (tmp_path / "f").write_bytes(data)
    found = payloads(FileSource(str(tmp_path / "f")))
    assert b"".join(found) == data
    assert [len(one) for one in found] == [BLOCK, BLOCK, 17]
    (tmp_path / "empty").touch()
    assert payloads(FileSource(str(tmp_path / "empty"))) == []


def test_what_cannot_be_read_is_said_before_a_session_is_opened(tmp_path: Path) -> None:
    for name, why in (("none", "No such file"), ("", "folder")):
        with pytest.raises(NoInput, match=why) as caught:
            FileSource(str(tmp_path / name)).open()
        assert caught.value.exit_status == 66


def test_a_silent_pipe_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    control = Control()
    threading.Timer(0.1, control.stop).start()
    try:
        with pytest.raises(Stopped):
            payloads(FileSource(str(path)), control)
    finally:
        os.close(writer)


def test_the_same_seed_makes_the_same_frames() -> None:
    first = payloads(SyntheticSource(frames=5, size=1000, seed=3))
    assert first == payloads(SyntheticSource(frames=5, size=1000, seed=3))
    assert first != payloads(SyntheticSource(frames=5, size=1000, seed=4))
    assert [len(one) for one in first] == [1000] * 5
    assert len(set(first)) == 5


def test_made_up_frames_stop_when_told() -> None:
    control = Control()
    source = SyntheticSource(frames=10**6, size=10, rate=100.0)
    threading.Timer(0.2, control.stop).start()
    with pytest.raises(Stopped):
        payloads(source, control)
