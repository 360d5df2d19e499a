"""Makes a sample of each event type of RDP servers that has none yet.

`python -m tests.vectors.make_rdp_events`. What samples are is in samples.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from schemas.canonical import Strict
from schemas.envelope import Event
from schemas.rdp_config import DesiredServer, Devices, Limits, ServerConfig, XrdpConfigEvent
from schemas.rdp_ports import PortChanged, PortEvent
from schemas.rdp_processes import ProcessChanged, ProcessRef, ServerPids, XrdpProcessEvent
from schemas.rdp_servers import (
    ServerChanged,
    ServerCommandDone,
    ServerCommandRefused,
    ServerEvent,
)
from tests.vectors.samples import write_new

FOLDER = Path(__file__).parent / "rdp_events"
SERVER = "01a20c5b-f2fa-7557-ac1e-5c3397094c1e"
WHEN = datetime(2026, 11, 25, 23, 0, 0, 123456, tzinfo=UTC)
CONFIG = ServerConfig(
    width=1280, height=800, colour_depth=32, security="maximum",
    devices=Devices(clipboard=True), limits=Limits(cpu=0.5, memory_mb=512, disk_gb=1),
    max_sessions=4, log_level="debug",
)  # fmt: skip
SAMPLES: list[tuple[type[Event], Strict]] = [
    (ServerEvent, ServerChanged(
        server=SERVER, version=5, state="failed", name="support-desk", owner="Ada Ångström",
        host="desk7", port=None, config=CONFIG, config_version=2,
        created=1_795_000_000_000_000, code="PortInUse", reason="port 13389 is occupied",
    )),
    (ServerEvent, ServerCommandDone(action="create", server=SERVER, state="running", port=13390)),
    (ServerEvent, ServerCommandRefused(
        action="block_port", server=None, port=13391, code="PortAllocated",
        reason="port 13391 belongs to a server",
    )),
    (PortEvent, PortChanged(
        port=13390, host="desk7", state="reserved", server=SERVER,
        until=1_795_000_003_600_000, reason="given back",
    )),
    (XrdpConfigEvent, DesiredServer(
        server=SERVER, name="support-desk", host="desk7", version=3, desired="running",
        restarts=1, port=13390, config=CONFIG,
    )),
    (XrdpProcessEvent, ProcessChanged(
        server=SERVER, host="desk7", seq=1_795_000_000_500_000, version=3, restarts=1,
        state="running", port=13390, attempt=1, folder="/var/lib/lucid/xrdp/" + SERVER,
        pids=ServerPids(
            xrdp=ProcessRef(pid=4711, started=123_456), sesman=ProcessRef(pid=4710, started=123_450)
        ),
    )),
]  # fmt: skip


def sample(kind: type[Event], data: Strict) -> Event:
    """An event with this data."""
    return kind(
        data, "lucid/rdp-server-manager/desk7", str(kind.subject_of(data)),
        id="8b1f0c9e-0f57-4a52-8d50-0a9d5d1c9a12", time=WHEN,
    )  # fmt: skip


def main() -> None:
    """Write what is not there."""
    write_new(FOLDER, (sample(kind, data) for kind, data in SAMPLES))


if __name__ == "__main__":
    main()
