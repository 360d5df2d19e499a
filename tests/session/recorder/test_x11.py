"""X11 capture on a real X server: what is rebuilt from the payloads is what the screen shows."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xcffib
import xcffib.xproto

from agents.session.recorder.sources.base import Control, DisplayLost, NoDisplay, Stopped
from agents.session.recorder.sources.x11 import X11Source
from agents.session.recorder.sources.x11_server import Server
from schemas.screen import Pointer, Screen, Size, decode_update
from tests.session.recorder.desktop import Xvfb
from tests.waiting import wait_for

pytestmark = pytest.mark.display


class Painter:
    """A client that draws on the root window."""

    def __init__(self, display: str) -> None:
        self.connection = xcffib.connect(display=display)
        self.root = self.connection.get_setup().roots[0].root
        self.context = self.connection.generate_id()
        self.connection.core.CreateGC(self.context, self.root, 0, [])

    def fill(self, colour: int, x: int, y: int, width: int, height: int) -> None:
        mask = xcffib.xproto.GC.Foreground
        self.connection.core.ChangeGC(self.context, mask, [colour])
        box = xcffib.xproto.RECTANGLE.synthetic(x, y, width, height)
        self.connection.core.PolyFillRectangle(self.root, self.context, 1, [box])
        self.connection.core.GetInputFocus().reply()

    def close(self) -> None:
        self.connection.disconnect()


class Watched:
    """A source that captures in a thread, and the screen that its payloads build."""

    def __init__(self, display: str, **options: float) -> None:
        self.source = X11Source(display, fps=40, **options)
        self.info = self.source.open()
        self.control = Control()
        self.screen = Screen()
        self.payloads: list[bytes] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.source.run(self._emit, self.control)
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def _emit(self, payload: bytes, _: int) -> None:
        self.payloads.append(payload)
        self.screen.apply(decode_update(payload))

    def end(self) -> None:
        self.control.stop()
        self.thread.join(3)
        assert not self.thread.is_alive()
        self.source.close()


@pytest.fixture
def watched(xvfb: Xvfb) -> Iterator[Watched]:
    found = Watched(xvfb.display, keyframe_every=600)
    try:
        yield found
    finally:
        found.end()


def grab(display: str) -> np.ndarray:
    server = Server(display, None)
    try:
        pixels = server.grab([(0, 0, server.width, server.height)])[0].copy()
    finally:
        server.close()
    return pixels.view(np.uint8).reshape(*pixels.shape, 4)[:, :, :3]


def test_the_rebuilt_picture_is_the_screens(xvfb: Xvfb, watched: Watched) -> None:
    assert watched.info.codec == "screen/1"
    wait_for(lambda: watched.screen.canvas.shape == (480, 640, 3))
    painter = Painter(xvfb.display)
    for number in range(20):
        painter.fill(0x123456 * (number + 1) & 0xFFFFFF, number * 31, number * 17, 90, 60)
        time.sleep(0.01)
    painter.fill(0xABCDEF, 600, 470, 40, 10)
    wait_for(lambda: watched.screen.canvas[479, 639].tolist() == [0xEF, 0xCD, 0xAB])
    assert np.array_equal(watched.screen.canvas, grab(xvfb.display))
    painter.close()


def test_a_small_change_gives_a_small_payload_and_an_idle_screen_none(
    xvfb: Xvfb, watched: Watched
) -> None:
    wait_for(lambda: len(watched.payloads) > 0)
    painter = Painter(xvfb.display)
    before = len(watched.payloads)
    painter.fill(0xFF0000, 10, 10, 5, 5)
    wait_for(lambda: len(watched.payloads) > before)
    assert len(watched.payloads[-1]) < 5000
    count = len(watched.payloads)
    watched.control.stopped.wait(0.5)  # twenty looks at a screen on which nothing happens
    assert len(watched.payloads) == count
    painter.close()


def test_drawing_the_same_again_gives_no_payload(xvfb: Xvfb, watched: Watched) -> None:
    wait_for(lambda: len(watched.payloads) > 0)
    painter = Painter(xvfb.display)
    painter.fill(0x00FF00, 100, 100, 50, 50)
    wait_for(lambda: watched.screen.canvas[120, 120].tolist() == [0, 255, 0])
    count = len(watched.payloads)
    painter.fill(0x00FF00, 100, 100, 50, 50)
    watched.control.stopped.wait(0.3)
    assert len(watched.payloads) == count
    painter.close()


def test_another_resolution_gives_a_keyframe_of_the_new_size(xvfb: Xvfb, watched: Watched) -> None:
    def xrandr(*arguments: str) -> None:
        subprocess.run(["xrandr", "-display", xvfb.display, *arguments], check=True)

    wait_for(lambda: watched.screen.canvas.shape == (480, 640, 3))
    xrandr("--newmode", "small", "6", *["320"] * 4, *["240"] * 4)
    xrandr("--addmode", "screen", "small")
    for mode, width, height in (("small", 320, 240), ("640x480", 640, 480)):
        xrandr("--output", "screen", "--mode", mode, "--fb", f"{width}x{height}")
        painter = Painter(xvfb.display)
        painter.fill(0x445566, width - 9, height - 9, 9, 9)
        wait_for(lambda size=(height, width, 3): watched.screen.canvas.shape == size)
        wait_for(lambda: watched.screen.canvas[-1, -1].tolist() == [0x66, 0x55, 0x44])
        assert np.array_equal(watched.screen.canvas, grab(xvfb.display))
        painter.close()
    sizes = [
        update.items[0]
        for update in map(decode_update, watched.payloads)
        if update.keyframe and isinstance(update.items[0], Size)
    ]
    assert Size(320, 240) in sizes
    assert sizes[-1] == Size(640, 480)


def test_the_pointer_is_followed(xvfb: Xvfb, watched: Watched) -> None:
    wait_for(lambda: watched.screen.pointer is not None)
    painter = Painter(xvfb.display)
    painter.connection.core.WarpPointer(0, painter.root, 0, 0, 0, 0, 77, 88)
    painter.connection.flush()
    wait_for(lambda: watched.screen.pointer == Pointer(77, 88, True, 0))
    painter.close()


def test_keyframes_come_when_something_changed_and_not_before(xvfb: Xvfb) -> None:
    watched = Watched(xvfb.display, keyframe_every=0.2)

    def keyframes() -> int:
        return sum(decode_update(payload).keyframe for payload in watched.payloads)

    try:
        wait_for(lambda: keyframes() == 1)
        watched.control.stopped.wait(0.6)
        assert keyframes() == 1
        painter = Painter(xvfb.display)
        painter.fill(0x0000FF, 0, 0, 10, 10)
        wait_for(lambda: keyframes() == 2)
        painter.close()
    finally:
        watched.end()


def test_after_a_pause_comes_a_keyframe(xvfb: Xvfb, watched: Watched) -> None:
    wait_for(lambda: len(watched.payloads) == 1)
    watched.control.pause()
    painter = Painter(xvfb.display)
    painter.fill(0xFFFFFF, 0, 0, 300, 300)
    watched.control.stopped.wait(0.3)
    assert len(watched.payloads) == 1
    watched.control.resume()
    wait_for(lambda: len(watched.payloads) == 2)
    update = decode_update(watched.payloads[1])
    assert update.keyframe
    assert update.items[0] == Size(640, 480)
    painter.close()


def test_a_server_that_dies_is_told_at_once(xvfb: Xvfb, watched: Watched) -> None:
    wait_for(lambda: len(watched.payloads) > 0)
    xvfb.process.kill()
    watched.thread.join(2)
    assert isinstance(watched.error, DisplayLost)
    assert xvfb.display in str(watched.error)


def test_a_display_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(NoDisplay, match="XAUTHORITY"):
        X11Source(":987").open()


def test_the_cookie_file_is_taken_for_one_connection_only(
    xvfb: Xvfb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAUTHORITY", "before")
    source = X11Source(xvfb.display, xauthority=str(tmp_path / "none"))
    source.open()
    source.close()
    assert os.environ["XAUTHORITY"] == "before"


def test_no_shared_memory_is_left_behind(xvfb: Xvfb) -> None:
    before = segments()
    source = X11Source(xvfb.display)
    source.open()
    source.close()
    # The server lets go of its side when it notices that the client has gone.
    deadline = time.monotonic() + 5
    while not segments() <= before:
        assert time.monotonic() < deadline, "a segment is left"
        time.sleep(0.02)


def segments() -> set[str]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in lines}
