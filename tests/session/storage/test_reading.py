"""Reading at a limited rate: what it reads, what it refuses, that it stops at once."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from agents.session.storage.reading import BLOCK, Halted, Reader, TokenBucket


def test_a_bucket_lets_its_rate_through_and_no_more() -> None:
    now = [0.0]
    bucket = TokenBucket(1000, lambda: now[0])
    waited = 0.0
    for _ in range(50):
        pause = bucket.take(200)
        waited += pause
        now[0] += pause
    # A second's worth at once, the other 9000 bytes at 1000 a second.
    assert waited == pytest.approx(9.0)
    now[0] += 3600
    assert bucket.take(1000) == 0
    assert bucket.take(500) == pytest.approx(0.5), "an idle hour gives no hour's burst"


def test_a_rate_of_0_is_no_limit() -> None:
    assert TokenBucket(0).take(10**12) == 0


def test_a_file_is_hashed_and_counted(tmp_path: Path) -> None:
    data = os.urandom(2 * BLOCK + 17)
    path = tmp_path / "file"
    path.write_bytes(data)
    counted: list[int] = []
    seen = Reader(0, counted.append).look(path, len(data), hashlib.sha256)
    assert seen is not None
    assert (seen.size, seen.hash) == (len(data), hashlib.sha256(data).hexdigest())
    assert counted == [BLOCK, BLOCK, 17]
    assert 0 <= seen.age < 60


def test_nothing_is_read_that_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    counted: list[int] = []
    reader = Reader(0, counted.append)
    other, listed = reader.look(path, 5, hashlib.sha256), reader.look(path, None, None)
    assert other is not None
    assert listed is not None
    assert (other.size, other.hash, listed.hash, counted) == (4, None, None, [])
    assert reader.look(tmp_path / "none", 5, hashlib.sha256) is None
    assert reader.look(path / "below", 5, hashlib.sha256) is None


def test_what_is_no_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "loop", "pipe"):
        seen = Reader(0).look(tmp_path / name, None, hashlib.sha256)
        assert seen is not None
        assert seen.error == "not a regular file"
    seen = Reader(0).look(tmp_path / ("x" * 300), None, hashlib.sha256)
    assert seen is not None
    assert seen.error == "File name too long"


def test_it_stops_at_once_in_the_middle_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10 * BLOCK))
    started = threading.Event()
    reader = Reader(BLOCK // 1000, lambda _: started.set())
    ended: list[BaseException] = []

    def read() -> None:
        try:
            reader.look(path, None, hashlib.sha256)
        except Halted as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(10)
    begin = time.monotonic()
    reader.halt()
    thread.join(10)
    assert len(ended) == 1
    assert time.monotonic() - begin < 5
    with pytest.raises(Halted):
        reader.look(path, None, None)
