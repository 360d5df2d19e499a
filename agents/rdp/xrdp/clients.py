"""Clients that take xrdp's time and never log on.

xrdp makes a process for each connection and waits for ever for what the client says. A client
that is on a desktop is connected to its X server by a Unix socket; one that is not, and has
been here for long, is sent away.
"""

from __future__ import annotations

import os
import time

from agents.platform.process_table import children_of, parent_of
from agents.rdp.xrdp.sockets import connected_locally, inodes
from schemas.rdp_processes import ProcessRef

TICKS = os.sysconf("SC_CLK_TCK")


def silent_clients(xrdp: ProcessRef, seconds: float) -> list[ProcessRef]:
    """The connections of xrdp that are older than this and on no desktop."""
    born_before = (time.clock_gettime(time.CLOCK_BOOTTIME) - seconds) * TICKS
    old = [
        one for one in children_of([xrdp.pid])
        if one.started < born_before and parent_of(one.pid) == xrdp.pid
    ]  # fmt: skip
    if not old:
        return []
    on_desktop = connected_locally()
    return [one for one in old if not inodes(one.pid) & on_desktop]
