"""Which window is used: by the window manager's word, else by input focus, else by the pointer."""

from __future__ import annotations

from collections import deque
from typing import Any

from agents.session.recorder.sources.patterns import Glance, Seen, Via
from agents.session.recorder.sources.x11_desk import Desk
from schemas.activity import MAX_NAME, fit

NO_FOCUS, POINTER_ROOT = 0, 1  # what GetInputFocus says instead of a window
SAME_LOOKS = 10  # for which a window's place in the tree is taken to be the same
MOST_STEPS = 12  # windows that are looked at to find the one with a name


class Windows:
    """Looks at a desk's windows; properties are asked for anew each time, which costs less
    than to follow the events of a program that changes its title without end."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._named: dict[int, int] = {}
        self._looks = 0

    def look(self) -> Glance:
        """What is used now."""
        desk = self._desk
        self._looks += 1
        if self._looks % SAME_LOOKS == 0:
            self._named.clear()
        asked = [
            desk.connection.core.GetInputFocus(),
            desk.ask(desk.root, "_NET_ACTIVE_WINDOW", 1),
        ]
        focus_reply, active_reply = desk.replies(asked)
        focus = int(focus_reply.focus) if focus_reply is not None else NO_FOCUS
        active = next(iter(desk.numbers_of(active_reply)), 0)
        wanted: dict[int, Via] = {active: "manager"} if active else {}
        if focus == POINTER_ROOT:
            wanted.setdefault(self._under_pointer(), "pointer")
        elif focus != NO_FOCUS and focus != desk.root:
            wanted.setdefault(self._named_above(focus), "focus")
        wanted.pop(0, None)
        found = [self._describe(window, via) for window, via in wanted.items()]
        seen = [one for one in found if one is not None]
        if len(seen) < len(found):
            self._named.clear()
        return Glance(seen[0] if seen else Seen(), tuple(seen[1:]), sure=len(seen) == len(found))

    def _describe(self, window: int, via: Via) -> Seen | None:
        """None: it is gone."""
        desk = self._desk
        names = ("_NET_WM_NAME", "WM_NAME", "WM_CLASS")
        modern, old, both = desk.replies([desk.ask(window, name) for name in names])
        if modern is None or old is None or both is None:
            return None
        title = desk.text_of(modern, utf8=True) or desk.text_of(old)
        instance, _, rest = desk.text_of(both).partition("\0")
        program = rest.partition("\0")[0]
        return Seen(
            fit(title), fit(program, MAX_NAME) or desk.program(window),
            fit(instance, MAX_NAME), via,
        )  # fmt: skip

    def _has_class(self, *windows: int) -> list[bool]:
        desk = self._desk
        replies = desk.replies([desk.ask(window, "WM_CLASS", 1) for window in windows])
        return [reply is not None and reply.format == 8 for reply in replies]

    def _named_above(self, window: int) -> int:
        """The window itself or its nearest ancestor that says what it is."""
        if window in self._named:
            return self._named[window]
        desk, at = self._desk, window
        for _ in range(MOST_STEPS):
            if self._has_class(at)[0]:
                self._named[window] = at
                return at
            (tree,) = desk.replies([desk.connection.core.QueryTree(at)])
            if tree is None or tree.parent in (0, desk.root):
                break
            at = int(tree.parent)
        return window

    def _under_pointer(self) -> int:
        """The window below the pointer, inside of a window manager's frame; 0: the root."""
        desk = self._desk
        (reply,) = desk.replies([desk.connection.core.QueryPointer(desk.root)])
        top = int(reply.child) if reply is not None else 0
        if not top:
            return 0
        if top in self._named:
            return self._named[top]
        waiting: deque[int] = deque([top])
        for _ in range(MOST_STEPS):
            if not waiting:
                break
            at = waiting.popleft()
            if self._has_class(at)[0]:
                self._named[top] = at
                return at
            (tree,) = desk.replies([desk.connection.core.QueryTree(at)])
            waiting.extend(self._children(tree))
        return top

    @staticmethod
    def _children(tree: Any | None) -> list[int]:
        return [int(one) for one in list(tree.children)[-MOST_STEPS:]] if tree is not None else []
