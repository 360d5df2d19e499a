"""What the vector `activity` holds: a small picture now and then, and every type of entry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from schemas.activity import (
    Clipboard,
    Display,
    Drive,
    Entry,
    File,
    Keys,
    Policy,
    Unseen,
    Watching,
    Window,
    encode_activity,
)
from schemas.screen import Pointer, Size, encode_update, pack_rect

ENTRIES: tuple[tuple[int, tuple[Entry, ...]], ...] = (
    (50, (
        Watching(
            policy=Policy(clipboard="details", files=True, keys="strict"),
            unseen=[Unseen(part="keys", why="the X server has no XInput")],
        ),
        Display(width=16, height=8),
        Window(title="", program="", instance="", via="none", protected=False, left_out=0),
    )),
    (500, (
        Window(title="Lohn – März 2026.ods\\x1b[2J", program="Calc", instance="soffice",
               via="manager", protected=False, left_out=3),
        Clipboard(selection="CLIPBOARD", owned=True, program="xrdp-chansrv", changes=2,
                  formats=["TARGETS", "UTF8_STRING"], size=1234),
        Clipboard(selection="PRIMARY", owned=False, program="", changes=1, formats=None, size=None),
    )),
    (1200, (
        Drive(place="/home/ada/thinclient_drives", mounted=True),
        File(place="/home/ada/thinclient_drives/C:/plan.pdf", program="cp", access="write",
             left_out=0),
    )),
    (2600, (
        Keys(level="basic", span=1_100_000, count=7, classes=None, keys=None),
        Keys(level="strict", span=2_000_000, count=9, classes={"letter": 7, "space": 2}, keys=None),
        Keys(level="comprehensive", span=500_000, count=5, classes=None,
             keys=["Shift_L", "Ä", "+", "Control+c", "Return"]),
        Window(title="Unlock keyring", program="Gcr-prompter", instance="gcr-prompter",
               via="focus", protected=True, left_out=0),
    )),
)  # fmt: skip


def screen_payloads() -> Iterator[tuple[int, bytes]]:
    """Payloads, each with its milliseconds after the start."""
    for ms, entries in ENTRIES:
        pixels = np.full((8, 16, 4), ms % 251, np.uint8)
        items = [Size(16, 8), *pack_rect(0, 0, pixels), Pointer(3, 4, True, 0)]
        for payload in (*encode_update(items, keyframe=True), *encode_activity(entries)):
            yield ms, payload
