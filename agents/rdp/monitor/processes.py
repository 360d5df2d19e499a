"""The processes of this host in one pass, and the trees in it.

    table = read_table()
    members = tree(table, roots)        by (pid, start), so that a reused pid is never followed

One read of /proc/PID/stat has all that a tree needs of a process: its parent, its times, and
its start in clock ticks since boot, by which `xrdp.process.events` names processes, too.
psutil's own walk costs four times as much (docs/rdp-monitor.md) and tells starts in seconds
that move with the clock.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from agents.platform.process_table import DEAD, PROC, stat_fields

TICKS = os.sysconf("SC_CLK_TCK")
"""Clock ticks in a second."""
PAGE = os.sysconf("SC_PAGE_SIZE")
ENVIRON_BYTES = 128 * 1024


class Ref(NamedTuple):
    """A process that no other one can be taken for. started: clock ticks since boot."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says. own: user and system ticks; reaped: those of its dead children.

    dead: it has ended, and its parent has not taken note yet: its ticks are all that is left.
    """

    ref: Ref
    parent: int
    own: int
    reaped: int
    threads: int
    rss: int
    dead: bool = False


def read_stat(pid: int, proc: Path = PROC) -> Stat | None:
    """What the kernel says of a process; None when there is none, or when it ends meanwhile."""
    fields = stat_fields(pid, proc)
    if fields is None:
        return None
    try:
        return Stat(
            Ref(pid, int(fields[19])), int(fields[1]), int(fields[11]) + int(fields[12]),
            int(fields[13]) + int(fields[14]), int(fields[17]), int(fields[21]) * PAGE,
            fields[0] in DEAD,
        )  # fmt: skip
    except (ValueError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class Table:
    """All processes at about one time. at: seconds of the monotonic clock."""

    by_pid: Mapping[int, Stat]
    children: Mapping[int, list[int]] = field(repr=False)
    at: float

    def get(self, ref: Ref) -> Stat | None:
        """The process, if it is still the same one."""
        found = self.by_pid.get(ref.pid)
        return found if found is not None and found.ref == ref else None


def make_table(stats: Iterable[Stat], at: float) -> Table:
    """A table of these processes."""
    by_pid = {stat.ref.pid: stat for stat in stats}
    children: dict[int, list[int]] = defaultdict(list)
    for stat in by_pid.values():
        children[stat.parent].append(stat.ref.pid)
    return Table(by_pid, children, at)


def read_table(at: float, proc: Path = PROC) -> Table:
    """All processes of this host; one that ends meanwhile is left out."""
    pids = [int(name) for name in os.listdir(proc) if name.isdigit()]
    found = (read_stat(pid, proc) for pid in pids)
    return make_table((stat for stat in found if stat is not None), at)


def tree(table: Table, roots: Iterable[Ref]) -> dict[Ref, Stat]:
    """The roots that are still there, and all that descends from them."""
    found: dict[Ref, Stat] = {}
    waiting = [stat for ref in roots if (stat := table.get(ref)) is not None]
    while waiting:
        stat = waiting.pop()
        if stat.ref in found:
            continue
        found[stat.ref] = stat
        # A child is younger than its parent; an older one belongs to an earlier pid's holder.
        waiting += [
            child for pid in table.children.get(stat.ref.pid, ())
            if (child := table.by_pid[pid]).ref.started >= stat.ref.started
        ]  # fmt: skip
    return found


def ticks_used(before: Mapping[Ref, Stat], known: Table, after: Mapping[Ref, Stat]) -> int:
    """Clock ticks that a tree has used since it was looked at before.

    before: its members then; known: all processes then. Two counts are both too low at most,
    so the higher one is taken: what the living have used, and that with what they have reaped,
    which has the dead in it as long as their parents are of the tree.
    """
    joined = [stat for ref in after if ref not in before and (stat := known.get(ref)) is not None]
    base = {**before, **{stat.ref: stat for stat in joined}}
    living = sum(stat.own - (base[ref].own if ref in base else 0) for ref, stat in after.items())
    whole = sum(stat.own + stat.reaped for stat in after.values())
    reaped = whole - sum(stat.own + stat.reaped for stat in base.values())
    return max(living, reaped, 0)


def memory_of(stat: Stat, proc: Path = PROC) -> tuple[int, bool] | None:
    """Bytes of a process, shared pages divided (PSS), and whether that could be read.

    None when the process is gone, or its pid belongs to another one now. Resident memory
    stands for it where the kernel does not tell; it counts shared pages whole.
    """
    try:
        found = (psutil.Process(stat.ref.pid).memory_full_info().pss, True)
    except psutil.AccessDenied:
        found = (stat.rss, False)
    except (psutil.Error, OSError):
        return None
    now = read_stat(stat.ref.pid, proc)
    return found if now is not None and now.ref == stat.ref else None


def owner_of(ref: Ref, proc: Path = PROC) -> int | None:
    """The number of a process' user; None when it is gone."""
    try:
        return os.stat(f"{proc}/{ref.pid}").st_uid
    except OSError:
        return None


def belongs_to_display(ref: Ref, display: str, proc: Path = PROC) -> bool:
    """Whether a process was started on this display, such as `:10`."""
    try:
        with open(f"{proc}/{ref.pid}/environ", "rb") as file:
            environ = file.read(ENVIRON_BYTES).split(b"\0")
    except OSError:
        return False
    return any(
        line.startswith(b"DISPLAY=") and _display(line[8:].decode("utf-8", "replace")) == display
        for line in environ
    )


def _display(text: str) -> str:
    """`:10` of `:10`, `:10.0` and `unix:10`."""
    host, colon, rest = text.rpartition(":")
    number = rest.partition(".")[0]
    return f":{number}" if colon and host in ("", "unix", "localhost") else text
