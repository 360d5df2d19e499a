"""Windows in use on a real X server: what they are called, whoever says it, however they lie."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from agents.session.recorder.sources.base import Control, Stopped
from agents.session.recorder.sources.x11 import X11Source
from schemas.activity import (
    Clipboard,
    Display,
    Keys,
    Policy,
    Watching,
    Window,
    is_activity,
    pictures_of,
)
from schemas.screen import pictures
from tests.session.recorder.desktop import Desktop, Xvfb, activate, client

pytestmark = pytest.mark.display


def test_the_window_in_use_has_its_title_and_program(desktop: Desktop) -> None:
    desktop.record()
    assert desktop.codec == "screen/2"
    assert desktop.found(Watching) == [Watching(policy=Policy(), unseen=[])]
    assert desktop.found(Display) == [Display(width=640, height=480)]
    one, other = desktop.xterm(title="first"), desktop.xterm(title="Lohn – März")
    for window, title in ((one, "first"), (other, "Lohn – März"), (one, "first")):
        desktop.focus(window)
        desktop.until(lambda title=title: desktop.found(Window)[-1].title == title)
    assert desktop.found(Window)[-1] == Window(
        title="first", program="XTerm", instance="xterm", via="focus", protected=False, left_out=0
    )
    desktop.xdotool("set_window", "--name", "renamed", one)
    desktop.until(lambda: desktop.found(Window)[-1].title == "renamed")
    assert desktop.found(Keys) == []
    assert desktop.found(Clipboard) == []


def test_without_a_focus_the_pointer_says_which_window_is_used(desktop: Desktop) -> None:
    desktop.record()
    desktop.until(lambda: desktop.found(Window)[-1].via == "none")
    desktop.xterm("-geometry", "40x10+0+0")
    desktop.xdotool("mousemove", "20", "20")
    desktop.until(lambda: desktop.found(Window)[-1].title == "notes")
    assert desktop.found(Window)[-1].via == "pointer"
    desktop.xdotool("mousemove", "630", "470")
    desktop.until(lambda: desktop.found(Window)[-1].via == "none")


def test_a_window_managers_word_comes_first(desktop: Desktop) -> None:
    desktop.record()
    first, second = desktop.xterm(title="first"), desktop.xterm(title="second")
    desktop.focus(second)
    with client(desktop.display) as manager:
        activate(manager, first)
        desktop.until(lambda: desktop.found(Window)[-1].via == "manager")
        assert desktop.found(Window)[-1].title == "first"
        activate(manager, "0")
        desktop.until(lambda: desktop.found(Window)[-1].title == "second")
        assert desktop.found(Window)[-1].via == "focus"
        activate(manager, "12345678")  # a window that is gone
        desktop.until(lambda: desktop.found(Window)[-1].via != "manager")


def test_a_window_without_a_class_has_the_name_of_its_process(desktop: Desktop) -> None:
    desktop.record()
    with client(desktop.display) as program:
        window = program.window()
        program.put(window, "WM_NAME", "STRING", "Zoë".encode("latin-1"))
        program.core.SetInputFocus(0, window, 0)
        program.settle()
        desktop.until(lambda: desktop.found(Window)[-1].title == "Zoë")
        comm = Path("/proc/self/comm").read_text().strip()
        assert desktop.found(Window)[-1].program == comm
        program.core.DestroyWindow(window)
        program.settle()
        desktop.until(lambda: desktop.found(Window)[-1].via in ("none", "pointer"))


def test_a_part_of_a_window_has_the_windows_name_and_so_has_its_frame(desktop: Desktop) -> None:
    desktop.record()
    with client(desktop.display) as program:
        frame = program.window()
        window = program.window(frame)
        field = program.window(program.window(window))
        program.put(window, "WM_CLASS", "STRING", b"soffice\0Calc\0")
        program.put(window, "WM_NAME", "STRING", b"plan")
        program.core.WarpPointer(0, program.root, 0, 0, 0, 0, 20, 20)
        program.settle()
        desktop.until(lambda: desktop.found(Window)[-1].title == "plan")
        assert desktop.found(Window)[-1].via == "pointer"
        program.core.SetInputFocus(0, field, 0)
        program.settle()
        desktop.until(lambda: desktop.found(Window)[-1].via == "focus")
        assert (desktop.found(Window)[-1].title, desktop.found(Window)[-1].program) == (
            "plan", "Calc",
        )  # fmt: skip
        desktop.looks(12)  # past the time for which a window's place is taken to be the same
        nameless = program.window(program.window())
        program.core.SetInputFocus(0, nameless, 0)
        program.settle()
        desktop.until(lambda: desktop.found(Window)[-1].title == "")
        assert desktop.found(Window)[-1].program == Path("/proc/self/comm").read_text().strip()
        program.core.DestroyWindow(frame)
        program.settle()


def test_hostile_titles_are_cut_escaped_and_bounded_in_number(desktop: Desktop) -> None:
    desktop.record()
    with client(desktop.display) as program:
        window = program.window()
        program.core.SetInputFocus(0, window, 0)
        huge = b"\x1b[2J\xff\xfe\xe2\x80\xae" + b"A\n" * 512 * 1024
        program.put(window, "_NET_WM_NAME", "UTF8_STRING", huge)
        program.settle()
        desktop.until(lambda: desktop.found(Window)[-1].title.startswith("\\x1b[2J"))
        title = desktop.found(Window)[-1].title
        assert title.startswith("\\x1b[2J\ufffd\ufffd\\u{202e}A\\x0aA")
        assert len(title) == 300
        before, start = len(desktop.found(Window)), time.monotonic()
        number = 0
        while time.monotonic() < start + 3:
            program.put(window, "_NET_WM_NAME", "UTF8_STRING", b"%d" % number)
            program.settle()
            number += 1
        program.put(window, "_NET_WM_NAME", "UTF8_STRING", b"the last")
        program.settle()
        desktop.until(lambda: desktop.found(Window)[-1].title == "the last")
        entries = desktop.found(Window)[before:]
        assert number > 100
        assert len(entries) <= 10 + 2 * (time.monotonic() - start)
        assert sum(one.left_out for one in entries) > 3


def test_another_size_of_the_display_has_an_entry(desktop: Desktop) -> None:
    desktop.record()
    for arguments in (
        ("--newmode", "small", "6", *["320"] * 4, *["240"] * 4),
        ("--addmode", "screen", "small"),
        ("--output", "screen", "--mode", "small", "--fb", "320x240"),
    ):
        subprocess.run(["xrandr", "-display", desktop.display, *arguments], check=True)
    desktop.until(lambda: desktop.found(Display)[-1] == Display(width=320, height=240))


def test_a_recording_without_activity_is_as_it_was(xvfb: Xvfb) -> None:
    source = X11Source(xvfb.display)
    assert source.open().codec == "screen/1"
    control, payloads = Control(), []

    def emit(payload: bytes, _: int) -> None:
        payloads.append(payload)
        control.stop()

    with pytest.raises(Stopped):
        source.run(emit, control)
    source.close()
    assert payloads
    assert not any(map(is_activity, payloads))


def test_pictures_are_the_same_with_activity_between_them(desktop: Desktop) -> None:
    desktop.record(keys="comprehensive", clipboard="details", files=True)
    desktop.focus(desktop.xterm())
    desktop.looks()
    desktop.type("x")
    desktop.until(lambda: desktop.keys() == "x")
    shown = pictures(pictures_of("screen/2", list(desktop.payloads)))
    assert {screen.canvas.shape for _, screen in shown} == {(480, 640, 3)}
