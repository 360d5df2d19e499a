"""Processes of this machine, found again by what the kernel says of them (Linux, /proc).

A pid alone may be another process by now; with its start in clock ticks since boot it is one
process and no other. Who starts processes marks them by a variable in their environment, so
that what was left over is found although its parents are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from agents.platform.retry import Deadline
from schemas.rdp_processes import ProcessRef

PROC = Path("/proc")
POLL_SECONDS = 0.02
DEAD = (b"Z", b"X")
"""States of a process that has ended."""


def stat_fields(pid: int, proc: Path = PROC) -> list[bytes] | None:
    """The fields of /proc/PID/stat behind the program's name: state, parent, … (proc(5))."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return None
    # A program's name may hold spaces and parentheses: the last one ends it.
    return data.rpartition(b")")[2].split()


def process_ref(pid: int) -> ProcessRef | None:
    """The process that has this pid now; None if there is none, or a zombie only."""
    fields = stat_fields(pid)
    if fields is None or fields[0] in DEAD:
        return None
    return ProcessRef(pid=pid, started=int(fields[19]))


def is_alive(process: ProcessRef | None) -> bool:
    """Whether exactly this process still runs."""
    return process is not None and process_ref(process.pid) == process


def parent_of(pid: int) -> int:
    """The pid of a process' parent; 0 if there is no such process."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def children_of(parents: Iterable[int]) -> list[ProcessRef]:
    """All processes below some others, themselves not included."""
    above = {pid: parent_of(pid) for pid in _pids()}
    wanted, found = set(parents), set[int]()
    grown = True
    while grown:
        new = {pid for pid, parent in above.items() if parent in wanted | found} - found - wanted
        found |= new
        grown = bool(new)
    return [ref for pid in sorted(found) if (ref := process_ref(pid)) is not None]


def marked(variable: str) -> dict[str, list[ProcessRef]]:
    """All processes whose environment had this variable when they began, by its value."""
    found: dict[str, list[ProcessRef]] = {}
    prefix = f"{variable}=".encode()
    for pid in _pids():
        with contextlib.suppress(OSError):
            for entry in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                if entry.startswith(prefix) and (ref := process_ref(pid)) is not None:
                    found.setdefault(os.fsdecode(entry[len(prefix) :]), []).append(ref)
    return found


def command_of(process: ProcessRef) -> list[str]:
    """The command line of a process; empty if it is gone."""
    with contextlib.suppress(OSError):
        words = (PROC / str(process.pid) / "cmdline").read_bytes().split(b"\0")
        return [os.fsdecode(word) for word in words if word]
    return []


async def end_processes(processes: Iterable[ProcessRef], patience: float) -> int:
    """SIGTERM, up to `patience` seconds, SIGKILL; returns how many had to be killed.

    Returns when none of them runs any more, or two seconds after SIGKILL.
    """
    left = [one for one in processes if is_alive(one)]
    _signal(left, signal.SIGTERM)
    left = await _gone(left, Deadline(patience))
    killed = len(left)
    _signal(left, signal.SIGKILL)
    await _gone(left, Deadline(2.0))
    return killed


async def _gone(processes: list[ProcessRef], deadline: Deadline) -> list[ProcessRef]:
    """Those that still run when the time is over."""
    left = [one for one in processes if is_alive(one)]
    while left and not deadline.expired:
        await asyncio.sleep(POLL_SECONDS)
        left = [one for one in left if is_alive(one)]
    return left


def _signal(processes: Iterable[ProcessRef], number: signal.Signals) -> None:
    for one in processes:
        # A pid descriptor stays with its process: nobody else is hit in between.
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(one.pid)
            try:
                if is_alive(one):
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]
