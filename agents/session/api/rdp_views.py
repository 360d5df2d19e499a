"""The views of RDP servers, which the API reads; docs/formats/views.md.

    rdp_server_states  {_id: server, …ServerChanged}         the newest version
    rdp_processes      {_id: server, …ProcessChanged}        by its seq
    rdp_roster         {_id: ROSTER, servers: {id: …}}       all that are not deleted, in one
    rdp_port_states    {_id: host, ports: {port: …}}         every port that was ever taken
    rdp_sessions       {_id: session, …RdpSession, notice, recorded}
    rdp_desktops       {_id: server, desktops: {sessions: {id: …}, connections: {id: …}}}
    rdp_metrics        {_id: server, …ServerMetrics}         the newest sample
    rdp_history        {_id: "<server>/<slot>", samples: […]}    SLOTS slots of SLOT_MINUTES
    rdp_alerts         {_id: server, alerts: {open: {id: …}, recent: […]}}

The server manager's own collections are others: it claims names and ports by them.
Each entry has its event's time as `time`, microseconds. What a list shows is in a document or
a few, found by their `_id`: nothing here expires, so that a list which reads every server that
ever was gets slower for ever. Histories are rings, lists keep what runs and the newest of what
is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.platform.catalog import Document
from agents.platform.folding import Folding
from agents.platform.projections import Record
from schemas.canonical import Strict
from schemas.rdp_metrics import AlertEvent, AlertRaised, AlertResolved, MetricsEvent, ServerMetrics
from schemas.rdp_ports import PortEvent
from schemas.rdp_processes import XrdpProcessEvent
from schemas.rdp_servers import ServerChanged, ServerEvent
from schemas.rdp_session_events import RdpNoticeAnswered, RdpRecordingChanged, RdpSessionEvent
from schemas.rdp_sessions import Connection, RdpSession

SLOT_MINUTES = 10
SLOTS = 24
"""Four hours of samples of each server."""
MOST_SAMPLES = 120
"""Of a slot; at the default pace it has 20."""
SLOT_US = SLOT_MINUTES * 60 * 1_000_000
MOST_OVER = 200
"""Sessions, and connections, of a server that are over and still listed; deleted servers."""
ROSTER = "servers"
MOST_RECENT = 100
"""Alerts of a server that are over and still listed."""
RUNS = frozenset({"creating", "active", "idle", "suspended", "connecting", "connected"})


def slot_key(server: str, time: int) -> str:
    """The `_id` of the slot that has a time, microseconds since 1970."""
    return f"{server}/{time // SLOT_US % SLOTS}"


def _fields(data: Strict, time: int) -> dict[str, Any]:
    return {**data.model_dump(mode="json"), "time": time}


class Servers(Folding[ServerEvent]):
    """Each server as its newest version has it."""

    name = "rdp_server_states"
    topic = "rdp.server.events"
    kind = ServerEvent

    def subject(self, event: ServerEvent, record: Record) -> str | None:
        return event.data.server if isinstance(event.data, ServerChanged) else None

    def apply(self, document: Document, event: ServerEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, ServerChanged)
        if data.version <= document.get("revision", 0):
            return document
        fields = _fields(data, event.micros)
        # `version` counts the writes of the view's document.
        return {**document, **fields, "revision": fields.pop("version")}


class Roster(Folding[ServerEvent]):
    """The servers that a list shows: those that are there, and the newest that were deleted."""

    name = "rdp_roster"
    topic = "rdp.server.events"
    kind = ServerEvent

    def subject(self, event: ServerEvent, record: Record) -> str | None:
        return ROSTER if isinstance(event.data, ServerChanged) else None

    def apply(self, document: Document, event: ServerEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, ServerChanged)
        servers = document.get("servers", {})
        if data.version <= servers.get(data.server, {}).get("revision", 0):
            return document
        fields = _fields(data, event.micros)
        known = {**servers, data.server: {**fields, "revision": fields.pop("version")}}
        over = sorted(
            (one["time"], name) for name, one in known.items() if one["state"] == "deleted"
        )
        gone = {name for _, name in over[: max(0, len(over) - MOST_OVER)]}
        return {**document, "servers": _without(known, *gone)}


class Processes(Folding[XrdpProcessEvent]):
    """What each server's processes were last said to be."""

    name = "rdp_processes"
    topic = "xrdp.process.events"
    kind = XrdpProcessEvent

    def subject(self, event: XrdpProcessEvent, record: Record) -> str | None:
        return event.change.server

    def apply(self, document: Document, event: XrdpProcessEvent, record: Record) -> Document:
        if event.change.seq <= document.get("seq", -1):
            return document
        fields = _fields(event.change, event.micros)
        return {**document, **fields, "config_version": fields.pop("version")}


class Ports(Folding[PortEvent]):
    """Each port of a host that was ever anything but available."""

    name = "rdp_port_states"
    topic = "rdp.port.events"
    kind = PortEvent

    def subject(self, event: PortEvent, record: Record) -> str | None:
        return event.change.host

    def apply(self, document: Document, event: PortEvent, record: Record) -> Document:
        ports = document.get("ports", {})
        entry = _fields(event.change, event.micros)
        return {**document, "ports": {**ports, str(event.change.port): entry}}


class Sessions(Folding[RdpSessionEvent]):
    """Each desktop session: its newest change, the notice's answer, its recording's last news."""

    name = "rdp_sessions"
    topic = "rdp.session.events"
    kind = RdpSessionEvent

    def subject(self, event: RdpSessionEvent, record: Record) -> str | None:
        data = event.data
        if isinstance(data, RdpSession | RdpNoticeAnswered | RdpRecordingChanged):
            return data.session
        return None

    def apply(self, document: Document, event: RdpSessionEvent, record: Record) -> Document:
        data = event.data
        if isinstance(data, RdpNoticeAnswered):
            return {**document, "notice": data.answer}
        if isinstance(data, RdpRecordingChanged):
            return {**document, "recorded": _without(_fields(data, event.micros), "session")}
        assert isinstance(data, RdpSession)
        if data.seq <= document.get("seq", -1):
            return document
        return {**document, **_fields(data, event.micros)}


class Desktops(Folding[RdpSessionEvent]):
    """Of each server what runs, and the newest of what is over."""

    name = "rdp_desktops"
    topic = "rdp.session.events"
    kind = RdpSessionEvent

    def subject(self, event: RdpSessionEvent, record: Record) -> str | None:
        data = event.data
        return data.server if isinstance(data, RdpSession | Connection) else None

    def apply(self, document: Document, event: RdpSessionEvent, record: Record) -> Document:
        data = event.data
        assert isinstance(data, RdpSession | Connection)
        if isinstance(data, RdpSession):
            kind, name = "sessions", data.session
        else:
            kind, name = "connections", data.connection
        desktops = document.get("desktops", {"sessions": {}, "connections": {}})
        before = desktops[kind].get(name)
        if before is not None and data.seq <= before["seq"]:
            return document
        known = {**desktops[kind], name: _fields(data, event.micros)}
        return {**document, "desktops": {**desktops, kind: _newest(known)}}


def _newest(known: Mapping[str, Any]) -> dict[str, Any]:
    """What runs, and MOST_OVER of what is over, the last to change."""
    over = [(one["changed"], name) for name, one in known.items() if one["state"] not in RUNS]
    gone = {name for _, name in sorted(over)[: max(0, len(over) - MOST_OVER)]}
    return {name: one for name, one in known.items() if name not in gone}


class Metrics(Folding[MetricsEvent]):
    """Each server's newest sample."""

    name = "rdp_metrics"
    topic = "rdp.metrics"
    kind = MetricsEvent

    def subject(self, event: MetricsEvent, record: Record) -> str | None:
        return event.subject

    def apply(self, document: Document, event: MetricsEvent, record: Record) -> Document:
        return {**document, **_fields(event.data, event.micros)}


class History(Folding[MetricsEvent]):
    """The samples of the last hours, in a ring of slots; a new turn empties a slot."""

    name = "rdp_history"
    topic = "rdp.metrics"
    kind = MetricsEvent

    def subject(self, event: MetricsEvent, record: Record) -> str | None:
        return slot_key(event.subject, event.micros)

    def apply(self, document: Document, event: MetricsEvent, record: Record) -> Document:
        data, turn = event.data, event.micros // SLOT_US
        assert isinstance(data, ServerMetrics)
        # Another turn is another turn: a clock that was wrong once must not hold the slot.
        samples = document.get("samples", []) if turn == document.get("turn") else []
        sample = _without(_fields(data, event.micros), "server", "host", "limits")
        return {**document, "turn": turn, "samples": [*samples, sample][-MOST_SAMPLES:]}


class Alerts(Folding[AlertEvent]):
    """Of each server the alerts that are raised, and the newest that are over."""

    name = "rdp_alerts"
    topic = "rdp.alerts"
    kind = AlertEvent

    def subject(self, event: AlertEvent, record: Record) -> str | None:
        return event.subject

    def apply(self, document: Document, event: AlertEvent, record: Record) -> Document:
        data = event.data
        alerts = document.get("alerts", {"open": {}, "recent": []})
        over = {one["id"] for one in alerts["recent"]}
        if isinstance(data, AlertRaised):
            if data.id in over or data.id in alerts["open"]:
                return document
            entry = {**_without(_fields(data, event.micros), "time"), "raised": event.micros,
                     "resolved": None, "resolution": None}  # fmt: skip
            opened = {**alerts["open"], data.id: entry}
            return {**document, "alerts": {**alerts, "open": opened}}
        assert isinstance(data, AlertResolved)
        begun = alerts["open"].get(data.id)
        if begun is None:
            return document
        ended = {**begun, "resolved": event.micros, "resolution": data.resolution}
        opened = {name: one for name, one in alerts["open"].items() if name != data.id}
        recent = [*alerts["recent"], ended][-MOST_RECENT:]
        return {**document, "alerts": {"open": opened, "recent": recent}}


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


SERVERS, ROSTER_VIEW, PROCESSES, PORTS = Servers(), Roster(), Processes(), Ports()
SESSIONS, DESKTOPS = Sessions(), Desktops()
METRICS, HISTORY, ALERTS = Metrics(), History(), Alerts()
RDP_VIEWS = (
    SERVERS, ROSTER_VIEW, PROCESSES, PORTS, SESSIONS, DESKTOPS, METRICS, HISTORY, ALERTS,
)  # fmt: skip
