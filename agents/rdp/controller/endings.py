"""Ending by force what is left of a session whose gate is dead or does not answer."""

from __future__ import annotations

import asyncio

from agents.platform.process_table import children_of, end_processes, is_alive, marked
from schemas.rdp_processes import ProcessRef
from schemas.rdp_sessions import RdpSession

MARK = "LUCID_RDP_GATE"
"""What the gate marks the user's programs with: its pid and start, `PID.TICKS`."""
PATIENCE = 3.0  # seconds from SIGTERM to SIGKILL


def left_of(session: RdpSession) -> list[ProcessRef]:
    """The gate and all below it, what carries its mark, and the X server."""
    leader, mark = session.leader, f"{session.leader.pid}.{session.leader.started}"
    found = children_of([leader.pid]) if is_alive(leader) else []
    found += marked(MARK).get(mark, [])
    return [one for one in (*dict.fromkeys(found), leader, session.xorg) if is_alive(one)]


async def kill_session(session: RdpSession) -> int:
    """End them all; how many there were."""
    left = await asyncio.to_thread(left_of, session)
    await end_processes(left, PATIENCE)
    return len(left)
