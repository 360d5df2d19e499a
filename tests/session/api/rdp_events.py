"""Events of an RDP server as its rooms send them, for the API's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.envelope import Event
from schemas.rdp_config import ServerConfig
from schemas.rdp_metrics import (
    AlertEvent,
    AlertRaised,
    MeasuredLimits,
    MetricsEvent,
    ServerMetrics,
    SessionUsage,
    Usage,
    alert_event,
    resolved,
)
from schemas.rdp_ports import PortChanged, PortEvent
from schemas.rdp_processes import ProcessChanged, ProcessRef, ServerPids, XrdpProcessEvent
from schemas.rdp_servers import ServerChanged, ServerCommandDone, ServerEvent
from schemas.rdp_session_events import (
    RdpConnectionChanged,
    RdpNoticeAnswered,
    RdpRecordingChanged,
    RdpSessionChanged,
    RdpSessionEvent,
)

SERVER = "01a20c5b-f2fa-7557-ac1e-5c3397094c01"
DESKTOP = "01a20c5b-f2fa-7557-ac1e-5c3397094c11"
CLIENT = "01a20c5b-f2fa-7557-ac1e-5c3397094c21"
RECORDING = "01a20c5b-f2fa-7557-ac1e-5c3397094c31"
HOST = "desk7"
WHEN = datetime(2026, 11, 25, 20, 0, tzinfo=UTC)
AT = round(WHEN.timestamp() * 1_000_000)


def server(version: int = 1, state: Any = "running", owner: str = "ada", name: str = SERVER,
           port: int | None = 13389) -> ServerEvent:  # fmt: skip
    data = ServerChanged(
        server=name, version=version, state=state, name="support", owner=owner, host=HOST,
        port=port, config=ServerConfig(), config_version=1, created=AT, code="", reason="",
    )  # fmt: skip
    return ServerEvent(data, "lucid/rdp-server-manager/h", name, time=WHEN)


def answered() -> ServerEvent:
    data = ServerCommandDone(action="create", server=SERVER, state="running", port=13389)
    return ServerEvent(data, "lucid/rdp-server-manager/h", SERVER, time=WHEN)


def processes(seq: int = 1, state: Any = "running", name: str = SERVER) -> XrdpProcessEvent:
    data = ProcessChanged(
        server=name, host=HOST, seq=seq, version=1, restarts=0, state=state, port=13389,
        pids=ServerPids(xrdp=ProcessRef(pid=7, started=70)), attempt=1,
    )  # fmt: skip
    return XrdpProcessEvent(data, "lucid/xrdp/h", name, time=WHEN)


def port(
    number: int = 13389, state: Any = "allocated", name: str | None = SERVER, until: int = 0
) -> PortEvent:
    data = PortChanged(
        port=number, host=HOST, state=state, server=name, until=until, reason="created"
    )  # fmt: skip
    return PortEvent(data, "lucid/rdp-server-manager/h", str(number), time=WHEN)


def desktop(seq: int = 0, state: Any = "active", name: str = DESKTOP, of: str = SERVER,
            changed: int = AT) -> RdpSessionEvent:  # fmt: skip
    data = RdpSessionChanged(
        session=name, seq=seq, server=of, host=HOST, user="ada", uid=1000, display=":10",
        leader=ProcessRef(pid=8, started=80), xorg=ProcessRef(pid=9, started=90), state=state,
        recording=RECORDING, recordings=[RECORDING], created=AT, changed=changed,
    )  # fmt: skip
    return RdpSessionEvent(data, "lucid/rdp-controller/h", name, time=WHEN)


def client(seq: int = 0, state: Any = "connected", of: str | None = DESKTOP,
           name: str = CLIENT) -> RdpSessionEvent:  # fmt: skip
    data = RdpConnectionChanged(
        connection=name, seq=seq, server=SERVER, host=HOST, address="192.0.2.7:5",
        process=ProcessRef(pid=6, started=60), session=of, state=state, created=AT, changed=AT,
    )  # fmt: skip
    return RdpSessionEvent(data, "lucid/rdp-controller/h", of or name, time=WHEN)


def notice() -> RdpSessionEvent:
    data = RdpNoticeAnswered(session=DESKTOP, user="ada", answer="accepted")
    return RdpSessionEvent(data, "lucid/rdp-controller/h", DESKTOP, time=WHEN)


def recording(what: Any = "started") -> RdpSessionEvent:
    data = RdpRecordingChanged(
        session=DESKTOP, recording=RECORDING, what=what, required=True, reason="opened"
    )  # fmt: skip
    return RdpSessionEvent(data, "lucid/rdp-controller/h", DESKTOP, time=WHEN)


def metrics(minutes: float = 0, cpu: float = 0.5, name: str = SERVER) -> MetricsEvent:
    usage = Usage(
        cpu=cpu, memory=5, disk=None, processes=3, threads=4, connections=1, received=None,
        sent=None, packets_received=None, packets_sent=None,
    )  # fmt: skip
    data = ServerMetrics(
        server=name, host=HOST, seconds=30.0, limits=MeasuredLimits(cpu=2.0, memory=9, disk=9),
        usage=usage, sessions=[SessionUsage(session=DESKTOP, usage=usage)], partial=False,
        vanished=0,
    )  # fmt: skip
    return MetricsEvent(
        data, "lucid/rdp-monitor/h", name, time=WHEN + timedelta(minutes=minutes)
    )  # fmt: skip


def alert(number: int = 1, name: str = SERVER) -> AlertRaised:
    return AlertRaised(
        id=f"0f4f7f36-51a5-5c2e-8a51-{number:012x}", server=name, session=None, host=HOST,
        metric="cpu", severity="warning", percent=91.5, over=80.0, since=AT,
    )  # fmt: skip


def raised(number: int = 1, name: str = SERVER) -> AlertEvent:
    return alert_event(alert(number, name), "lucid/rdp-monitor/h")


def over(number: int = 1, name: str = SERVER) -> AlertEvent:
    return alert_event(resolved(alert(number, name), "below", 10.0), "lucid/rdp-monitor/h")


EVENTS: list[tuple[str, Event]] = [
    ("rdp.server.events", server()), ("rdp.server.events", answered()),
    ("rdp.port.events", port()), ("xrdp.process.events", processes()),
    ("rdp.session.events", desktop()), ("rdp.session.events", client()),
    ("rdp.session.events", notice()), ("rdp.session.events", recording()),
    ("rdp.metrics", metrics()), ("rdp.alerts", raised()),
]  # fmt: skip
"""A server on which something goes on."""
