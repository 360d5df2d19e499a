"""Keys typed into real programs: what each level has, and what must never be anywhere."""

from __future__ import annotations

import os
import pty
import termios
import threading
from pathlib import Path

import pytest

from schemas.activity import (
    Clipboard,
    Display,
    Keys,
    Watching,
    Window,
)
from tests.session.recorder.desktop import SECRET, Desktop, Xvfb, activate, client, nowhere

pytestmark = pytest.mark.display


def test_keys_of_each_level(desktop: Desktop) -> None:
    desktop.record(keys="comprehensive")
    desktop.focus(desktop.xterm())
    desktop.looks()
    desktop.type("Hello, 42")
    desktop.xdotool("key", "ctrl+a", "F5", "Left", "Return")
    desktop.until(lambda: desktop.keys().endswith("Return"))
    shown = [key for one in desktop.found(Keys) for key in one.keys or () if "_L" not in key]
    assert shown == [*"Hello,", "space", "4", "2", "Control+a", "F5", "Left", "Return"]


@pytest.mark.parametrize("level", ["basic", "strict"])
def test_lower_levels_have_counts_and_no_keys(desktop: Desktop, level: str) -> None:
    desktop.record(keys=level)
    desktop.focus(desktop.xterm())
    desktop.looks()
    desktop.type("abc 12")
    desktop.until(lambda: sum(one.count for one in desktop.found(Keys)) == 6)
    total: dict[str, int] = {}
    for one in desktop.found(Keys):
        assert one.keys is None
        for kind, count in (one.classes or {}).items():
            total[kind] = total.get(kind, 0) + count
    assert total == ({"letter": 3, "space": 1, "digit": 2} if level == "strict" else {})


@pytest.mark.parametrize("level", ["basic", "strict", "comprehensive"])
def test_keys_under_a_grab_show_up_nowhere_not_even_as_a_count(
    desktop: Desktop, level: str
) -> None:
    """The test of tests: without the protection by the X server this fails."""
    desktop.record(keys=level)
    desktop.focus(desktop.xterm())
    desktop.looks()
    with client(desktop.display) as locker:
        desktop.type("b")
        locker.grab()
        desktop.type(SECRET)
        desktop.xdotool("key", "Return")
        desktop.looks(8)
        locker.ungrab()
    desktop.looks()
    desktop.type("a")
    desktop.until(lambda: sum(one.count for one in desktop.found(Keys)) >= 2)
    desktop.looks(8)
    assert sum(one.count for one in desktop.found(Keys)) == 2
    if level == "comprehensive":
        assert desktop.keys() == "ba"
    nowhere(desktop)


def test_the_secure_keyboard_of_xterm_is_protected(desktop: Desktop) -> None:
    desktop.record(keys="comprehensive")
    secure = "XTerm*VT100.translations: #override <Key>F9: secure()"
    desktop.focus(desktop.xterm("-xrm", secure))
    desktop.looks()
    with client(desktop.display) as other:

        def grabbed() -> bool:
            status = other.core.GrabKeyboard(False, other.root, 0, 1, 1).reply().status
            if status == 0:
                other.ungrab()
            return bool(status)

        desktop.xdotool("key", "F9")
        desktop.until(grabbed)
        desktop.type(SECRET)
        desktop.looks()
        desktop.xdotool("key", "F9")
        desktop.until(lambda: not grabbed())
    desktop.looks()
    desktop.type("ok")
    desktop.until(lambda: desktop.keys().endswith("ok"))
    nowhere(desktop)


@pytest.mark.parametrize("where", ["title", "class", "override"])
def test_keys_of_a_window_for_passwords_show_up_nowhere(desktop: Desktop, where: str) -> None:
    desktop.record(keys="comprehensive")
    plain = desktop.xterm()
    if where == "title":
        secret = desktop.xterm(title="Enter password for root")
    elif where == "class":
        secret = desktop.xterm("-class", "Pinentry", title="box")
    else:  # a window manager says that another window is used than the one that has the keys
        secret = desktop.xterm("-name", "ssh-askpass", title="box")
        with client(desktop.display) as manager:
            activate(manager, plain)
    for _ in range(2):
        desktop.focus(plain)
        desktop.looks()
        desktop.type("x")
        desktop.looks(2)
        desktop.focus(secret)
        desktop.type(SECRET)
        desktop.looks(2)
    desktop.focus(plain)
    desktop.looks()
    desktop.type("end")
    desktop.until(lambda: desktop.keys().endswith("end"))
    assert desktop.keys() in ("xxend", "xend", "end")
    nowhere(desktop)
    assert {one.protected for one in desktop.found(Window)} == {False, True}


def test_keys_while_a_terminal_asks_for_a_password_show_up_nowhere(desktop: Desktop) -> None:
    master, slave = pty.openpty()
    try:
        (desktop.terminals / "3").symlink_to(os.ttyname(slave))
        desktop.record(keys="comprehensive")
        desktop.focus(desktop.xterm())
        desktop.looks()
        usual = termios.tcgetattr(slave)
        silent = termios.tcgetattr(slave)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, silent)
        desktop.type(SECRET)
        desktop.looks(2)
        termios.tcsetattr(slave, termios.TCSANOW, usual)
        desktop.looks()
        desktop.type("whoami")
        desktop.until(lambda: desktop.keys().endswith("whoami"))
        nowhere(desktop)
    finally:
        os.close(master)
        os.close(slave)


def test_a_real_prompt_in_an_xterm_is_protected(xvfb: Xvfb, tmp_path: Path) -> None:
    """getpass in a shell in an xterm, by the terminals of this machine."""
    desktop = Desktop(xvfb.display, tmp_path)
    marks = tmp_path / "marks"
    marks.mkdir()
    desktop.terminals = Path("/dev/pts")
    script = (
        f"import getpass, pathlib; m = pathlib.Path({str(marks)!r});"
        "(m / 'ready').touch(); input();"
        "secret = getpass.getpass('[now] ');"
        "(m / 'got').write_text(secret); input(); (m / 'end').touch(); input()"
    )
    try:
        desktop.record(keys="comprehensive")
        desktop.start("xterm", "-T", "notes", "-e", "python3", "-c", script)
        window = desktop.xdotool("search", "--sync", "--onlyvisible", "--name", "notes").split()[0]
        desktop.focus(window)
        desktop.until((marks / "ready").exists)
        desktop.xdotool("key", "Return")
        desktop.looks()
        desktop.type(SECRET)
        desktop.xdotool("key", "Return")
        desktop.until((marks / "got").exists)
        assert (marks / "got").read_text() == SECRET
        desktop.xdotool("key", "Return")
        desktop.until((marks / "end").exists)
        desktop.looks(8)  # keys that were heard have their entry by then
        nowhere(desktop)
    finally:
        desktop.end()


def test_keys_during_a_pause_are_not_recorded(desktop: Desktop) -> None:
    desktop.record(keys="comprehensive", clipboard="use")
    desktop.focus(desktop.xterm())
    desktop.looks()
    desktop.type("one")
    desktop.until(lambda: desktop.keys() == "one")
    desktop.control.pause()
    desktop.type(SECRET)
    with client(desktop.display) as program:
        program.own("CLIPBOARD", program.window())
    desktop.control.resume()
    desktop.until(lambda: len(desktop.found(Watching)) == 2)
    desktop.looks()
    desktop.type("two")
    desktop.until(lambda: desktop.keys().endswith("two"))
    assert desktop.keys() == "onetwo"
    assert desktop.found(Clipboard) == []
    assert len(desktop.found(Display)) == 2
    nowhere(desktop)


def test_keys_that_nobody_looked_after_are_dropped(desktop: Desktop) -> None:
    """At a picture every second activity is still looked at; behind a stall it is not."""
    desktop.record(fps=1, late=2.0, keys="comprehensive")
    desktop.focus(desktop.xterm())
    desktop.looks()
    desktop.type("slow")
    desktop.until(lambda: desktop.keys() == "slow")
    source = desktop.source
    assert source is not None
    server = source._server
    assert server is not None
    entered, leave = threading.Event(), threading.Event()
    events = server.events

    def stall() -> set[str]:
        entered.set()
        leave.wait(10)
        return events()

    server.events = stall  # type: ignore[method-assign]
    assert entered.wait(5)
    desktop.type(SECRET)
    desktop.control.stopped.wait(2.1)
    server.events = events  # type: ignore[method-assign]
    leave.set()
    desktop.looks()
    desktop.type("end")
    desktop.until(lambda: desktop.keys().endswith("end"))
    assert desktop.keys() == "slowend"
    nowhere(desktop)
