"""An X11 display as a source: only what changed, ten times a second at most.

DAMAGE says where something was drawn; those tiles are fetched and compared with the last
picture, since much is drawn that changes nothing (docs/decisions.md, "Capture").
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import xcffib
from numpy.typing import NDArray

from agents.session.recorder.sources.base import (
    Control,
    DisplayLost,
    Emit,
    SourceInfo,
    now,
)
from agents.session.recorder.sources.tiles import (
    TILE,
    Box,
    boxes,
    changed_tiles,
    empty_grid,
    mark,
)
from agents.session.recorder.sources.x11_activity import (
    LOOK_SECONDS,
    ActivityOrder,
    ActivityWatch,
)
from agents.session.recorder.sources.x11_server import Server
from schemas.activity import CODEC_ACTIVITY, CODEC_PICTURES, encode_activity
from schemas.screen import Item, Pointer, Size, encode_update, pack_rect

MAX_REFUSALS = 10  # in a row: the screen may shrink while it is read, but not for ever


class X11Source:
    """Records `display`; at most `fps` updates a second, a keyframe every so many seconds.

    A keyframe comes only when something changed since the last one. activity: what is
    recorded beside the pictures, None for nothing.
    """

    def __init__(
        self, display: str, *, fps: float = 10.0, keyframe_every: float = 10.0,
        xauthority: str | None = None, activity: ActivityOrder | None = None,
    ) -> None:  # fmt: skip
        self._display, self._xauthority = display, xauthority
        self._fps, self._keyframe_every = fps, keyframe_every
        self._activity = activity
        self._watch: ActivityWatch | None = None
        self._server: Server | None = None
        self._shadow: NDArray[np.uint32] = np.zeros((0, 0), np.uint32)
        self._pointer: Pointer | None = None
        self._keyframe_at = 0.0
        self._changed = True

    def open(self) -> SourceInfo:
        """Connect; raises NoDisplay."""
        self._server = Server(self._display, self._xauthority)
        if self._activity is not None:
            self._watch = self._open_watch(self._activity)
        details: dict[str, str | int] = {
            "display": self._display,
            "width": self._server.width,
            "height": self._server.height,
            "fps": round(self._fps),
        }
        codec = CODEC_PICTURES if self._watch is None else CODEC_ACTIVITY
        return SourceInfo("x11", codec, details, live=True)

    def _open_watch(self, order: ActivityOrder) -> ActivityWatch:
        try:
            return ActivityWatch(self._display, self._xauthority, order)
        except xcffib.XcffibException as error:
            self.close()
            raise self._lost(error) from error
        except BaseException:
            self.close()
            raise

    def skip(self, frames: int, raw_bytes: int) -> None:
        """A screen is captured from now on, whatever was captured before."""

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._server is not None:
            self._shadow = np.zeros((0, 0), np.uint32)
            self._server.close()
            self._server = None

    def run(self, emit: Emit, control: Control) -> None:
        """Capture until Stopped passes; raises DisplayLost."""
        assert self._server is not None, "open() comes first"
        keyframe, refusals = True, 0
        next_tick = time.monotonic()
        if self._watch is not None:
            self._watch.skip()  # what happened since open() was before the recording
        while True:
            if control.wait_while_paused():
                keyframe = True
                if self._watch is not None:
                    self._watch.skip()
            control.check()
            try:
                at = now()
                payloads = self._look(self._server, keyframe)
                keyframe, refusals = False, 0
            except xcffib.Error as error:
                # The screen became smaller between the event and the request.
                refusals += 1
                if refusals > MAX_REFUSALS:
                    raise self._lost(error) from error
                keyframe, payloads = True, []
            except xcffib.XcffibException as error:
                raise self._lost(error) from error
            for payload in payloads:
                emit(payload, at)
            self._look_around(self._server, emit, control)
            next_tick = max(next_tick + 1 / self._fps, time.monotonic())
            self._wait(next_tick, emit, control)

    def _wait(self, until: float, emit: Emit, control: Control) -> None:
        """Until the next picture is due; activity is looked at ten times a second all the same."""
        while (rest := until - time.monotonic()) > 0:
            if self._watch is None or rest <= LOOK_SECONDS:
                control.stopped.wait(rest)
                return
            control.stopped.wait(LOOK_SECONDS)
            if control.stopped.is_set() or control.interrupted or self._server is None:
                return
            self._look_around(self._server, emit, control)

    def _look_around(self, server: Server, emit: Emit, control: Control) -> None:
        if self._watch is None:
            return
        at = now()
        entries = self._watch.look(at, time.monotonic(), (server.width, server.height))
        if control.interrupted:
            return  # some of it happened in a pause, and skip() comes next
        for payload in encode_activity(entries):
            emit(payload, at)

    def _lost(self, error: Exception) -> DisplayLost:
        return DisplayLost(
            f"display {self._display} went away ({type(error).__name__})",
            hint="Its X server has ended; what was captured before is recorded",
        )

    def _look(self, server: Server, keyframe: bool) -> list[bytes]:
        """The payloads of one update, none when nothing changed."""
        happened = server.events()
        if "resize" in happened or self._shadow.size == 0:
            width, height = server.resized()
            self._shadow = np.zeros((height, width), np.uint32)
            keyframe = True
        damaged = server.damaged() if "damage" in happened else []
        due = time.monotonic() - self._keyframe_at >= self._keyframe_every
        keyframe = keyframe or (due and (self._changed or bool(damaged)))
        items = self._whole(server) if keyframe else self._difference(server, damaged)
        if keyframe or "cursor" in happened:
            items.append(server.cursor())
        pointer = server.pointer()
        if keyframe or pointer != self._pointer:
            items.append(pointer)
            self._pointer = pointer
        self._changed = (bool(items) and not keyframe) or (self._changed and not keyframe)
        return encode_update(items, keyframe=keyframe) if items else []

    def _whole(self, server: Server) -> list[Item]:
        self._keyframe_at = time.monotonic()
        pixels = server.grab([(0, 0, server.width, server.height)])[0]
        self._shadow[:] = pixels
        return [Size(server.width, server.height), *_packed(self._shadow, (0, 0))]

    def _difference(self, server: Server, damaged: Sequence[Box]) -> list[Item]:
        """Rectangles over the tiles that differ from the last picture, which follows."""
        if not damaged:
            return []
        width, height = server.width, server.height
        drawn = empty_grid(width, height)
        mark(drawn, damaged)
        wanted = list(boxes(drawn, width, height))
        differs = empty_grid(width, height)
        for (x, y, w, h), new in zip(wanted, server.grab(wanted), strict=True):
            old = self._shadow[y : y + h, x : x + w]
            tiles = changed_tiles(new, old)
            row, column = y // TILE, x // TILE
            differs[row : row + tiles.shape[0], column : column + tiles.shape[1]] = tiles
            old[:] = new
        items: list[Item] = []
        for x, y, w, h in boxes(differs, width, height):
            items += _packed(self._shadow[y : y + h, x : x + w], (x, y))
        return items


def _packed(pixels: NDArray[np.uint32], place: tuple[int, int]) -> Sequence[Item]:
    whole = np.ascontiguousarray(pixels)
    return pack_rect(*place, whole.view(np.uint8).reshape(*whole.shape, 4))
