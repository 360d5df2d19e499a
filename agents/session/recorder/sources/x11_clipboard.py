"""Who takes the clipboard over, and what is offered; its content is never asked for.

XFIXES says that a selection has another owner. Its formats are asked of the owner (TARGETS).
Its size is what the server says is waiting in a property that the owner has filled; the
property is deleted unread, so the content never reaches this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import xcffib.xfixes
import xcffib.xproto

from agents.session.recorder.sources.x11_desk import Desk
from schemas.activity import MAX_FORMATS, MAX_NAME, Clipboard, fit

ANSWER_SECONDS = 1.0  # for an owner to answer; it may be a program that hangs
EVERY_SECONDS = 1.0  # entries of a selection, at most: PRIMARY follows each stroke of a mouse
SECRET = "x-kde-passwordManagerHint"  # offered by password managers with what is secret
TEXTS = ("UTF8_STRING", "text/plain;charset=utf-8", "STRING")
_ALL_CHANGES = 7  # another owner, its window destroyed, its client gone
SelectionName = Literal["CLIPBOARD", "PRIMARY"]
SELECTIONS: tuple[SelectionName, ...] = ("CLIPBOARD", "PRIMARY")


@dataclass(slots=True)
class _Change:
    """Changes of a selection that have no entry yet.

    named: the owner that `program` is of. window: what an answer comes to.
    """

    changes: int = 0
    owner: int = 0
    program: str = ""
    named: int = 0
    step: Literal["new", "targets", "size", "told"] = "new"
    window: int = 0
    deadline: float = 0.0
    formats: list[str] | None = None
    size: int | None = None


class Clipboards:
    """Follows both selections of a desk; raises LookupError without XFIXES."""

    def __init__(self, desk: Desk, *, details: bool) -> None:
        self._desk, self._details = desk, details
        fixes = desk.extension(xcffib.xfixes.key, (4, 0))
        if fixes is None:
            raise LookupError("the X server has no XFIXES")
        self._selections: dict[int, SelectionName] = {desk.atom(name): name for name in SELECTIONS}
        window = desk.new_window()
        for atom in self._selections:
            fixes.SelectSelectionInput(window, atom, _ALL_CHANGES)
        self._open: dict[SelectionName, _Change] = {}
        self._next: dict[SelectionName, float] = {}

    def forget(self) -> None:
        """What changed so far gets no entry."""
        for change in self._open.values():
            self._drop(change)
        self._open.clear()

    def take(self, event: Any) -> None:
        """An event of the desk."""
        if isinstance(event, xcffib.xfixes.SelectionNotifyEvent):
            name = self._selections.get(event.selection)
            if name is not None:
                self._changed(self._open.setdefault(name, _Change()), int(event.owner))
        elif isinstance(event, xcffib.xproto.SelectionNotifyEvent):
            for change in self._open.values():
                if change.window and change.window == event.requestor:
                    self._answered(change, event)

    def _changed(self, change: _Change, owner: int) -> None:
        self._drop(change)
        change.changes += 1
        change.owner, change.step = owner, "new"
        change.formats = change.size = None
        if change.changes == 1:  # of further ones only the last, whoever changes it without end
            self._name(change)

    def _name(self, change: _Change) -> None:
        if change.named != change.owner:
            change.program = self._program(change.owner)
            change.named = change.owner

    def _program(self, owner: int) -> str:
        """The server's word first: an owner's window seldom has a class of its own."""
        if not owner:
            return ""
        if known := self._desk.program(owner):
            return known
        (reply,) = self._desk.replies([self._desk.ask(owner, "WM_CLASS")])
        return fit(self._desk.text_of(reply).rstrip("\0").rpartition("\0")[2], MAX_NAME)

    # -- details -----------------------------------------------------------------------------

    def look(self, clock: float, *, protected: bool) -> list[Clipboard]:
        """Entries that are due; clock: monotonic seconds. Of what is protected no details."""
        entries = []
        for name, change in list(self._open.items()):
            if change.step == "new":
                self._name(change)
                if self._details and change.owner and not protected:
                    self._ask(change, name, "TARGETS", "targets", clock)
                else:
                    change.step = "told"
            elif change.step != "told" and clock >= change.deadline:
                self._told(change)
            if change.step == "told" and clock >= self._next.get(name, 0.0):
                self._next[name] = clock + EVERY_SECONDS
                del self._open[name]
                entries.append(Clipboard(
                    selection=name, owned=bool(change.owner), program=change.program,
                    changes=change.changes, formats=change.formats, size=change.size,
                ))  # fmt: skip
        return entries

    def _ask(
        self, change: _Change, name: SelectionName, target: str,
        step: Literal["targets", "size"], clock: float,
    ) -> None:  # fmt: skip
        desk = self._desk
        change.window, change.step = desk.new_window(), step
        change.deadline = clock + ANSWER_SECONDS
        desk.connection.core.ConvertSelection(
            change.window, desk.atom(name), desk.atom(target), desk.atom("_LUCID"), 0
        )
        desk.connection.flush()

    def _answered(self, change: _Change, event: Any) -> None:
        if not event.property or change.step == "size":
            change.size = self._waiting(change.window) if event.property else None
            self._told(change)
            return
        (reply,) = self._desk.replies([self._desk.ask(change.window, "_LUCID", 4 * MAX_FORMATS)])
        offered = self._desk.names(self._desk.numbers_of(reply))
        change.formats = [name for name in offered if name][:MAX_FORMATS]
        text = next((name for name in TEXTS if name in offered), None)
        deadline = change.deadline
        self._told(change)
        if text is not None and SECRET not in offered:
            selection = self._selections[event.selection]
            self._ask(change, selection, text, "size", deadline - ANSWER_SECONDS)

    def _waiting(self, window: int) -> int | None:
        """Bytes in the property, of which none is read; of a piecewise transfer what the owner
        says is the least."""
        desk = self._desk
        (reply,) = desk.replies([desk.ask(window, "_LUCID", 0)])
        if reply is None or not reply.type:
            return None
        if reply.type != desk.atom("INCR"):
            return int(reply.bytes_after)
        (reply,) = desk.replies([desk.ask(window, "_LUCID", 1)])
        return next(iter(desk.numbers_of(reply)), None)

    def _told(self, change: _Change) -> None:
        change.step = "told"
        self._drop(change)

    def _drop(self, change: _Change) -> None:
        """The window goes with the property in it, and an owner that sends pieces sees it."""
        if change.window:
            self._desk.connection.core.DestroyWindow(change.window)
            change.window = 0
