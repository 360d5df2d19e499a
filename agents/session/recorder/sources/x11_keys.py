"""Keys as the X server hears them, but never those that are typed under a grab.

XInput 2 has raw events that any client may ask for. To a client of version 2.0 the server
does not send those of a keyboard that another client has grabbed (2.1 changed that), so this
one says that it is of version 2.0 and listens to master keyboards, which are what is grabbed.
Screen lockers, askpass programs and the secure keyboard of xterm grab: what is typed there
does not even reach this process. What else is protected is sources/protection.py.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import xcffib
import xcffib.keysymdef
import xcffib.xf86keysym
import xcffib.xinput
import xcffib.xproto

from agents.session.recorder.sources.x11_desk import MOST_EVENTS
from agents.session.recorder.sources.x11_server import connect
from schemas.activity import MAX_NAME, KeyClass, fit

_ALL_MASTERS = 1
_SHIFT, _LOCK, _CONTROL, _ALT, _NUM, _SUPER, _LEVEL3 = 1, 2, 4, 8, 16, 64, 128
_GROUP = 13  # bits 13 and 14 of a state: the keyboard's layout
_NAMES: dict[int, str] = {
    value: name.partition("_")[2]
    for module in (xcffib.xf86keysym, xcffib.keysymdef)
    for name, value in reversed(vars(module).items())
    if name.startswith(("XK_", "XF86XK_"))
}
_SPACES = {"space", "Tab", "Return", "KP_Enter", "KP_Space", "KP_Tab", "ISO_Left_Tab", "Linefeed"}
_EDITS = {"BackSpace", "Delete", "Insert", "KP_Delete", "KP_Insert", "Clear", "Undo", "Redo"}
_MOVES = {
    f"{pad}{name}"
    for pad in ("", "KP_")
    for name in ("Left", "Right", "Up", "Down", "Home", "End", "Page_Up", "Page_Down", "Prior",
                 "Next", "Begin")
}  # fmt: skip

_KINDS: dict[str, KeyClass] = {
    **dict.fromkeys(_SPACES, "space"), **dict.fromkeys(_EDITS, "edit"),
    **dict.fromkeys(_MOVES, "move"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Press:
    """A key: one character, or an X keysym's name, with the modifiers that make a shortcut."""

    name: str
    kind: KeyClass


def press_of(keysym: int, state: int = 0) -> Press:
    """A key by its keysym, with the modifiers that are held."""
    name, kind = _plain(keysym)
    held = [word for bit, word in ((_CONTROL, "Control"), (_ALT, "Alt"), (_SUPER, "Super"))
            if state & bit]  # fmt: skip
    if held and kind != "modifier":
        return Press("+".join([*held, name]), "shortcut")
    return Press(name, kind)


def _plain(keysym: int) -> tuple[str, KeyClass]:
    character = _character(keysym)
    name = _NAMES.get(keysym) or (f"U{keysym - 0x1000000:04X}" if character else f"{keysym:#x}")
    if 0xFFE1 <= keysym <= 0xFFEE or 0xFE01 <= keysym <= 0xFE13 or keysym in (0xFF7E, 0xFF7F):
        return name, "modifier"
    if 0xFFBE <= keysym <= 0xFFE0:
        return name, "function"
    if name in _KINDS:
        return name, _KINDS[name]
    if 0xFFB0 <= keysym <= 0xFFB9:
        return name, "digit"
    if not character:
        # Letters of older alphabets have keysyms that are no characters: their names say it.
        return name, "letter" if 0x1A1 <= keysym < 0xFD00 else "other"
    category = unicodedata.category(character)
    if category[0] in "LM":
        return fit(character, MAX_NAME), "letter"
    return fit(character, MAX_NAME), "digit" if category[0] == "N" else "symbol"


def _character(keysym: int) -> str:
    """The character of a keysym of Latin-1 or of Unicode."""
    if 0x20 < keysym < 0x7F or 0xA0 < keysym < 0x100:
        return chr(keysym)
    number = keysym - 0x1000000
    return chr(number) if 0x20 < number <= 0x10FFFF and not 0xD800 <= number < 0xE000 else ""


class Keyboard:
    """All keyboards of a display; raises NoDisplay, and LookupError without XInput 2."""

    def __init__(self, display: str, xauthority: str | None) -> None:
        self._connection = connect(display, xauthority)
        self._held: set[int] = set()
        self._state = 0
        try:
            self._select()
        except BaseException:
            self.close()
            raise

    def _select(self) -> None:
        connection = self._connection
        key = xcffib.xinput.key
        if not connection.core.QueryExtension(len(key.name), key.name).reply().present:
            raise LookupError("the X server has no XInput")
        extension = connection(key)
        version = extension.XIQueryVersion(2, 0).reply()
        if (version.major_version, version.minor_version) != (2, 0):
            raise LookupError("the X server has no XInput 2.0")
        self._root: int = connection.get_setup().roots[connection.pref_screen].root
        bits = xcffib.xinput.XIEventMask
        mask: Any = xcffib.xinput.EventMask
        mask = mask.synthetic(_ALL_MASTERS, 1, [bits.RawKeyPress | bits.RawKeyRelease])
        extension.XISelectEventsChecked(self._root, 1, [mask]).check()
        self._read_map()

    def _read_map(self) -> None:
        setup = self._connection.get_setup()
        first, last = setup.min_keycode, setup.max_keycode
        keys = self._connection.core.GetKeyboardMapping(first, last - first + 1)
        modifiers = self._connection.core.GetModifierMapping()
        reply = keys.reply()
        width, symbols = int(reply.keysyms_per_keycode), list(reply.keysyms)
        self._symbols = {
            first + at // width: symbols[at : at + width] for at in range(0, len(symbols), width)
        }
        reply = modifiers.reply()
        each, codes = int(reply.keycodes_per_modifier), list(reply.keycodes)
        self._modifiers: dict[int, int] = {}
        for at, code in enumerate(codes):
            if code:
                self._modifiers[code] = self._modifiers.get(code, 0) | 1 << at // each

    def close(self) -> None:
        self._connection.disconnect()

    def drain(self) -> tuple[list[Press], bool]:
        """What was pressed since the last call; whether that is all of it."""
        presses, whole = [], True
        for number, event in enumerate(self._events()):
            whole = number < MOST_EVENTS - 1
            if isinstance(event, xcffib.xinput.RawKeyPressEvent):
                presses.append(self._press(int(event.detail)))
                self._held.add(int(event.detail))
            elif isinstance(event, xcffib.xinput.RawKeyReleaseEvent):
                self._held.discard(int(event.detail))
                self._state &= ~(self._modifiers.get(int(event.detail), 0) & ~(_LOCK | _NUM))
            elif isinstance(event, xcffib.xproto.MappingNotifyEvent):
                self._read_map()
        if whole:
            # Releases under a grab are not heard: what is held is asked for anew.
            self._state = int(self._connection.core.QueryPointer(self._root).reply().mask)
            self._held.clear()
        return presses, whole

    def _events(self) -> Iterator[Any]:
        self._connection.flush()
        for _ in range(MOST_EVENTS):
            try:
                event = self._connection.poll_for_event()
            except xcffib.Error:
                continue
            if event is None:
                return
            yield event

    def _press(self, code: int) -> Press:
        state = self._state
        for held in self._held:
            state |= self._modifiers.get(held, 0)
        return press_of(self._symbol(code, state), state)

    def _symbol(self, code: int, state: int) -> int:
        """The keysym that a key gives, by the core protocol's table of four columns, and by
        columns 5 and 6 for the third level."""
        symbols = [*self._symbols.get(code, ()), 0, 0, 0, 0, 0, 0]
        column = 2 * (state >> _GROUP & 1)
        if state & _LEVEL3 and symbols[4]:
            column = 4
        low, high = symbols[column], symbols[column + 1] or symbols[column]
        if not low:
            low, high = symbols[0], symbols[1] or symbols[0]
        shifted = bool(state & _SHIFT)
        if 0xFF80 <= high <= 0xFFBD:
            shifted ^= bool(state & _NUM)
        elif _plain(low)[1] == "letter":
            shifted ^= bool(state & _LOCK)
        return int(high if shifted else low)
