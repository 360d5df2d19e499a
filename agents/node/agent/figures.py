"""What the machine is and how it goes, by psutil."""

from __future__ import annotations

from pathlib import Path

import psutil

from schemas.node_heartbeats import Figures
from schemas.node_registration import Hardware


def hardware(home: Path) -> Hardware:
    """Processors, memory, and the size of the disk that `home` is on."""
    return Hardware(
        cpus=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        disk_bytes=psutil.disk_usage(str(_there(home))).total,
    )


def look(home: Path, sessions: Path) -> Figures:
    """The machine now; its processors since the last look."""
    network = psutil.net_io_counters()
    return Figures(
        cpu=_permille(psutil.cpu_percent()),
        memory=_permille(psutil.virtual_memory().percent),
        disk=_permille(psutil.disk_usage(str(_there(home))).percent),
        sent_bytes=network.bytes_sent if network else 0,
        received_bytes=network.bytes_recv if network else 0,
        processes=len(psutil.pids()),
        sessions=sum(one.is_dir() for one in sessions.iterdir()) if sessions.is_dir() else 0,
    )


def _permille(percent: float) -> int:
    return min(1000, max(0, round(percent * 10)))


def _there(path: Path) -> Path:
    """The nearest folder of a path that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
