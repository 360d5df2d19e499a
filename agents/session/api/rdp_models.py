"""What the API answers about RDP servers, for its OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.rdp_config import ServerConfig
from schemas.rdp_metrics import (
    MeasuredLimits,
    Metric,
    Resolution,
    SessionUsage,
    Severity,
    Usage,
)
from schemas.rdp_sessions import ConnectionState, RdpState
from schemas.rdp_states import PortState, ProcessState, ServerState

SERVER = "01a20c5b-f2fa-7557-ac1e-5c3397094c1e"
DESKTOP = "01a20c5b-f2fa-7557-ac1e-5c3397094c1f"
RECORDING = "01a20c5b-f2fa-7557-ac1e-5c3397094c1d"
AT = 1795000000000000
_ITEM: dict[str, Any] = {
    "server": SERVER, "name": "support-desk", "owner": "ada", "host": "desk7",
    "state": "running", "port": 13389, "config": ServerConfig().model_dump(mode="json"),
    "config_version": 1, "revision": 4, "created": AT, "changed": AT + 2_400_000, "code": "",
    "reason": "",
}  # fmt: skip
_DESKTOP: dict[str, Any] = {
    "session": DESKTOP, "server": SERVER, "host": "desk7", "user": "ada", "display": ":10",
    "state": "active", "reason": "", "recording": RECORDING, "recordings": [RECORDING],
    "created": AT, "changed": AT,
}  # fmt: skip
_CONNECTION: dict[str, Any] = {
    "connection": "01a20c5b-f2fa-7557-ac1e-5c3397094c20", "server": SERVER, "host": "desk7",
    "session": DESKTOP, "address": "192.0.2.7:50123", "state": "connected", "reason": "",
    "created": AT, "changed": AT,
}  # fmt: skip
_PORT: dict[str, Any] = {
    "host": "desk7", "port": 13389, "state": "allocated", "server": SERVER, "until": None,
    "reason": "created", "changed": AT,
}  # fmt: skip
_USAGE: dict[str, Any] = {
    "cpu": 0.41, "memory": 402653184, "disk": 73400320, "processes": 14, "threads": 31,
    "connections": 1, "received": 81234, "sent": 4800000, "packets_received": 911,
    "packets_sent": 3600,
}  # fmt: skip
_SAMPLE: dict[str, Any] = {
    "time": AT, "seconds": 30.0, "usage": _USAGE,
    "sessions": [{"session": DESKTOP, "usage": _USAGE}], "partial": False, "vanished": 0,
}  # fmt: skip
_ALERT: dict[str, Any] = {
    "id": "0f4f7f36-51a5-5c2e-8a51-2f1a6d8e2a11", "server": SERVER, "session": DESKTOP,
    "host": "desk7", "metric": "cpu", "severity": "warning", "percent": 91.5, "over": 80.0,
    "since": AT, "raised": AT + 60_000_000, "resolved": None, "resolution": None,
}  # fmt: skip


def _example(value: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class RdpServerItem(BaseModel):
    """An RDP server. port: null while it has none. code, reason: why it failed."""

    model_config = _example(_ITEM)

    server: str
    name: str
    owner: str
    host: str
    state: ServerState
    port: int | None
    config: ServerConfig
    config_version: int
    revision: int = Field(description="One higher with each change")
    created: int
    changed: int
    code: str
    reason: str


class RdpServerList(BaseModel):
    """A page of RDP servers, the newest first. next: the cursor of the next page."""

    model_config = _example({"servers": [_ITEM], "next": None})

    servers: list[RdpServerItem]
    next: str | None


class RdpProcesses(BaseModel):
    """What the server's host last said of its xrdp and sesman. attempt: starts in a row."""

    state: ProcessState
    config_version: int
    pids: dict[str, Any]
    attempt: int
    code: str
    reason: str
    changed: int


class RdpServerDetail(RdpServerItem):
    """An RDP server and its processes; null while nothing was heard of them."""

    model_config = _example({**_ITEM, "processes": {
        "state": "running", "config_version": 1, "attempt": 1, "code": "", "reason": "",
        "changed": AT, "pids": {"xrdp": {"pid": 4711, "started": 123456},
                                "sesman": {"pid": 4710, "started": 123450}}}})  # fmt: skip

    processes: RdpProcesses | None


class RdpSessionItem(BaseModel):
    """A desktop session. recording: the session of this API that records it now."""

    model_config = _example(_DESKTOP)

    session: str
    server: str
    host: str
    user: str
    display: str
    state: RdpState
    reason: str
    recording: str | None
    recordings: list[str] = Field(description="All that have recorded it, the first one first")
    created: int
    changed: int


class RdpSessionList(BaseModel):
    """The sessions of a server that run, and the newest that are over, the newest first."""

    model_config = _example({"sessions": [_DESKTOP]})

    sessions: list[RdpSessionItem]


class RdpRecorded(BaseModel):
    """The last news of a desktop's recording."""

    what: Literal["started", "stopped", "missing", "lost"]
    recording: str | None
    required: bool
    code: str
    reason: str
    time: int


class RdpSessionDetail(RdpSessionItem):
    """A desktop session, with what its user answered to the notice of the recording."""

    model_config = _example({**_DESKTOP, "notice": "accepted", "recorded": {
        "what": "started", "recording": RECORDING, "required": True, "code": "", "reason": "",
        "time": AT}})  # fmt: skip

    notice: Literal["accepted", "declined", "unshown"] | None
    recorded: RdpRecorded | None


class RdpConnectionItem(BaseModel):
    """A client's connection. session: null until it has logged on."""

    model_config = _example(_CONNECTION)

    connection: str
    server: str
    host: str
    session: str | None
    address: str
    state: ConnectionState
    reason: str
    created: int
    changed: int


class RdpConnectionList(BaseModel):
    """The connections of a server that are there, and the newest that are over."""

    model_config = _example({"connections": [_CONNECTION]})

    connections: list[RdpConnectionItem]


class RdpPortItem(BaseModel):
    """A port of a host. until: when its reservation ends, null unless it is reserved."""

    model_config = _example(_PORT)

    host: str
    port: int
    state: PortState
    server: str | None
    until: int | None
    reason: str
    changed: int


class RdpPortList(BaseModel):
    """Every port that was ever anything but available, by host and number."""

    model_config = _example({"ports": [_PORT]})

    ports: list[RdpPortItem]


class RdpSample(BaseModel):
    """A sample of a server and its sessions; docs/rdp-monitor.md says what is measured."""

    model_config = _example(_SAMPLE)

    time: int
    seconds: float | None = Field(description="The interval that it is about")
    usage: Usage
    sessions: list[SessionUsage]
    partial: bool = Field(description="Something could not be read: figures may be higher")
    vanished: int = Field(description="Processes that ended while they were looked at")


class RdpMetrics(BaseModel):
    """A server's samples, the oldest first. limits: null while they are not known."""

    model_config = _example({
        "server": SERVER, "limits": MeasuredLimits(
            cpu=2.0, memory=2147483648, disk=10737418240).model_dump(),
        "newest": _SAMPLE, "samples": [_SAMPLE]})  # fmt: skip

    server: str
    limits: MeasuredLimits | None
    newest: RdpSample | None
    samples: list[RdpSample]


class RdpAlertItem(BaseModel):
    """An alert. session: null when it is about the server as a whole.

    percent, over: of the server's limit, when it was raised. since: when it was first seen
    over; raised, resolved: when that was told.
    """

    model_config = _example(_ALERT)

    id: str
    server: str
    session: str | None
    host: str
    metric: Metric
    severity: Severity
    percent: float
    over: float
    since: int
    raised: int
    resolved: int | None
    resolution: Resolution | None


class RdpAlertList(BaseModel):
    """Alerts, the newest first."""

    model_config = _example({"alerts": [_ALERT]})

    alerts: list[RdpAlertItem]
