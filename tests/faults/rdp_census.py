"""What a scene with real desktops may leave behind: counted before it and after it."""

from __future__ import annotations

import re
from pathlib import Path

from agents.platform.ports import is_free
from agents.platform.process_table import marked
from tests.faults.rdp_judge import Census
from tests.rdp.people import Account

FIRST, LAST, DISPLAY = 13700, 13780, 3000
STAY = {"lock", "rdp-monitor.lock", "connections.json", "servers.json"}
"""What one service has once, whatever happened. A lock's file stays: nobody else makes it anew."""


def census(home: Path, accounts: list[str]) -> Census:
    """What there is of a scene outside of its records: ports, processes, files, accounts."""
    ports = [*range(FIRST, LAST + 1), *range(FIRST + 10_000, LAST + 10_001)]
    displays = range(DISPLAY, DISPLAY + 20 * (LAST - FIRST + 1))
    files = [*Path("/tmp").glob(".X*-lock"), *Path("/tmp/.X11-unix").glob("X*"),
             *Path("/run/xrdp/sockdir").glob("*")]  # fmt: skip
    numbers = {str(one) for one in displays}
    mine = [one for one in files if numbers & set(re.findall(r"[0-9]+", one.name))]
    for folder in ("xrdp", "rdp/sessions", "spool", "run"):
        mine += [one for one in (home / folder).glob("*") if one.name not in STAY]
    mine += home.rglob(".tmp-*")
    return {
        "port": [str(port) for port in ports if not is_free(port)],
        "process": [str(one) for one in marked("LUCID_HOME").get(str(home), [])],
        "desktop": [str(one) for name in accounts for one in Account(name, "").processes()],
        "file": sorted(str(path) for path in mine),
        "account": [line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()
                    if line.split(":")[0] in accounts],
        "home": [name for name in accounts if Path("/home", name).exists()],
    }  # fmt: skip
