"""Makes a sample of each event of desktop sessions that has none yet.

`python -m tests.vectors.make_rdp_session_events`. What samples are is in samples.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.canonical import Strict
from schemas.rdp_processes import ProcessRef
from schemas.rdp_session_events import (
    RDP_SESSION_TYPES,
    RdpSessionEvent,
    rdp_session_subject,
)
from tests.vectors.samples import write_new

FOLDER = Path(__file__).parent / "rdp_session_events"
SESSION = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
SERVER = "01a20c5b-0000-7557-ac1e-5c3397094c1d"
RECORDING = "01a20c5c-1111-7557-ac1e-5c3397094c1d"
WHEN = datetime(2026, 11, 25, 20, 0, 0, 123456, tzinfo=UTC)
VALUES: dict[str, Any] = {
    "session": SESSION, "connection": "01a20c5a-2222-7557-ac1e-5c3397094c1d", "seq": 3,
    "server": SERVER, "host": "desk7", "user": "ada", "uid": 1001, "display": ":120",
    "leader": ProcessRef(pid=4711, started=8150), "xorg": ProcessRef(pid=4712, started=8151),
    "process": ProcessRef(pid=4700, started=8100), "address": "192.0.2.7:50123",
    "reason": "no input for 30 min", "recording": RECORDING, "recordings": [RECORDING],
    "created": 1_795_000_000_000_000, "changed": 1_795_000_060_000_000, "required": True,
    "code": "RecorderSilent", "answer": "accepted", "pid": 4711, "times": 2,
    "action": "suspend",
}  # fmt: skip
STATES = {
    "lucid.rdp.session.changed.v1": "idle", "lucid.rdp.connection.changed.v1": "connected",
    "lucid.rdp.session_command.done.v1": "suspended",
}  # fmt: skip


def sample(name: str, model: type[Strict]) -> RdpSessionEvent:
    """An event with data of this type."""
    values = {**VALUES, "state": STATES.get(name), "what": "lost"}
    data = model.model_validate({field: values[field] for field in model.model_fields})
    return RdpSessionEvent(
        data, "lucid/rdp-controller/desk7", rdp_session_subject(data),
        id="8b1f0c9e-0f57-4a52-8d50-0a9d5d1c9a11", time=WHEN, correlation="c-1",
    )  # fmt: skip


def main() -> None:
    """Write what is not there."""
    write_new(FOLDER, (sample(name, model) for name, model in RDP_SESSION_TYPES.items()))


if __name__ == "__main__":
    main()
