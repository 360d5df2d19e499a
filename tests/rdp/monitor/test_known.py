"""What is to be measured, from events in any order and more than once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rdp.monitor.known import CONFIG, PROCESSES, SESSIONS, Ended, Known
from agents.rdp.monitor.processes import Ref
from agents.rdp.monitor.targets import ServerTarget, SessionTarget
from schemas.envelope import Event
from schemas.errors import FormatError
from schemas.rdp_config import DesiredServer, Limits, ServerConfig, XrdpConfigEvent
from schemas.rdp_metrics import GIB, MIB, MeasuredLimits
from schemas.rdp_processes import ProcessChanged, ProcessRef, ServerPids, XrdpProcessEvent
from schemas.rdp_session_events import (
    RdpConnectionChanged,
    RdpNoticeAnswered,
    RdpSessionChanged,
    RdpSessionEvent,
)

S = "01a20c5b-f2fa-7557-ac1e-5c3397094c01"
R, C = "01a20c5b-f2fa-7557-ac1e-5c3397094c11", "01a20c5b-f2fa-7557-ac1e-5c3397094c21"


@dataclass
class Written:
    """A record of an event."""

    key: bytes | None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    value: bytes | None = None


def written(event: Event) -> Written:
    key, headers, value = event.to_kafka()
    return Written(key, [*headers], value)


def ref(pid: int) -> ProcessRef:
    return ProcessRef(pid=pid, started=pid * 10)


def processes(seq: int, state: Any = "running", pids: tuple[int, ...] = (11, 12),
              host: str = "desk7", folder: str = "/run/s") -> Written:  # fmt: skip
    found = ServerPids(**dict(zip(("xrdp", "sesman"), map(ref, pids), strict=False)))
    data = ProcessChanged(
        server=S, host=host, seq=seq, version=1, restarts=0, state=state, port=13389, pids=found,
        attempt=1, folder=folder,
    )  # fmt: skip
    return written(XrdpProcessEvent(data, "lucid/xrdp/desk7", S))


def config(version: int, cpu: float = 2.0) -> Written:
    data = DesiredServer(
        server=S, name="a", host="desk7", version=version, desired="running", restarts=0,
        port=13389, config=ServerConfig(limits=Limits(cpu=cpu, memory_mb=512, disk_gb=3)),
    )  # fmt: skip
    return written(XrdpConfigEvent(data, "lucid/m/h", S))


def session(seq: int, state: Any = "active", host: str = "desk7") -> Written:
    data = RdpSessionChanged(
        session=R, seq=seq, server=S, host=host, user="ada", uid=1000, display=":10",
        leader=ref(21), xorg=ref(22), state=state, created=1, changed=1,
    )  # fmt: skip
    return written(RdpSessionEvent(data, "lucid/c/h", R))


def connection(seq: int, state: Any = "connected", of: str | None = R) -> Written:
    data = RdpConnectionChanged(
        connection=C, seq=seq, server=S, host="desk7", address="192.0.2.1:5", process=ref(31),
        session=of, state=state, created=1, changed=1,
    )  # fmt: skip
    return written(RdpSessionEvent(data, "lucid/c/h", of or C))


LIMITS = MeasuredLimits(cpu=2.0, memory=512 * MIB, disk=3 * GIB)
ROOTS = (Ref(11, 110), Ref(12, 120))
SERVING = SessionTarget(R, (Ref(21, 210), Ref(22, 220)), (Ref(31, 310),), 1000, ":10")


def known(*records: tuple[str, Written]) -> Known:
    found = Known("desk7")
    for topic, record in records:
        found.take(topic, record)
    return found


def test_a_server_with_its_limits_sessions_and_connections() -> None:
    found = known(
        (PROCESSES, processes(1)), (CONFIG, config(1)), (SESSIONS, session(0)),
        (SESSIONS, connection(0)),
    )  # fmt: skip
    assert found.targets() == [ServerTarget(S, ROOTS, LIMITS, Path("/run/s"), (SERVING,))]


HISTORY = [
    (PROCESSES, processes(1, "starting", ())), (PROCESSES, processes(2)),
    (PROCESSES, processes(3, "stopped", ())), (SESSIONS, session(0, "creating")),
    (SESSIONS, session(1)), (SESSIONS, session(2, "terminated")), (SESSIONS, connection(0)),
    (SESSIONS, connection(1, "disconnected")), (CONFIG, config(1, 1.0)), (CONFIG, config(2)),
]  # fmt: skip


@given(st.permutations(HISTORY * 2))
def test_the_order_of_events_and_copies_of_them_change_nothing(
    records: list[tuple[str, Written]],
) -> None:
    found = known(*records)
    assert found.targets() == []
    found.take(PROCESSES, processes(4))
    assert found.targets() == [ServerTarget(S, ROOTS, LIMITS, Path("/run/s"))]


def test_what_is_of_another_host_is_not_measured() -> None:
    assert known((PROCESSES, processes(1, host="other"))).targets() == []
    found = known((PROCESSES, processes(1)), (SESSIONS, session(0, host="other")))
    assert found.targets()[0].sessions == ()
    found.take(PROCESSES, processes(2, host="other"))
    assert found.targets() == []


def test_of_a_server_without_a_folder_or_limits_the_rest_is_measured() -> None:
    (target,) = known((PROCESSES, processes(1, folder="", pids=(11,)))).targets()
    assert target == ServerTarget(S, ROOTS[:1])


def test_a_connection_that_has_not_logged_on_is_the_servers_alone() -> None:
    found = known(
        (PROCESSES, processes(1)), (SESSIONS, session(0)), (SESSIONS, connection(0, of=None))
    )
    assert found.targets()[0].sessions[0].connections == ()
    found.take(SESSIONS, connection(1))
    assert found.targets()[0].sessions[0].connections == (Ref(31, 310),)


def test_a_tombstone_leaves_nothing() -> None:
    found = known((PROCESSES, processes(5)), (CONFIG, config(9)))
    found.take(CONFIG, Written(S.encode()))
    assert found.targets() == []
    found.take(CONFIG, Written(None))


def test_other_events_say_nothing_and_what_is_none_is_refused() -> None:
    notice = RdpNoticeAnswered(session=R, user="ada", answer="accepted")
    found = known((SESSIONS, written(RdpSessionEvent(notice, "lucid/c/h", R))))
    assert found.targets() == []
    for topic in (PROCESSES, CONFIG, SESSIONS):
        with pytest.raises(FormatError):
            found.take(topic, Written(b"x", [], b"{}"))
    found.take("rdp.metrics", Written(b"x", [], b"{}"))


def test_only_so_many_ended_ids_are_kept() -> None:
    ended = Ended(most=2)
    for name in ("a", "b", "c"):
        ended.add(name)
    assert [name in ended for name in ("a", "b", "c")] == [False, True, True]
