"""Programs on a real X server, and a recording of what they do."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import xcffib
import xcffib.xproto

from agents.session.recorder.sources.base import Control, Stopped
from agents.session.recorder.sources.x11 import X11Source
from agents.session.recorder.sources.x11_activity import ActivityOrder
from schemas.activity import (
    Keys,
    Policy,
    Watching,
    decode_activity,
    is_activity,
)
from tests.waiting import wait_for

Entry = TypeVar("Entry")
SECRET = "hunter2xyz"


class Xvfb:
    """An X server on a free display number."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp",
             "-noreset"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.display = f":{int(self.process.stdout.readline())}"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


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
        try:
            wait_for(look, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {self.found(object)}") from error

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

    def window(self, parent: int = 0) -> int:
        window: int = self.connection.generate_id()
        self.core.CreateWindow(0, window, parent or self.root, 0, 0, 50, 50, 0, 1, 0, 0, [])
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


def activate(manager: Client, window: str) -> None:
    """What a window manager says."""
    number = int(window).to_bytes(4, "little")
    manager.put(manager.root, "_NET_ACTIVE_WINDOW", "WINDOW", number, 32)
    manager.settle()


def nowhere(desktop: Desktop, secret: str = SECRET) -> None:
    """No payload has the secret, a half of it, or its keys in any form."""
    everything = b"".join(data for _, data in desktop.payloads if is_activity(data)).lower()
    keys = desktop.keys().lower()
    half = secret[: len(secret) // 2]
    for part in (secret, half, secret[len(half) :]):
        assert part.encode() not in everything
        assert part not in keys
