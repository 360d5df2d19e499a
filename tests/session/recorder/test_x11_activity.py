"""Activity on a real X server with real programs: what is seen, and what must never be."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import xcffib
import xcffib.xproto

from agents.session.recorder.sources.base import Control, DisplayLost, Stopped
from agents.session.recorder.sources.x11 import X11Source
from agents.session.recorder.sources.x11_activity import ActivityOrder
from schemas.activity import (
    Clipboard,
    Display,
    Keys,
    Policy,
    Watching,
    Window,
    decode_activity,
    encode_activity,
    is_activity,
    pictures_of,
)
from schemas.screen import pictures
from tests.session.recorder.test_x11 import Xvfb

pytestmark = pytest.mark.display
Entry = TypeVar("Entry")
SECRET = "hunter2xyz"


@pytest.fixture
def xvfb() -> Iterator[Xvfb]:
    server = Xvfb()
    try:
        yield server
    finally:
        server.end()


class Desktop:
    """Programs on a display, and a recording of it. Its terminals are those in `terminals`."""

    def __init__(self, display: str, folder: Path) -> None:
        self.display, self.terminals = display, folder / "pts"
        self.terminals.mkdir()
        self.environment = {**os.environ, "DISPLAY": display, "LC_ALL": "C.UTF-8"}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.payloads: list[tuple[int, bytes]] = []
        self.control = Control()
        self.source: X11Source | None = None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.codec = ""

    # -- the recording -------------------------------------------------------------------------

    def record(self, fps: float = 20, late: float = 5.0, **policy: Any) -> None:
        """late: more than the recorder's own, so that a slow machine drops no key."""
        order = ActivityOrder(Policy(**policy), keys_every=0.3, late=late, terminals=self.terminals)
        self.source = X11Source(self.display, fps=fps, keyframe_every=600, activity=order)
        self.codec = self.source.open().codec
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.until(lambda: bool(self.found(Watching)))

    def _run(self) -> None:
        assert self.source is not None
        try:
            self.source.run(lambda data, at: self.payloads.append((at, data)), self.control)
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def found(self, kind: type[Entry]) -> list[Entry]:
        payloads = [data for _, data in list(self.payloads) if is_activity(data)]
        return [one for data in payloads for one in decode_activity(data) if isinstance(one, kind)]

    def keys(self) -> str:
        return "".join(key for one in self.found(Keys) for key in one.keys or ())

    def until(self, look: Callable[[], object], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            assert time.monotonic() < deadline, f"it did not come: {self.found(object)}"
            time.sleep(0.02)

    def looks(self, number: int = 4) -> None:
        """Wait until the display was looked at some more times."""
        assert self.source is not None
        watch = self.source._watch
        assert watch is not None
        for _ in range(number):
            last = watch._looked
            self.until(lambda last=last: watch._looked != last)

    # -- programs ------------------------------------------------------------------------------

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def xterm(self, *options: str, title: str = "notes") -> str:
        """A terminal that shows what it is typed into; its window."""
        self.start(
            "xterm", "-T", title, "-xrm", "XTerm*allowTitleOps: false", *options, "-e", "cat"
        )
        return self.xdotool("search", "--sync", "--onlyvisible", "--name", f"^{title}$").split()[0]

    def xdotool(self, *arguments: str) -> str:
        done = subprocess.run(
            ["xdotool", *arguments], env=self.environment, check=True, capture_output=True,
            text=True, timeout=20,
        )  # fmt: skip
        return done.stdout

    def focus(self, window: str) -> None:
        self.xdotool("windowfocus", "--sync", window)

    def type(self, text: str) -> None:
        self.xdotool("type", "--delay", "1", text)

    def end(self) -> None:
        self.control.stop()
        if self.thread is not None:
            self.thread.join(5)
            assert not self.thread.is_alive()
        if self.source is not None:
            self.source.close()
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def desktop(xvfb: Xvfb, tmp_path: Path) -> Iterator[Desktop]:
    found = Desktop(xvfb.display, tmp_path)
    try:
        yield found
    finally:
        found.end()


class Client:
    """A program of our own on a display."""

    def __init__(self, display: str) -> None:
        self.connection = xcffib.connect(display=display)
        self.core = self.connection.core
        self.root = self.connection.get_setup().roots[0].root
        self.owned: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.stopped = threading.Event()
        self.thread: threading.Thread | None = None

    def atom(self, name: str) -> int:
        return int(self.core.InternAtom(False, len(name), name).reply().atom)

    def name(self, atom: int) -> str:
        return str(self.core.GetAtomName(atom).reply().name.to_string())

    def window(self) -> int:
        window: int = self.connection.generate_id()
        self.core.CreateWindow(0, window, self.root, 0, 0, 50, 50, 0, 1, 0, 0, [])
        self.core.MapWindow(window)
        self.settle()
        return window

    def put(self, window: int, name: str, kind: str, data: bytes, width: int = 8) -> None:
        length = len(data) * 8 // width
        self.core.ChangeProperty(
            0, window, self.atom(name), self.atom(kind), width, length, data
        )  # fmt: skip

    def settle(self) -> None:
        self.core.GetInputFocus().reply()

    def grab(self) -> None:
        assert self.core.GrabKeyboard(False, self.root, 0, 1, 1).reply().status == 0

    def ungrab(self) -> None:
        self.core.UngrabKeyboard(0)
        self.settle()

    # -- selections ----------------------------------------------------------------------------

    def own(self, selection: str, window: int) -> None:
        self.core.SetSelectionOwner(window, self.atom(selection), 0)
        self.settle()

    def serve(self, offers: dict[str, tuple[str, bytes, int]]) -> None:
        """Answer who asks for a target: type, data and width of its property."""
        atoms = {self.atom(name): name for name in offers}
        kinds = {kind: self.atom(kind) for kind, _, _ in offers.values()}

        def answer(event: Any) -> None:
            target = atoms.get(event.target)
            self.asked.append(target or "?")
            prop = event.property if target else 0
            if target:
                kind, data, width = offers[target]
                self.core.ChangeProperty(
                    0, event.requestor, prop, kinds[kind], width, len(data) * 8 // width, data
                )
            notify = xcffib.xproto.SelectionNotifyEvent.synthetic(
                event.time, event.requestor, event.selection, event.target, prop
            )
            self.core.SendEvent(False, event.requestor, 0, notify.pack())
            self.connection.flush()

        def run() -> None:
            while not self.stopped.is_set():
                while (event := self.connection.poll_for_event()) is not None:
                    if isinstance(event, xcffib.xproto.SelectionRequestEvent):
                        answer(event)
                select.select([self.connection.get_file_descriptor()], [], [], 0.02)

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def close(self) -> None:
        self.stopped.set()
        if self.thread is not None:
            self.thread.join(5)
        self.connection.disconnect()


@contextmanager
def client(display: str) -> Iterator[Client]:
    found = Client(display)
    try:
        yield found
    finally:
        found.close()


# Windows ------------------------------------------------------------------------------------------


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


def activate(manager: Client, window: str) -> None:
    """What a window manager says."""
    number = int(window).to_bytes(4, "little")
    manager.put(manager.root, "_NET_ACTIVE_WINDOW", "WINDOW", number, 32)
    manager.settle()


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


# Keys ---------------------------------------------------------------------------------------------


def nowhere(desktop: Desktop, secret: str = SECRET) -> None:
    """No payload has the secret, a half of it, or its keys in any form."""
    everything = b"".join(data for _, data in desktop.payloads if is_activity(data)).lower()
    keys = desktop.keys().lower()
    half = secret[: len(secret) // 2]
    for part in (secret, half, secret[len(half) :]):
        assert part.encode() not in everything
        assert part not in keys


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


# Clipboard ----------------------------------------------------------------------------------------

TEXT = (SECRET * 100).encode()


def offers(text: bytes, kind: str = "UTF8_STRING") -> dict[str, tuple[str, bytes, int]]:
    """What a program that copied a text answers; TARGETS are filled in by `copied`."""
    return {"UTF8_STRING": (kind, text, 32 if kind == "INCR" else 8), "TARGETS": ("ATOM", b"", 32)}


def copied(program: Client, given: dict[str, tuple[str, bytes, int]], *more: str) -> None:
    names = [*given, *more]
    atoms = b"".join(program.atom(name).to_bytes(4, "little") for name in names)
    window = program.window()
    program.put(window, "WM_CLASS", "STRING", b"soffice\0Calc\0")
    program.own("CLIPBOARD", window)
    program.serve({**given, "TARGETS": ("ATOM", atoms, 32)})


def test_copying_has_an_entry_without_details(desktop: Desktop) -> None:
    desktop.record(clipboard="use")
    with client(desktop.display) as program:
        copied(program, offers(TEXT))
        desktop.until(lambda: desktop.found(Clipboard))
        entry = desktop.found(Clipboard)[0]
        assert (entry.selection, entry.owned, entry.changes) == ("CLIPBOARD", True, 1)
        assert (entry.formats, entry.size) == (None, None)
        assert entry.program == Path("/proc/self/comm").read_text().strip()
        assert program.asked == []
    desktop.until(lambda: len(desktop.found(Clipboard)) == 2)
    gone = desktop.found(Clipboard)[1]
    assert (gone.owned, gone.program) == (False, "")


def test_details_are_formats_and_size_and_never_the_content(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        copied(program, offers(TEXT), "text/html")
        desktop.until(lambda: desktop.found(Clipboard))
    (entry, *_) = desktop.found(Clipboard)
    assert entry.formats == ["UTF8_STRING", "TARGETS", "text/html"]
    assert entry.size == len(TEXT) == 1000
    nowhere(desktop)


def test_a_large_text_that_comes_in_pieces_has_its_least_size(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        copied(program, offers((5_000_000).to_bytes(4, "little"), kind="INCR"))
        desktop.until(lambda: desktop.found(Clipboard))
        assert desktop.found(Clipboard)[0].size == 5_000_000


def test_a_password_managers_text_is_not_even_measured(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        copied(program, offers(TEXT), "x-kde-passwordManagerHint")
        desktop.until(lambda: desktop.found(Clipboard))
        assert desktop.found(Clipboard)[0].size is None
        assert program.asked == ["TARGETS"]


def test_an_owner_that_does_not_answer_has_an_entry_all_the_same(desktop: Desktop) -> None:
    desktop.record(clipboard="details")
    with client(desktop.display) as program:
        program.own("CLIPBOARD", program.window())
        desktop.until(lambda: desktop.found(Clipboard))
        assert (desktop.found(Clipboard)[0].formats, desktop.found(Clipboard)[0].size) == (
            None,
            None,
        )
    with client(desktop.display) as program:
        program.own("PRIMARY", program.window())
        program.serve({})  # it refuses everything
        desktop.until(lambda: desktop.found(Clipboard)[-1].selection == "PRIMARY")
        assert desktop.found(Clipboard)[-1].formats is None


def test_a_selection_that_changes_all_the_time_has_an_entry_a_second(desktop: Desktop) -> None:
    desktop.record(clipboard="use")
    with client(desktop.display) as program:
        window, start, number = program.window(), time.monotonic(), 0
        while time.monotonic() < start + 2.5:
            program.own("PRIMARY", window)
            number += 1
        desktop.until(lambda: sum(one.changes for one in desktop.found(Clipboard)) >= number)
        assert len(desktop.found(Clipboard)) <= 5
        assert number > 100


# Trouble ------------------------------------------------------------------------------------------


def test_a_server_that_dies_ends_the_recording_as_without_activity(
    xvfb: Xvfb, desktop: Desktop
) -> None:
    desktop.record(keys="basic", clipboard="details")
    xvfb.process.kill()
    assert desktop.thread is not None
    desktop.thread.join(3)
    assert isinstance(desktop.error, DisplayLost)


def test_what_cannot_be_seen_is_said(tmp_path: Path) -> None:
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "320x200x24", "-nolisten", "tcp", "-noreset",
         "-extension", "X-Resource"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert server.stdout is not None
    desktop = Desktop(f":{int(server.stdout.readline())}", tmp_path)
    try:
        os.seteuid(65534)
        try:
            desktop.record(keys="basic", clipboard="use")
        finally:
            os.seteuid(0)
        (watching,) = desktop.found(Watching)
        assert [one.part for one in watching.unseen] == ["keys"]
        assert "password prompts" in watching.unseen[0].why
        with client(desktop.display) as program:
            program.own("CLIPBOARD", program.window())
            desktop.until(lambda: desktop.found(Clipboard))
            assert desktop.found(Clipboard)[0].program == ""
    finally:
        desktop.end()
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_display_of_another_machine_has_neither_keys_nor_files(
    desktop: Desktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.session.recorder.sources.x11_desk.server_uid", lambda _: None)
    desktop.record(keys="basic", files=True)
    (watching,) = desktop.found(Watching)
    assert [one.part for one in watching.unseen] == ["files", "keys"]
    assert all("network" in one.why for one in watching.unseen)


def test_entries_are_encoded_as_they_are_read(desktop: Desktop) -> None:
    desktop.record()
    for _, data in [one for one in desktop.payloads if is_activity(one[1])]:
        assert encode_activity(decode_activity(data)) == [data]
